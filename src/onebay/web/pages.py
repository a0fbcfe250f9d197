"""The first page, the login, and what has a page of one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebay.base.units import human
from onebay.web.html import Child, Html, join, tag
from onebay.web.jobpage import bar, state_of
from onebay.web.view import View, facts, post, text_field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.web.disks import Disk, Shelf
    from onebay.web.jobs import Job


def login(view: View, trouble: str = "") -> str:
    """Return the page that asks for the code."""
    field = text_field(
        "code", view("code"), "code", autocomplete="one-time-code", autocapitalize="characters",
        spellcheck="false", required=True, autofocus=True, aria_describedby="code-where",
    )  # fmt: skip
    form = tag(
        "form",
        tag("p", trouble, role="alert", class_="bad") if trouble else None,
        field,
        tag("p", view("code-where"), id="code-where"),
        tag("button", view("login"), type="submit"),
        method="post",
        action="/login",
    )
    return view.page(view("login"), form)


def message(view: View, title: str, text: str, *more: Child) -> str:
    """Return a page that says one thing."""
    return view.page(title, tag("p", text, role="alert"), *more)


def home(
    view: View, shelf: Shelf, disks: Sequence[Disk], jobs: Sequence[Job], others: Mapping[str, Any]
) -> str:
    """Return the first page; `others` is what the other parts of a rescue tell."""
    cards = [card(view, disk) for disk in disks]
    if not cards:
        cards = [tag("p", tag("strong", view("no-disks"))), tag("p", view("no-disks-hint"))]
    told = [tag("li", job_line(view, job)) for job in reversed(jobs)]
    return view.page(
        view("home"),
        machine(view, others),
        tag("section", *cards, post("/look", view("look-again"), class_="plain"), aria_label=view("home")),
        section(view("jobs"), tag("ul", *told) if told else tag("p", view("no-jobs"))),
        images(view, shelf),
        power(view) if view.rescue else None,
    )


def section(title: str, *body: Child) -> Html:
    """Return a part of a page with its heading."""
    return tag("section", tag("h2", title), *body)


def card(view: View, disk: Disk) -> Html:
    """Return a disk of the first page."""
    name = disk.path.name
    return tag(
        "article",
        tag("h2", tag("a", name, href=f"/disk/{disk.key}")),
        disk_facts(view, disk),
        tag("p", view("trouble", why=disk.trouble), class_="bad") if disk.trouble else picture(view, disk),
        tag("p", tag("a", view("open-disk", name=name), href=f"/disk/{disk.key}", class_="button")),
        class_="card",
    )


def picture(view: View, disk: Disk) -> Html:
    """Return the picture of a disk, which is drawn when a browser asks for it."""
    alt = view("picture-of", name=disk.path.name)
    image = tag("img", src=f"/disk/{disk.key}.svg", alt=alt, loading="lazy")
    # a long disk on a narrow screen is scrolled, by keyboard too
    return tag("div", image, class_="wide", tabindex="0", role="group", aria_label=alt)


def disk_facts(view: View, disk: Disk) -> Html:
    """Return size, model and serial number."""
    size = "-" if disk.size is None else f"{human(disk.size)} ({disk.size} bytes)"
    pairs: list[tuple[str, Child]] = [(view("size"), size)]
    if disk.device:
        none = view("none")
        pairs += [(view("model"), disk.model or none), (view("serial"), disk.serial or none)]
    return facts(*pairs)


def job_line(view: View, job: Job) -> Html:
    """Return a job on one line, with a link to it."""
    return join(tag("a", job.command.title, href=f"/job/{job.key}"), " ", state_of(view, job), bar(view, job))


def machine(view: View, others: Mapping[str, Any]) -> Html | None:
    """Return what the other parts of a rescue tell; their files are taken for no more than text."""
    body: list[Child] = []
    network, job = others.get("network", {}), others.get("job", {})
    addresses = [str(line) for key in ("addresses", "notes") for line in listed(network.get(key))]
    if addresses:
        body.append(
            join(tag("h3", view("network")), tag("ul", *(tag("li", line[:300]) for line in addresses[:20])))
        )
    if job:
        keys = ("title", "state", "text", "plan", "error")
        told = [tag("li", str(job[key])[:1000]) for key in keys if job.get(key)]
        body.append(join(tag("h3", view("unattended")), tag("ul", *told)))
    return section(view("machine"), *body) if body else None


def listed(value: object) -> list[object]:
    """Return a list as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def images(view: View, shelf: Shelf) -> Html | None:
    """Return the images that are offered, and the partitions that are open for them."""
    if shelf.images is None and not shelf.media:
        return None
    files = [tag("li", f"{file.path.name} ({human(file.size)})") for file in shelf.files()]
    opened = [
        post(f"/media/{key}/close", view("media-close", name=place.name), class_="plain")
        for key, place in shelf.media.items()
    ]
    listing = tag("ul", *files) if files else tag("p", view("no-images"))
    return section(view("images"), listing, *opened)


def power(view: View) -> Html:
    """Return the buttons of the machine itself."""
    links = [
        tag("a", view(what), href=f"/power/{what}", class_="button danger") for what in ("reboot", "poweroff")
    ]
    return section(view("power"), tag("p", *links))


def power_ask(view: View, what: str) -> str:
    """Return the question before the machine goes down."""
    name = view(what)
    return view.page(
        name,
        tag("p", view("power-ask", what=name)),
        post(f"/power/{what}", view("power-yes"), class_="danger"),
        tag("p", tag("a", view("home"), href="/")),
    )
