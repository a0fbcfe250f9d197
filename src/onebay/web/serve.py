"""The server: certificate, code, status file, and uvicorn until it is told to end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from onebay.base.error import Refused, reason
from onebay.web import status
from onebay.web.access import Access
from onebay.web.app import build
from onebay.web.certificate import addresses, make
from onebay.web.disks import Shelf
from onebay.web.gate import Gate
from onebay.web.site import Site
from onebay.web.transfer import CutError

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0  # seconds for jobs to end in good order
TICK = 1.0  # seconds between two looks at what the status file tells
BACKLOG = 64
OOM_SCORE = 500  # of 1000; what the verbs hold is worth more (proc(5), oom_score_adj)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve what; `names` are host names under which browsers may come, besides addresses."""

    host: str
    port: int
    disks: tuple[Path, ...] = ()
    images: Path | None = None
    rescue: bool = False
    status: Path | None = None
    tls: bool = True
    names: tuple[str, ...] = ()
    media: Path = Path("/run/onebay/media")


def serve(settings: Settings, *, tell: Callable[[str], None]) -> None:
    """Serve until a signal comes; `tell` says address, fingerprint and code to whoever sits there.

    Raises Refused for a port that cannot be had, and for plain HTTP that others could hear; ToolMissing for
    no openssl. Jobs that run are asked to end at the end.
    """
    if not settings.tls and not is_loopback(settings.host):
        raise Refused("without TLS only this machine may listen", found=settings.host, hint="127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="onebay-web-") as name, suppress(KeyboardInterrupt):
        Service(settings, Path(name), tell).run()


class Service:
    """One run of the server; `scratch` is a folder that goes away with it."""

    def __init__(self, settings: Settings, scratch: Path, tell: Callable[[str], None]) -> None:
        self.settings, self.tell = settings, tell
        self.code, self.fingerprint = "", ""
        shelf = Shelf(scratch, settings.disks, machine=settings.rescue, images=settings.images)
        self.access = Access(self.new_code)
        self.site = Site(self.access, shelf, settings.rescue, settings.status)
        media = settings.media if settings.rescue else None
        self.app = build(self.site, tls=settings.tls, names=settings.names, media=media)
        self.config = uvicorn.Config(
            self.app,
            host=settings.host,
            port=settings.port,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=3,
        )
        if settings.tls:
            certificate = make(scratch, addresses())
            self.fingerprint = certificate.fingerprint
            self.config.ssl_certfile, self.config.ssl_keyfile = certificate.chain, certificate.key

    def new_code(self, code: str) -> None:
        """Tell another code; the first one is told with the address, once somebody listens."""
        before, self.code = self.code, code
        if before:
            self.tell(f"one-time code {code}")

    def run(self) -> None:
        """Serve until a signal comes; raises Refused."""
        logging.getLogger("uvicorn.error").addFilter(worth_a_line)
        sock = self.listen()
        if self.settings.rescue:
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), "ascii")
        for url in self.urls():
            self.tell(url)
        if self.fingerprint:
            self.tell(f"certificate SHA-256 {self.fingerprint}")
        self.tell(f"one-time code {self.code}")
        try:
            asyncio.run(self.both(sock))
        finally:
            for job in self.site.jobs.close(PATIENCE):
                self.tell(f"still running: {job.command.shown()}")

    def listen(self) -> Gate:
        """Return the socket that is listened at; raises Refused."""
        host, port = self.settings.host, self.settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = Gate(family)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # :: listens to IPv4 as well
            sock.bind((host, port))
            sock.listen(BACKLOG)  # before the address is told
        except OSError as error:
            sock.close()
            raise Refused(f"cannot listen: {reason(error)}", volume=f"{host}:{port}") from error
        return sock

    async def both(self, sock: Gate) -> None:
        """Serve, and keep the status file."""
        self.config.app = sock.watched(self.app)
        self.config.load()
        server = uvicorn.Server(self.config)
        teller = asyncio.create_task(self.keep_told(sock))
        try:
            await server.serve(sockets=[sock])
        finally:
            teller.cancel()

    async def keep_told(self, sock: Gate) -> None:
        """Write the status file whenever it would be another one; end connections that say nothing."""
        last: dict[str, Any] = {}
        while True:
            sock.cut()
            now = self.document() if self.settings.status is not None else last
            if self.settings.status is not None and now != last:
                last = now
                with suppress(OSError):  # a full memory; the next one may be written
                    status.write(self.settings.status, "web", now)
            await asyncio.sleep(TICK)

    def document(self) -> dict[str, Any]:
        """Return what the consoles show."""
        jobs = [job for job in self.site.jobs.known.values() if not job.command.rehearsal]
        keys = ("title", "state", "share", "rate", "left", "text")
        told = [{key: job.document()[key] for key in keys} for job in jobs[-5:]]
        return {"urls": self.urls(), "fingerprint": self.fingerprint, "code": self.code, "jobs": told}

    def urls(self) -> list[str]:
        """Return where browsers find the page."""
        scheme, host, port = "https" if self.settings.tls else "http", self.settings.host, self.settings.port
        hosts = addresses() if ipaddress.ip_address(host).is_unspecified else [host]
        usual = 443 if self.settings.tls else 80
        suffix = "" if port == usual else f":{port}"
        reached = [text for text in hosts if not ipaddress.ip_address(text).is_loopback] or hosts
        return [f"{scheme}://{f'[{text}]' if ':' in text else text}{suffix}/" for text in reached]


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches an address."""
    return ipaddress.ip_address(host).is_loopback


def worth_a_line(record: logging.LogRecord) -> bool:
    """Whether a line of the server's log is for people: a download that was cut is told on its page."""
    found = record.exc_info[1] if record.exc_info else None
    return record.levelno >= logging.WARNING and not isinstance(found, CutError)
