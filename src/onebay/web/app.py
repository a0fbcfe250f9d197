"""The application: which request leads to what."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from onebay.base.error import Error
from onebay.web.guard import Guard
from onebay.web.hardware import Hardware
from onebay.web.texts import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from onebay.web.site import Site

    Answer = Callable[[Request], Awaitable[Response]]

STATIC = {
    "onebay.css": "text/css; charset=utf-8",
    "onebay.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
}


def build(site: Site, *, tls: bool, names: tuple[str, ...] = (), media: Path | None = None) -> ASGIApp:
    """Return the application; under `media` partitions may be mounted."""
    hardware = Hardware(site, media)

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
        route("/media", hardware.mount, "POST"),
        route("/media/{key}/close", hardware.unmount, "POST"),
        route("/power/{what}", hardware.power, "GET", "POST"),
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
