"""A browser of few words: it speaks to the application in-process, and keeps its cookies."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import time
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message

from onebay.base import tool
from onebay.web.access import Access
from onebay.web.app import build
from onebay.web.disks import Shelf
from onebay.web.site import Site

HOST = "127.0.0.1:8443"
PATIENCE = 120.0
MIB = 1 << 20


@dataclass
class Answer:
    """What came back; `cut` where the application broke off."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut: bool = False

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def text(self) -> str:
        return unescape(self.body.decode())


@dataclass
class Browser:
    """Requests to an ASGI application, as from a page of its own."""

    app: ASGIApp
    cookies: dict[str, str] = field(default_factory=dict)
    origin: str | None = f"https://{HOST}"

    def request(
        self,
        method: str,
        path: str,
        *,
        form: dict[str, str] | None = None,
        body: list[bytes] | None = None,
        leave: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request; `body` comes in these pieces, and with `leave` the browser is gone after them."""
        pieces = [urlencode(form).encode()] if form is not None else list(body or [b""])
        sent = {
            "host": HOST,
            "accept": "text/html",
            "cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()),
        }
        if method == "POST":
            sent["content-length"] = str(sum(map(len, pieces)) + leave)
            if self.origin is not None:
                sent["origin"] = self.origin
        sent |= headers or {}
        bare, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": method, "scheme": "https", "path": bare, "raw_path": bare.encode(),
            "query_string": query.encode(), "root_path": "",
            "headers": [(k.encode(), v.encode()) for k, v in sent.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8443),
        }  # fmt: skip
        answer = asyncio.run(self.exchange(scope, pieces, leave=leave))
        for key, value in answer.headers:
            if key == "set-cookie":
                name, _, rest = value.partition("=")
                self.cookies[name] = rest.partition(";")[0]
        return answer

    async def exchange(self, scope: dict[str, Any], pieces: list[bytes], *, leave: bool) -> Answer:
        answer = Answer(0, [], b"", cut=True)

        async def receive() -> Message:
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces) or leave}
            if not leave:
                await asyncio.sleep(3600)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = [(k.decode(), v.decode()) for k, v in message["headers"]]
            else:
                answer.body += message.get("body", b"")
                answer.cut = message.get("more_body", False)

        async with asyncio.timeout(PATIENCE):
            try:
                await self.app(scope, receive, send)
            except Exception:
                if not answer.status:
                    raise
        return answer

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, form: dict[str, str] | None = None, **more: Any) -> Answer:
        return self.request("POST", path, form=form if "body" not in more else None, **more)

    def follow(self, answer: Answer) -> str:
        """Return where an answer leads."""
        assert answer.status == 303, answer.text
        return answer.header("location")


@dataclass
class Desk:
    """A site with somebody logged in."""

    site: Site
    codes: list[str]
    browser: Browser

    def key(self, name: str) -> str:
        """The key of the disk with this file name."""
        return next(disk.key for disk in self.site.shelf.disks() if disk.path.name == name)

    def plan(self, form: dict[str, str]) -> tuple[str, str]:
        """Ask for a plan, wait for it; return its path and page."""
        path = self.browser.follow(self.browser.post("/plan", form))
        return path, self.wait(path)

    def wait(self, path: str) -> str:
        """Return a page once nothing is under way there any more."""
        end = time.monotonic() + PATIENCE
        while "data-watch" in (page := self.browser.get(path).text):
            assert time.monotonic() < end, page
            time.sleep(0.1)
        return page

    def run(self, form: dict[str, str], word: str) -> str:
        """Plan, confirm with a word, wait for the end; return the page of the job."""
        path, page = self.plan(form)
        assert "Do it" in page, page
        answer = self.browser.post(path, {"word": word})
        return self.wait(self.browser.follow(answer))


def desk(folder: Path, *disks: Path, rescue: bool = False, images: Path | None = None) -> Desk:
    """Return a site that offers disks, and a browser that is logged in."""
    codes: list[str] = []
    access = Access(codes.append)
    site = Site(access, Shelf(folder, disks, images=images), rescue)
    browser = Browser(build(site, tls=True))
    assert browser.post("/login", {"code": codes[-1]}).status == 303
    return Desk(site, codes, browser)


def make_disk(path: Path, size: int, used: int = 32 * MIB) -> Path:
    """Make a GPT disk with an ext4 of `used` bytes at 1 MiB that holds one file."""
    with path.open("xb") as file:
        file.truncate(size)
    subprocess.run(
        [tool.require("sfdisk"), "-q", path], input=f"label: gpt\nstart=2048,size={used // 512}\n",
        text=True, check=True,
    )  # fmt: skip
    folder = path.parent / f"{path.name}.content"
    folder.mkdir()
    (folder / "photo").write_bytes(b"the only copy\n" * 10000)
    (folder / "noise").write_bytes(random.Random(1).randbytes(8 * MIB))
    tool.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, "-E", f"offset={MIB}", path, f"{used // 1024}k"])
    return path


def file_system(path: Path) -> tuple[int, bytes]:
    """Return the bytes of the ext4 at 1 MiB, by dumpe2fs, and the content of its file, by debugfs."""
    part = path.with_suffix(".part1")
    with path.open("rb") as source, part.open("wb") as target:
        source.seek(MIB)
        target.write(source.read())
    tool.run(["e2fsck", "-fn", part])
    told = tool.run(["dumpe2fs", "-h", part]).text
    blocks = int(re.search(r"Block count: +(\d+)", told)[1])  # type: ignore[index]
    size = int(re.search(r"Block size: +(\d+)", told)[1])  # type: ignore[index]
    content = tool.run(["debugfs", "-R", "cat /photo", part]).stdout
    part.unlink()
    return blocks * size, content
