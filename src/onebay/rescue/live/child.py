"""Programs that run beside `onebay rescue up`: started once it is time, and again when they die."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from subprocess import Popen

USAGE = 2  # the exit code of a command line that is not understood: starting it again changes nothing
SHORTEST, LONGEST = 1.0, 60.0  # seconds between two starts
MOST_LOG = 1 << 20  # bytes


def alive(pid_file: Path) -> bool:
    """Whether a program runs whose number a file holds, be it of an earlier run of ours."""
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


class Child:
    """A program, its log and number in `folder`; one that is `once` is not started again, not by a later run
    either: what writes to a disk is not repeated because somebody else failed."""

    def __init__(self, name: str, argv: Sequence[str | Path], folder: Path, *, once: bool = False) -> None:
        self.name, self.argv, self.once = name, argv, once
        self.log, self.pid_file = folder / f"{name}.log", folder / f"{name}.pid"
        self.process: Popen[bytes] | None = None
        self.pause = SHORTEST
        self.began = self.again = 0.0
        self.failure = ""

    def step(self) -> None:
        """Start the program where it does not run and may."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self.ended(self.process.returncode, now)
        if self.process is None and now >= self.again and not alive(self.pid_file):
            if self.once and self.pid_file.exists():
                self.again = float("inf")
            else:
                self.start(now)
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > MOST_LOG:
                os.truncate(self.log, 0)

    def start(self, now: float) -> None:
        """Start it."""
        self.began = now
        try:
            self.process = tool.spawn(self.argv, log=self.log)
            self.pid_file.write_text(f"{self.process.pid}\n")
        except (Error, OSError) as error:
            self.ended(0, now)
            self.failure = f"{self.name}: {error}"

    def ended(self, status: int, now: float) -> None:
        """Note that it ended and say when it starts again: later each time, soon after it had long worked."""
        self.process = None
        self.pause = SHORTEST if now - self.began > LONGEST else min(self.pause * 2, LONGEST)
        self.again = float("inf") if self.once or status == USAGE else now + self.pause
        self.failure = f"{self.name} ended with status {status}: see {self.log}" if status else ""
