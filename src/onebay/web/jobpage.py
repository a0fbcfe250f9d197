"""The pages of a plan and of a job: what will be done, and how it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebay.base.units import human
from onebay.web.html import Child, Html, join, tag
from onebay.web.jobs import OVER
from onebay.web.view import View, clock, facts, post, text_field

if TYPE_CHECKING:
    from onebay.web.choice import Choice
    from onebay.web.jobs import Job

TICK = 4  # seconds between two loads of a page without script


def state_of(view: View, job: Job) -> Html:
    """Return the state of a job as a word."""
    return tag("strong", view(f"state-{job.state}"), class_=f"state {job.state}")


def bar(view: View, job: Job) -> Html | None:
    """Return the bar of a job that runs."""
    if job.state != "running":
        return None
    share = job.progress.share()
    value = None if share is None else f"{share:.3f}"
    return tag("progress", max=1, value=value, aria_label=view("progress"))


def figures(view: View, job: Job) -> str:
    """Return amount, rate and time left in words."""
    if job.state == "done":
        return ""
    told = job.document()
    parts: list[str] = [told["text"]] if told["text"] and job.state == "running" else []
    if told["total"]:
        parts.append(view("of", done=human(told["done"]), total=human(told["total"])))
        if told["share"] is not None:
            parts.append(f"{told['share']:.0%}")
    if told["rate"]:
        parts.append(view("rate", rate=human(told["rate"])))
    if told["left"] is not None:
        parts.append(view("left", left=clock(told["left"])))
    return ", ".join(parts)


def live(view: View, job: Job) -> dict[str, Any]:
    """Return what a page shows of a job anew while it runs, for its script."""
    share = job.progress.share()
    return {
        "state": job.state,
        "word": view(f"state-{job.state}"),
        "share": 1 if job.state == "done" else share,
        "figures": figures(view, job),
        "log": "\n".join(job.log),
        "over": job.state in OVER,
    }


def command_line(view: View, line: str) -> Html:
    """Return a command as it could be typed."""
    return join(tag("h2", view("command")), tag("pre", tag("code", line), tabindex="0"))


def plan_page(view: View, key: str, choice: Choice, job: Job | None, trouble: str = "") -> str:
    """Return the page of a plan: being made, failed, or with the question."""
    back = tag("p", tag("a", view("back"), href=f"/disk/{choice.disk.key}"))
    title = f"{view('plan')}: {view(choice.verb)} {choice.disk.path.name}"
    if job is not None and job.state in ("waiting", "running"):
        body = tag(
            "section",
            tag("p", view("planning"), role="status"),
            tag("progress", aria_label=view("planning")),
            post(f"/job/{job.key}/cancel", view("cancel"), class_="plain"),
            data_watch=f"/job/{job.key}/events",
            data_reload=True,
        )
        return view.page(title, body, refresh=TICK)
    shown = [command_line(view, choice.run(job.output if job else "").shown())]
    if job is None:
        shown.insert(0, tag("p", view("plan-none")))
    else:
        text = "\n".join([*job.log, job.output.rstrip()]).strip()
        shown.insert(0, tag("pre", text, tabindex="0", class_="plan"))
        if job.state != "done":
            return view.page(title, tag("p", view("plan-failed"), role="alert", class_="bad"), *shown, back)
    return view.page(title, *shown, question(view, key, choice, trouble), back)


def question(view: View, key: str, choice: Choice, trouble: str) -> Html:
    """Return what is asked before anything is done."""
    disk = choice.disk
    body: list[Child] = []
    if choice.writes:
        size = human(disk.size or 0)
        body.append(tag("p", tag("strong", view("confirm-write", name=disk.path.name, size=size))))
        label = view("confirm-word", word=disk.word)
        body.append(text_field("word", label, "word", autocomplete="off", spellcheck="false", required=True))
    if trouble:
        body.insert(0, tag("p", trouble, role="alert", class_="bad"))
    return tag(
        "form",
        *body,
        tag("button", view("confirm"), type="submit", class_="danger" if choice.writes else None),
        method="post",
        action=f"/plan/{key}",
        data_swap=choice.pipe == "upload",
    )


def job_page(view: View, job: Job, choice: Choice | None) -> str:
    """Return the page of a job."""
    share = 1.0 if job.state == "done" else job.progress.share()
    over = job.state in OVER
    # a bar without value tells of work without end; the word beside it says what it is
    meter = tag(
        "progress", max=1, value=None if share is None and not over else f"{share or 0:.3f}",
        aria_labelledby="progress-name", id="bar",
    )  # fmt: skip
    top = tag(
        "section",
        tag("h2", view("progress"), id="progress-name"),
        meter,
        tag("p", state_of(view, job), " ", tag("span", figures(view, job), id="figures"), id="now"),
        tag("p", "", role="status", aria_live="polite", class_="quiet", id="spoken"),
        *controls(view, job, choice),
        data_watch=None if over else f"/job/{job.key}/events",
        data_upload=f"/job/{job.key}/upload" if waits(job, "upload") else None,
    )
    log = tag("section", tag("h2", view("log")), tag("pre", "\n".join(job.log), id="log", tabindex="0"))
    answer = None
    if job.output.strip():
        answer = tag("section", tag("h2", view("answer")), tag("pre", job.output.rstrip(), tabindex="0"))
    told = facts((view("command"), tag("code", job.command.shown())))
    title = f"{view(choice.verb)} {choice.disk.path.name}" if choice else job.command.title
    return view.page(title, top, answer, log, told, refresh=None if over else TICK)


def waits(job: Job, pipe: str) -> bool:
    """Whether a job waits for the browser."""
    return job.state == "waiting" and job.command.pipe == pipe


def controls(view: View, job: Job, choice: Choice | None) -> list[Child]:
    """Return what can be done about a job now."""
    found: list[Child] = []
    if waits(job, "download"):
        found.append(tag("p", tag("a", view("download"), href=f"/job/{job.key}/download", class_="button")))
    if job.state in ("waiting", "running"):
        if not job.command.pipe:
            found.append(tag("p", view("stay")))
        found.append(post(f"/job/{job.key}/cancel", view("cancel"), class_="plain"))
    elif job.state in ("failed", "cancelled") and choice is not None and choice.pipe != "upload":
        found += [tag("p", view("again-what")), post(f"/job/{job.key}/again", view("again"))]
    if choice is not None:
        found.append(tag("p", tag("a", view("back"), href=f"/disk/{choice.disk.key}")))
    return found
