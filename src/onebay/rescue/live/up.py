"""`onebay rescue up`: brings the machine onto the network, and keeps SSH, web page, job and consoles going.

One process does all of it, in one loop that looks around each second; what waits for others (the clock, the
host of the image) is in a thread beside. It may die and be started again at any time: all that it starts goes
on without it and is found again.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onebay import __version__
from onebay.base.error import Error
from onebay.base.status import read_status, write_status
from onebay.rescue.live.child import Child
from onebay.rescue.live.clock import set_clock
from onebay.rescue.live.console import block, consoles, progress
from onebay.rescue.live.layers import Merged, read_layers
from onebay.rescue.live.network import Network
from onebay.rescue.live.reach import place_of, prefer, reach
from onebay.rescue.live.ssh import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.rescue.live.settings import Settings

STATUS = ("network", "ssh", "web", "job")
LATEST_WEB, LATEST_JOB = 20.0, 120.0  # seconds after which nothing is waited for any more
RETRY = 20.0  # seconds
REFRESH = 10.0  # seconds
GROUPS = 0x1 | 0x10 | 0x100  # rtnetlink(7): RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are in the running system."""

    etc: Path = Path("/etc")
    run: Path = Path("/run/onebay")
    proc: Path = Path("/proc")
    home: Path = Path("/root")

    @property
    def own(self) -> Path:
        """Files of the rescue system."""
        return self.etc / "onebay"

    @property
    def built(self) -> float:
        """When the system was made, in seconds since 1970: the time of all of its files."""
        return (self.own / "start").stat().st_mtime

    def layers(self) -> Merged:
        """Read the settings."""
        line = self.proc / "cmdline"
        return read_layers(self.own / "built-in.json", self.own / "settings.json", line)


class Prober:
    """What waits for others: sets the clock, and sees which family gets to the host of the image."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self.settings, self.places = settings, places
        self.clock_note = ""
        self.reach_notes: list[str] = []
        self.clock_tried = threading.Event()
        self.ready = threading.Event()
        self.online = threading.Event()
        self.servers: list[str] = []  # what DHCP names
        threading.Thread(target=self.work, daemon=True).start()

    @property
    def notes(self) -> list[str]:
        """Return what a user must know."""
        return [*([self.clock_note] if self.clock_note else []), *self.reach_notes]

    def work(self) -> None:
        """Try until both are well."""
        self.online.wait()
        url = self.settings.job.restore if self.settings.job else None
        clock = False
        reached = url is None
        while not (clock and reached):
            if not clock:
                servers = [*self.settings.time_servers]
                if time.time() < self.places.built:
                    servers += self.servers
                clock, self.clock_note = set_clock(servers, url, self.places.built)
                self.clock_tried.set()
            if not reached and url is not None:
                found = reach(*place_of(url))
                reached, self.reach_notes = found.any, found.notes()
                with contextlib.suppress(OSError):
                    prefer(found, self.places.etc / "gai.conf")
            if reached and (clock or url is None or url.startswith("http:")):
                self.ready.set()
            if not (clock and reached):
                time.sleep(RETRY)


@dataclass(slots=True)
class Up:
    """All parts of a running system."""

    places: Places
    merged: Merged
    network: Network
    ssh: Server
    prober: Prober
    children: dict[str, Child] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> Path:
        """The folder of the files of status."""
        return self.places.run / "status"

    def children_wanted(self) -> dict[str, Child]:
        """Return web page and job as the settings want them."""
        settings, run = self.merged.settings, self.places.run
        found = {}
        if settings.web.enabled:
            listen = f"[::]:{settings.web.port}"
            argv = ["onebay", "web", "--rescue", "--listen", listen, "--status", str(self.status)]
            found["web"] = Child("web", argv, run)
        if settings.job:
            found["job"] = Child("job", ["onebay", "rescue", "job"], run, once=True)
        return found

    def step(self, *, woke: bool) -> None:
        """Look at everything once."""
        if woke:
            self.attempt("network", self.network.step)
        if self.network.addresses:
            self.prober.servers = self.network.time_servers
            self.prober.online.set()
        if self.ssh.step():
            self.attempt("ssh", lambda: self.ssh.write_status(self.status / "ssh.json"))
        for child in self.children.values():
            if self.due(child.name):
                child.step()
        self.attempt("status", self.write_status)

    def due(self, name: str) -> bool:
        """Whether it is time for the web page or the job: addresses and clock come first, for a while."""
        waited = time.monotonic() - self.began
        if name == "web":
            return self.prober.clock_tried.is_set() or waited > LATEST_WEB
        return self.prober.ready.is_set() or waited > LATEST_JOB

    def attempt(self, name: str, work: Callable[[], object]) -> None:
        """Do a part of the work; a failure of it is a note and no reason to stop."""
        try:
            work()
            self.failures.pop(name, None)
        except (Error, OSError) as error:
            self.failures[name] = f"{name}: {error}"

    def write_status(self) -> None:
        """Write network.json where it changed."""
        notes = [*self.merged.mistakes, *self.prober.notes, *self.failures.values()]
        notes += [child.failure for child in self.children.values() if child.failure]
        document = self.network.document(notes)
        if document != read_status(self.status / "network.json"):
            write_status(self.status / "network.json", document)


def prepare(places: Places) -> Up:
    """Read the settings and start what goes on; raises OSError."""
    places.run.mkdir(parents=True, exist_ok=True)
    merged = places.layers()
    settings = merged.settings
    own = places.run / "settings.json"  # what the job reads
    own.touch(mode=0o600)
    own.write_text(json.dumps(merged.document, indent=1), "utf-8")
    if settings.hostname:
        with contextlib.suppress(OSError):
            socket.sethostname(settings.hostname)
    network = Network(
        settings,
        folder=places.run / "network",
        conf=places.proc / "sys/net/ipv6/conf",
        resolv=places.etc / "resolv.conf",
        script=places.own / "dhcp",
    )
    ssh = Server(settings.ssh, home=places.home, folder=places.run / "ssh")
    found = Up(places, merged, network, ssh, Prober(settings, places))
    found.children = found.children_wanted()
    return found


def run(places: Places) -> None:
    """Keep the rescue system up, for good; raises OSError."""
    up = prepare(places)
    shown = consoles(places.run / "consoles", places.run / "shells")
    title = f"onebay {__version__} rescue system, {socket.gethostname()}"
    news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    news.bind((0, GROUPS))
    woke, stamp, looked = True, up.network.stamp(), time.monotonic()
    while True:
        up.step(woke=woke)
        if woke:
            looked = time.monotonic()
        documents = {name: read_status(up.status / f"{name}.json") for name in STATUS}
        text, line = block(title, documents), progress(documents)
        for console in shown:
            console.show(text, line)
        woke = bool(select.select([news], [], [], 1.0)[0])
        with contextlib.suppress(OSError):  # only that something changed counts, not what
            while news.recv(65536):
                pass
        old, stamp = stamp, up.network.stamp()
        woke = woke or stamp != old or time.monotonic() - looked > REFRESH
