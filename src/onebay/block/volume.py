"""Volumes: addressable bytes, and how a byte of one lies on another.

A volume that stands on others (`Span`, `Concat`) knows its own mapping, so a layer need not repeat it.
"""

from __future__ import annotations

import abc
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Refused, Truncated
from onebay.base.extent import Extent, ExtentSet, union

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


ZEROS = 1 << 20  # bytes written at a time


class Piece(NamedTuple):
    """Part of a volume: `size` bytes that lie at byte `at` of `volume`."""

    volume: Volume
    at: int
    size: int


class Volume(abc.ABC):
    """Addressable bytes: a disk, a partition, an array, a logical volume.

    `name` is for messages, `size` is in bytes, `sector_size` is the logical sector size in bytes.
    """

    name: str
    size: int
    sector_size: int

    @abc.abstractmethod
    def read(self, at: int, size: int) -> bytes:
        """Read exactly `size` bytes at byte `at`; raises Truncated where they are not all there."""

    @abc.abstractmethod
    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at byte `at`; raises Refused where the volume is read-only or too small."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Return when everything written so far is on the medium."""

    def zero(self, at: int, size: int) -> None:
        """Make `size` bytes at byte `at` read as zeros; a hole where the medium has such."""
        self.check_range(at, size)
        for done in range(0, size, ZEROS):
            self.write(at + done, bytes(min(ZEROS, size - done)))

    def data(self, start: int, end: int) -> Iterator[Extent]:
        """Yield, in order, the parts of `start..end` that may hold other bytes than zero."""
        if end > start:
            yield Extent(start, end)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:  # noqa: ARG002
        """Yield where `start..end` lies, one step down, in order; nothing for a disk."""
        yield from ()

    def recheck(self) -> None:  # noqa: B027 - most volumes have nothing to look at
        """Raise Refused where this is not the disk any more that was opened; call it before the first write.

        Nothing to do for what stands on other volumes or in memory.
        """

    def busy(self) -> str | None:
        """Say who uses the disk or a part of it, or None; raises nothing."""
        return None

    def close(self) -> None:  # noqa: B027 - most volumes hold nothing open
        """Let go of files and connections; the volume cannot be used any more."""

    def check_range(self, at: int, size: int) -> None:
        """Raise Truncated where `at..at+size` is not inside the volume."""
        if at < 0 or size < 0 or at + size > self.size:
            raise Truncated(
                "access beyond the end",
                volume=self.name,
                at=at,
                expected=f"<= {self.size} bytes",
                found=at + size,
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.size}>"


class Span(Volume):
    """A contiguous part of another volume: `size` bytes from byte `start`."""

    def __init__(self, name: str, parent: Volume, start: int, size: int) -> None:
        parent.check_range(start, size)
        self.name, self.parent, self.start, self.size = name, parent, start, size
        self.sector_size = parent.sector_size

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        return self.parent.read(self.start + at, size)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        self.check_range(at, len(data))
        self.parent.write(self.start + at, data)

    def zero(self, at: int, size: int) -> None:
        self.check_range(at, size)
        self.parent.zero(self.start + at, size)

    def flush(self) -> None:
        self.parent.flush()

    def data(self, start: int, end: int) -> Iterator[Extent]:
        for part in self.parent.data(self.start + start, self.start + min(end, self.size)):
            yield Extent(part.start - self.start, part.end - self.start)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        if end > start:
            yield Piece(self.parent, self.start + start, end - start)


class Concat(Volume):
    """Parts of other volumes one after the other, as a logical volume of linear segments is."""

    def __init__(self, name: str, parts: Sequence[Piece], sector_size: int) -> None:
        for part in parts:
            part.volume.check_range(part.at, part.size)
        self.name, self.parts, self.sector_size = name, tuple(parts), sector_size
        self.starts: list[int] = []
        self.size = 0
        for part in parts:
            self.starts.append(self.size)
            self.size += part.size

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        return b"".join(piece.volume.read(piece.at, piece.size) for piece in self.pieces(at, at + size))

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        self.check_range(at, len(data))
        view = memoryview(data)
        done = 0
        for piece in self.pieces(at, at + len(data)):
            piece.volume.write(piece.at, view[done : done + piece.size])
            done += piece.size

    def flush(self) -> None:
        for volume in {id(part.volume): part.volume for part in self.parts}.values():
            volume.flush()

    def data(self, start: int, end: int) -> Iterator[Extent]:
        at = start
        for piece in self.pieces(start, min(end, self.size)):
            for part in piece.volume.data(piece.at, piece.at + piece.size):
                yield Extent(at + part.start - piece.at, at + part.end - piece.at)
            at += piece.size

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        index = bisect_right(self.starts, start) - 1
        while start < end and index < len(self.parts):
            part = self.parts[index]
            skip = start - self.starts[index]
            size = min(part.size - skip, end - start)
            if size > 0:
                yield Piece(part.volume, part.at + skip, size)
            start += size
            index += 1


def lower(volume: Volume, extents: ExtentSet) -> list[tuple[Volume, ExtentSet]]:
    """Map bytes of `volume` one step down; each volume below appears once."""
    found: dict[int, tuple[Volume, list[ExtentSet]]] = {}
    at = extents.bounds[0] if extents else 0
    for piece in volume.pieces(at, extents.bounds[-1]) if extents else ():
        mapped = extents.clip(at, at + piece.size).shift(piece.at - at)
        found.setdefault(id(piece.volume), (piece.volume, []))[1].append(mapped)
        at += piece.size
    return [(below, union(sets)) for below, sets in found.values()]


def locate(volume: Volume, start: int, end: int) -> list[Piece]:
    """Map `start..end` of `volume` all the way down to volumes that stand on nothing (disks), in order."""
    parts = list(volume.pieces(start, end))
    if not parts:
        return [Piece(volume, start, end - start)] if end > start else []
    return [disk for part in parts for disk in locate(part.volume, part.at, part.at + part.size)]


def read_only(volume: Volume) -> Refused:
    """Return the error for writing to a volume that was opened for reading."""
    return Refused("opened for reading only", volume=volume.name)
