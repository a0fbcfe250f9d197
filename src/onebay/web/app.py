"""The application: which request leads to what."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from onebay.base.error import Error, Refused
from onebay.web import diskpage, jobpage, media, pages, power, status
from onebay.web.choice import Choice, choose, explain
from onebay.web.guard import MOST_BODY, Guard
from onebay.web.html import tag
from onebay.web.jobs import Job, Jobs
from onebay.web.texts import LANGUAGES, best
from onebay.web.transfer import feed, head, spill
from onebay.web.view import View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from onebay.web.access import Access
    from onebay.web.disks import Disk, Shelf

    Answer = Callable[[Request], Awaitable[Response]]

PENDING = 20  # plans that are remembered
PULSE = 0.5  # seconds between two looks at a job
QUIET = 15.0  # seconds after which a stream of events says that it is alive
STATIC = {
    "onebay.css": "text/css; charset=utf-8",
    "onebay.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
}


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
    media_folder: Path | None = None
    pending: dict[str, Pending] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    jobs: Jobs = field(init=False)
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = Jobs(single=self.rescue, ended=self.ended)

    def ended(self, job: Job) -> None:
        """Have the disks of a job looked at anew; called in a thread of the job."""
        if not job.command.rehearsal:
            self.shelf.forget(job.command.disks)

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
        if (pause := self.access.pause()) > 0:
            early = html(pages.login(view, view("code-wait", seconds=round(pause) + 1)), 429)
            early.headers["Retry-After"] = str(round(pause) + 1)
            return early
        token = self.access.login(given)
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
        return self.jobs.rival(frozenset((disk.key,))) is not None and disk.key not in self.shelf.looks

    async def disk(self, request: Request) -> Response:
        """Show one disk."""
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
        key = request.path_params["key"]
        view, found = self.view(request), self.pending.get(key)
        if found is None:
            return html(pages.message(view, view("plan"), view("plan-gone")), 404)
        return html(jobpage.plan_page(view, key, found.choice, found.job))

    async def confirm(self, request: Request) -> Response:
        """Start what was planned, where the right word was typed."""
        key, form = request.path_params["key"], await form_of(request)
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
        del self.pending[key]
        job = self.jobs.add(choice.run())
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
        return self.begin(choice)

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

    # -- the machine

    async def mount(self, request: Request) -> Response:
        """Open a partition for its images."""
        form = await form_of(request)
        if self.media_folder is None:
            raise HTTPException(404)
        disk = await asyncio.to_thread(self.shelf.disk, form.get("disk", ""))
        found = (await self.shelf.look(disk)).document or {"tree": {}}
        kinds = {str(number): (number, kind) for number, kind in media.mountable(found)}
        if form.get("number") not in kinds or self.jobs.rival(frozenset((disk.key,))):
            raise Refused("no such partition, or a job uses the disk")
        number, kind = kinds[form["number"]]
        place = await asyncio.to_thread(media.mount, disk, number, kind, self.media_folder)
        self.shelf.media[self.shelf.key(place)] = place
        return see("/")

    async def unmount(self, request: Request) -> Response:
        """Close a partition."""
        place = self.shelf.media.get(request.path_params["key"])
        if place is None:
            raise HTTPException(404)
        await asyncio.to_thread(media.unmount, place)
        del self.shelf.media[request.path_params["key"]]
        return see("/")

    async def power(self, request: Request) -> Response:
        """Ask, then let the machine go down."""
        view, what = self.view(request), request.path_params["what"]
        if not self.rescue or what not in power.SIGNALS:
            raise HTTPException(404)
        if request.method != "POST":
            return html(pages.power_ask(view, what))
        if self.jobs.running():
            return html(pages.message(view, view(what), view("power-running")), 409)
        asyncio.get_running_loop().call_later(1.0, power.down, what)
        return html(pages.message(view, view(what), view("power-now")))

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


def build(site: Site, *, tls: bool, names: tuple[str, ...] = ()) -> ASGIApp:
    """Return the application."""

    def route(path: str, endpoint: Answer, *methods: str) -> Route:
        return Route(path, with_language(endpoint), methods=list(methods) or ["GET"])

    routes = [
        route("/", site.home),
        route("/login", site.login, "GET", "POST"),
        route("/logout", site.logout, "POST"),
        route("/look", site.look, "POST"),
        route("/disk/{key}.svg", site.picture),
        route("/disk/{key}/upload", site.upload_head, "POST"),
        route("/disk/{key}", site.disk),
        route("/plan", site.plan, "POST"),
        route("/plan/{key}", site.show_plan),
        route("/plan/{key}", site.confirm, "POST"),
        route("/job/{key}", site.job),
        route("/job/{key}/cancel", site.cancel, "POST"),
        route("/job/{key}/again", site.again, "POST"),
        route("/job/{key}/events", site.events),
        route("/job/{key}/download", site.download),
        route("/job/{key}/upload", site.upload, "POST"),
        route("/media", site.mount, "POST"),
        route("/media/{key}/close", site.unmount, "POST"),
        route("/power/{what}", site.power, "GET", "POST"),
        *(Route(f"/{name}", static(name, kind)) for name, kind in STATIC.items()),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: site.failed, Error: site.failed})
    site.guard = Guard(app, site.access, tls=tls, names=names)
    return site.guard


def with_language(endpoint: Answer) -> Answer:
    """Have an answer to ?lang= remember the language."""

    async def answer(request: Request) -> Response:
        response = await endpoint(request)
        lang = request.query_params.get("lang")
        if lang in LANGUAGES:
            response.set_cookie("lang", str(lang), httponly=True, samesite="strict", max_age=31536000)
        return response

    return answer


def static(name: str, kind: str) -> Answer:
    """Return what answers with a file of ours, held in memory: no path leads anywhere."""
    content = resources.files("onebay.web").joinpath("static", name).read_bytes()

    async def answer(request: Request) -> Response:  # noqa: ARG001
        return Response(content, media_type=kind)

    return answer


def html(text: str, code: int = 200) -> HTMLResponse:
    """Return a page."""
    return HTMLResponse(text, code)


def see(path: str) -> RedirectResponse:
    """Lead to another page of ours."""
    return RedirectResponse(path, 303)


def find(disks: list[Disk], key: str) -> Disk:
    """Return the disk with this key; raises HTTPException 404."""
    for disk in disks:
        if disk.key == key:
            return disk
    raise HTTPException(404)


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form; raises HTTPException 413 for a long one, 400 for none."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY:
            raise HTTPException(413)
    with contextlib.suppress(ValueError):
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=50))
    raise HTTPException(400)
