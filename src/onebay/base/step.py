"""What a plan is made of: writes that somebody else executes, one after the other.

A `Flush` is a barrier: everything before it is on the medium before anything after it is written. A plan puts
new content into space that nobody uses first, and the sector that makes it count last, behind a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Readable(Protocol):
    """What a `Copy` reads from."""

    name: str

    def read(self, at: int, size: int) -> bytes:
        """Read exactly `size` bytes at byte `at`."""


class Target(Protocol):
    """What a step writes to; every volume is one."""

    name: str
    size: int

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at byte `at`."""

    def zero(self, at: int, size: int) -> None:
        """Make `size` bytes at byte `at` read as zeros."""

    def flush(self) -> None:
        """Return when everything written is on the medium."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write `data` at byte `at` of `volume`; `why` is the line that `--dry-run` prints."""

    volume: Target
    at: int
    data: bytes
    why: str

    @property
    def size(self) -> int:
        """Bytes written."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Zero:
    """Write `size` zero bytes at byte `at` of `volume`."""

    volume: Target
    at: int
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy `size` bytes from byte `source_at` of `source` to byte `at` of `volume`."""

    source: Readable
    source_at: int
    volume: Target
    at: int
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Flush:
    """Barrier."""

    volume: Target


Step = Write | Zero | Copy | Flush
CHUNK = 1 << 20


def apply(step: Step) -> None:
    """Execute one step on the volume that it names."""
    match step:
        case Write():
            step.volume.write(step.at, step.data)
        case Zero():
            step.volume.zero(step.at, step.size)
        case Copy():
            for done in range(0, step.size, CHUNK):
                part = step.source.read(step.source_at + done, min(CHUNK, step.size - done))
                step.volume.write(step.at + done, part)
        case Flush():
            step.volume.flush()
