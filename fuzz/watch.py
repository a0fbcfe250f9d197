"""Limits of one run: 5 s of processor time, 512 MiB of memory; and what counts as a finding."""

from __future__ import annotations

import resource
import signal
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SECONDS = 5.0
MEMORY = 512 << 20


class TooSlowError(BaseException):
    """An input takes longer than it may."""


def too_slow(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """End the run."""
    raise TooSlowError


@contextmanager
def watched(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooSlowError in the main thread after so many seconds of processor time."""
    old = signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def limit_memory() -> None:
    """From now on this process may take `MEMORY` more than it has; more raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def signature(error: BaseException) -> str:
    """Name a finding by the kind of failure and the innermost function of ours in which it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/onebay/" in frame.filename] or list(frames)
    last = ours[-1]
    if isinstance(error, TooSlowError):  # the innermost function is chance; name the parser
        last = ours[min(1, len(ours) - 1)]
    words = str(error).split(":")[0][:40] if isinstance(error, AssertionError) else ""
    name = f"{type(error).__name__}-{Path(last.filename).stem}-{last.name}-{words}"
    return "".join(c if c.isalnum() or c == "-" else "_" for c in name).strip("-_")
