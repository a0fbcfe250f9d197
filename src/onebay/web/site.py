"""What the page knows, and what it answers: disks, plans, jobs."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from onebay.base.error import Error, Refused
from onebay.web import diskpage, jobpage, pages, status
from onebay.web.answers import find, form_of, html, see
from onebay.web.choice import PINS, Choice, choose, explain
from onebay.web.gate import source_of
from onebay.web.html import tag
from onebay.web.jobs import Job, Jobs
from onebay.web.texts import LANGUAGES, best
from onebay.web.transfer import feed, head, spill
from onebay.web.view import View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

    from onebay.web.access import Access
    from onebay.web.disks import Disk, Shelf
    from onebay.web.guard import Guard

PENDING = 20  # plans that are remembered
PULSE = 0.5  # seconds between two looks at a job
QUIET = 15.0  # seconds after which a stream of events says that it is alive


@dataclass
class Pending:
    """A plan that waits for its confirmation; `job` makes it, None where there is nothing to plan."""

    choice: Choice
    job: Job | None


@dataclass
class Site:
    """Everything that the page knows; lives as long as the server. For one thread, the event loop."""

    access: Access
    shelf: Shelf
    rescue: bool = False
    folder: Path | None = None  # of status files
    pending: dict[str, Pending] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    unattended: tuple[str, str] = ("None", "None")  # title and state of the job of the settings
    jobs: Jobs = field(init=False)
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = Jobs(single=self.rescue, began=self.drop, ended=self.ended)

    def ended(self, job: Job) -> None:
        """Have the disks of a job looked at anew; called in a thread of the job."""
        if not job.command.rehearsal:
            self.shelf.forget(job.command.disks)
            self.drop(job)

    def drop(self, job: Job) -> None:
        """Forget the plans for the disks of a job: they were made for what was there before."""
        for key, waiting in list(self.pending.items()) if not job.command.rehearsal else ():
            if waiting.choice.run().disks & job.command.disks:
                self.pending.pop(key, None)

    def heed(self) -> None:
        """Forget looks and plans when the job that a rescue's settings started has got further."""
        job = status.read(self.folder, "job")
        now = (str(job.get("title")), str(job.get("state")))
        if now != self.unattended:
            self.unattended = now
            self.shelf.forget()
            self.pending.clear()

    # -- pages

    def view(self, request: Request, *, inside: bool = True) -> View:
        """Return for whom a page is made: by the link, by the cookie, by what the browser likes."""
        wanted = request.query_params.get("lang") or request.cookies.get("lang", "")
        lang = wanted if wanted in LANGUAGES else best(request.headers.get("accept-language", ""))
        return View(lang, inside, self.rescue)

    async def login(self, request: Request) -> Response:
        """Ask for the code, and take it."""
        view = self.view(request, inside=False)
        if request.method != "POST":
            return html(pages.login(view))
        given = (await form_of(request)).get("code", "")
        source = source_of(request.client.host if request.client else "")
        if (pause := self.access.pause(source)) > 0:
            early = html(pages.login(view, view("code-wait", seconds=round(pause) + 1)), 429)
            early.headers["Retry-After"] = str(round(pause) + 1)
            return early
        token = self.access.login(given, source)
        if token is None:
            return html(pages.login(view, view("code-wrong")), 403)
        answer = see("/")
        self.guard.set_cookie(answer, token)
        return answer

    async def logout(self, request: Request) -> Response:
        """End the session."""
        self.access.logout(self.guard.token(request.headers))
        answer = see("/login")
        self.guard.set_cookie(answer, None)
        return answer

    async def home(self, request: Request) -> Response:
        """Show the disks and jobs."""
        self.heed()
        disks = await asyncio.to_thread(self.shelf.disks)
        others = {name: status.read(self.folder, name) for name in ("network", "job")}
        jobs = [job for job in self.jobs.known.values() if not job.command.rehearsal]
        return html(pages.home(self.view(request), self.shelf, disks, jobs, others))

    async def look(self, request: Request) -> Response:  # noqa: ARG002
        """Forget what is known of the disks."""
        self.shelf.forget()
        return see("/")

    def in_use(self, disk: Disk) -> bool:
        """Whether a job keeps a disk from being looked at."""
        return self.jobs.rival(frozenset((disk.key,))) is not None and not self.shelf.looked(disk)

    async def disk(self, request: Request) -> Response:
        """Show one disk."""
        self.heed()
        disks = await asyncio.to_thread(self.shelf.disks)
        disk = find(disks, request.path_params["key"])
        found = None if disk.trouble or self.in_use(disk) else await self.shelf.look(disk)
        return html(diskpage.disk_page(self.view(request), disk, found, self.shelf, disks))

    async def picture(self, request: Request) -> Response:
        """Draw one disk."""
        disk = find(await asyncio.to_thread(self.shelf.disks), request.path_params["key"])
        found = None if disk.trouble or self.in_use(disk) else await self.shelf.look(disk)
        if found is None or not found.picture:
            raise HTTPException(404)
        return Response(found.picture, media_type="image/svg+xml")

    # -- plans

    async def plan(self, request: Request) -> Response:
        """Begin to plan what a form asks for."""
        form = await form_of(request)
        choice = await asyncio.to_thread(choose, form, self.shelf, rescue=self.rescue)
        return self.begin(choice)

    def begin(self, choice: Choice) -> Response:
        """Start what makes a plan, and lead to it."""
        return see(f"/plan/{self.wait_for(choice, start=choice.pipe != 'upload')}")

    def wait_for(self, choice: Choice, *, start: bool) -> str:
        """Remember what waits for its confirmation; return its name."""
        job = self.jobs.add(choice.rehearsal()) if choice.plans else None
        if start and job is not None:
            self.jobs.start(job)
        while len(self.pending) >= PENDING:
            del self.pending[next(iter(self.pending))]
        key = secrets.token_hex(8)
        self.pending[key] = Pending(choice, job)
        return key

    async def show_plan(self, request: Request) -> Response:
        """Show a plan and ask."""
        self.heed()
        key = request.path_params["key"]
        view, found = self.view(request), self.pending.get(key)
        if found is None:
            return html(pages.message(view, view("plan"), view("plan-gone")), 404)
        return html(jobpage.plan_page(view, key, found.choice, found.job))

    async def confirm(self, request: Request) -> Response:
        """Start what was planned, where the right word was typed."""
        key, form = request.path_params["key"], await form_of(request)
        self.heed()
        view, found = self.view(request), self.pending.get(key)
        if found is None or (found.job is not None and found.job.state != "done"):
            return html(pages.message(view, view("plan"), view("plan-gone")), 404)
        choice, word = found.choice, found.choice.disk.word
        if choice.writes and form.get("word", "").strip() != word:
            text = jobpage.plan_page(view, key, choice, found.job, view("confirm-wrong", word=word))
            return html(text, 403)
        if other := self.jobs.rival(choice.run().disks):
            text = view("one-at-a-time", title=other.command.title)
            return html(jobpage.plan_page(view, key, choice, found.job, text), 409)
        command = choice.run(found.job.output if found.job else "")
        if choice.verb == "restore" and not {*PINS.values()} & {*command.argv}:
            raise Refused("the plan does not say which image it is of", volume=choice.title)
        del self.pending[key]
        job = self.jobs.add(command)
        self.choices = {name: kept for name, kept in self.choices.items() if name in self.jobs.known}
        self.choices[job.key] = choice
        if not choice.pipe:
            self.jobs.start(job)
        return see(f"/job/{job.key}")

    # -- jobs

    def job_of(self, request: Request) -> Job:
        """Return the job that a path names; raises HTTPException 404."""
        job = self.jobs.known.get(request.path_params["key"])
        if job is None:
            raise HTTPException(404)
        return job

    async def job(self, request: Request) -> Response:
        """Show a job."""
        job = self.job_of(request)
        return html(jobpage.job_page(self.view(request), job, self.choices.get(job.key)))

    async def cancel(self, request: Request) -> Response:
        """End a job."""
        job = self.job_of(request)
        job.cancel()
        return see("/" if job.command.rehearsal else f"/job/{job.key}")

    async def again(self, request: Request) -> Response:
        """Begin the same once more, with a new plan."""
        job = self.job_of(request)
        choice = self.choices.get(job.key)
        if choice is None:
            raise HTTPException(404)
        return self.begin(await asyncio.to_thread(choice.anew, self.shelf))

    async def events(self, request: Request) -> Response:
        """Tell how a job goes, as it goes."""
        job, view = self.job_of(request), self.view(request)
        return StreamingResponse(self.pulse(job, view, request), media_type="text/event-stream")

    async def pulse(self, job: Job, view: View, request: Request) -> AsyncIterator[str]:
        """Yield what a page shows of a job whenever it changes; a page that is open keeps its session."""
        token, last, quiet = self.guard.token(request.headers), "", 0.0
        while self.access.known(token):
            told = jobpage.live(view, job)
            text = json.dumps(told)
            if text != last:
                last, quiet = text, 0.0
                yield f"data: {text}\n\n"
            elif quiet >= QUIET:
                quiet = 0.0
                yield ": alive\n\n"
            if told["over"]:
                return
            await asyncio.sleep(PULSE)
            quiet += PULSE

    async def download(self, request: Request) -> Response:
        """Let a capture out through the browser."""
        job = self.job_of(request)
        if job.command.pipe != "download" or request.method != "GET":  # HEAD would start it as well
            raise HTTPException(404)
        choice = self.choices[job.key]
        process = self.jobs.start(job)
        name = f"{choice.disk.path.name}.raw.zst"
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
        headers = {"Content-Disposition": f'attachment; filename="{safe}"'}
        return StreamingResponse(spill(process, job), media_type="application/zstd", headers=headers)

    async def upload(self, request: Request) -> Response:
        """Take an image in from the browser."""
        job = self.job_of(request)
        if job.command.pipe != "upload":
            raise HTTPException(404)
        process = self.jobs.start(job)
        await feed(process, job, request.stream())
        return Response(status_code=204)

    async def upload_head(self, request: Request) -> Response:
        """Plan a restore from the first bytes of an image; answers with the plan's page."""
        form = {"verb": "restore", "disk": request.path_params["key"], "from": "upload"}
        choice = await asyncio.to_thread(choose, form, self.shelf, rescue=self.rescue)
        key = self.wait_for(choice, start=False)
        job = self.pending[key].job
        assert job is not None
        short = await head(self.jobs, job, request)
        answer = json.dumps({"page": f"/plan/{key}", "short": short})
        return Response(answer, media_type="application/json")

    # -- failures

    async def failed(self, request: Request, error: Exception) -> Response:
        """Say what went wrong."""
        view = self.view(request)
        if isinstance(error, HTTPException):
            text, code = view("not-found"), error.status_code
        else:
            assert isinstance(error, Error)
            text, code = explain(error), 409
        home = tag("p", tag("a", view("home"), href="/"))
        return html(pages.message(view, view("trouble-title"), text, home), code)
