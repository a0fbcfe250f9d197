"""A NAS that runs from a disk which it may write, and its storage manager's page, as its owner uses them."""

from __future__ import annotations

import html
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

PATIENCE = 1200  # seconds; several machines may be emulated at the same time


class Nas:
    """`onebay boot DISK --write --forward PORT:5000` in a `with` block; leave it by `power_off`."""

    def __init__(self, disk: Path, log: Path, firmware: str = "bios") -> None:
        self.log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        argv = ["boot", disk, "--write", "--forward", f"{port}:5000", "--log", log, "--firmware", firmware]
        self.messages = log.with_suffix(".txt")
        with self.messages.open("wb") as messages:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "onebay", *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
            )

    def __enter__(self) -> Nas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)

    def wait_for(self, text: str) -> None:
        """Wait for what the console says."""
        end = time.monotonic() + PATIENCE
        while text not in (said := self.log.read_text("utf-8", "replace") if self.log.exists() else ""):
            assert self.process.poll() is None, self.messages.read_text() + said[-2000:]
            assert time.monotonic() < end, said[-2000:]
            time.sleep(0.5)

    def post(self, **fields: str) -> tuple[int, str]:
        """Press a button of the page; returns the status and what the page then says, as text."""
        request = Request(self.url, urlencode(fields).encode() if fields else None)
        try:
            with urlopen(request, timeout=PATIENCE) as answer:
                status, body = answer.status, answer.read()
        except HTTPError as error:
            status, body = error.code, error.read()
        return status, html.unescape(re.sub(r"<[^>]*>", "\n", body.decode()))

    def power_off(self) -> None:
        """Shut down by the page, and wait until `onebay boot` has ended well."""
        self.post(do="poweroff")
        assert self.process.wait(PATIENCE) == 0
