"""A read-only HTTP server for network boot, on Starlette and uvicorn: ranges, HEAD and conditions are theirs.

They were taken because the standard library's server knows no ranges and holds a thread for each client; they
serve the rescue system's own page too. What is here: which files, and the two scripts that hold addresses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from onebay.rescue import netboot

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
IDLE = 75  # seconds that a connection may be quiet: a slow disk is written meanwhile
ENDING = 3  # seconds
PLAIN = "application/octet-stream"
IMAGES = "images"


@dataclass
class Site:
    """What is served: the `folder` of a build, `images` below images/, and `words` for the kernel.

    Of a word, {base} becomes the address that a client asked. With a `job`, a machine that has loaded the
    initramfs is sent to its own disk when it comes again: it would be restored anew each time it starts.
    """

    folder: Path
    images: Path | None
    words: tuple[str, ...]
    own: str
    job: bool = False
    loaded: set[str] = field(default_factory=set)

    def base(self, request: Request) -> str:
        """Return the URL of the root, by the name that the client knows us by."""
        host = request.headers.get("host", "")
        return f"http://{host if HOST.fullmatch(host) else self.own}/"

    def words_for(self, request: Request) -> list[str]:
        """Return the kernel's words with addresses in them."""
        return [word.replace("{base}", self.base(request)) for word in self.words]

    def again(self, request: Request) -> bool:
        """Whether the machine has had its job."""
        return self.job and request.client is not None and request.client.host in self.loaded

    async def script(self, request: Request) -> Response:
        """Answer iPXE."""
        if self.again(request):
            return PlainTextResponse("#!ipxe\necho this machine has had its job: on to its own disk\nexit\n")
        return PlainTextResponse(netboot.script(self.words_for(request), base=self.base(request)))

    async def config(self, request: Request) -> Response:
        """Answer GRUB."""
        if self.again(request):
            return PlainTextResponse("echo this machine has had its job: on to its own disk\nexit\n")
        return PlainTextResponse(netboot.config(self.words_for(request)))

    async def index(self, request: Request) -> Response:
        """Say to people what is here."""
        base = self.base(request)
        names = [netboot.SCRIPT, *visible(self.folder)]
        names += [f"{IMAGES}/{name}" for name in visible(self.images)] if self.images else []
        return PlainTextResponse("".join(f"{base}{quote(name)}\n" for name in dict.fromkeys(names)))

    def app(self) -> ASGIApp:
        """Return the whole as an ASGI application."""
        routes: list[Route | Mount] = [
            Route("/", self.index),
            Route(f"/{netboot.SCRIPT}", self.script),
            Route(f"/{netboot.CONFIG}", self.config),
        ]
        if self.images:
            routes.append(Mount(f"/{IMAGES}", Files(directory=self.images)))
        routes.append(Mount("/", Files(directory=self.folder)))
        return Guard(Starlette(routes=routes), self)


class Files(StaticFiles):
    """Files of a folder, links that stay in it included; none of them is text."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Answer with a file."""
        response = super().file_response(*args, **kwargs)
        if response.headers.get("content-type", "").startswith("text/"):
            response.headers["content-type"] = PLAIN
        return response


class Guard:
    """Keeps what is hidden out of sight, whatever a request asks for, and answers one range at a time."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app, self.site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request."""
        if scope["type"] == "http":
            path = scope["path"]
            if not path.isprintable() or any(part.startswith(".") for part in path.split("/")):
                await PlainTextResponse("Not Found", 404)(scope, receive, send)
                return
            # RFC 9110, 14.2: a server may ignore Range; of many ranges it should
            scope["headers"] = [
                (key, value) for key, value in scope["headers"] if key != b"range" or b"," not in value
            ]
            if path == "/initrd" and scope["method"] == "GET" and scope.get("client"):
                self.site.loaded.add(scope["client"][0])
        await self.app(scope, receive, send)


def visible(folder: Path) -> list[str]:
    """Return the names of files that are served from a folder itself."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name[0] != ".")


def serve(site: Site, listener: socket.socket) -> None:
    """Serve until a signal comes."""
    settings = uvicorn.Config(
        site.app(),
        lifespan="off",
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=ENDING,
        server_header=False,
    )
    uvicorn.Server(settings).run(sockets=[listener])
