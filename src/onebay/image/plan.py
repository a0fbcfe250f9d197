"""What a capture reads: kept bytes that may be other than zero, unit by unit, in disk order.

Memory and work follow the number of ranges, never the size of the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import SourceError
from onebay.image.blockmap import aligned
from onebay.image.record import GRID, UNIT, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onebay.base.extent import ExtentSet
    from onebay.block.volume import Volume

# Reading over a gap is cheaper than another read, up to about this many bytes.
READ_OVER = 128 << 10


class Run(NamedTuple):
    """Units `first` up to but not including `end` that need no reading."""

    state: State
    first: int
    end: int


class Part(NamedTuple):
    """A unit to be read: `ranges` are bytes of the disk, in order; everything else in it is zero."""

    unit: int
    ranges: list[tuple[int, int]]


def intersect(left: Iterable[tuple[int, int]], right: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what two ascending streams of disjoint ranges have in common."""
    ours, theirs = iter(left), iter(right)
    a, b = next(ours, None), next(theirs, None)
    while a and b:
        start, end = max(a[0], b[0]), min(a[1], b[1])
        if end > start:
            yield start, end
        if a[1] <= b[1]:
            a = next(ours, None)
        else:
            b = next(theirs, None)


def parts(ranges: Iterable[tuple[int, int]]) -> Iterator[Part]:
    """Cut ranges at the borders of units."""
    part: Part | None = None
    for first, end in ranges:
        start = first
        while start < end:
            unit = start // UNIT
            stop = min(end, (unit + 1) * UNIT)
            if part is None or part.unit != unit:
                if part:
                    yield part
                part = Part(unit, [])
            part.ranges.append((start, stop))
            start = stop
    if part:
        yield part


def kept_units(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield runs of units in which anything is kept."""
    first = end = 0
    for start, stop in ranges:
        down, up = start // UNIT, -(-stop // UNIT)
        if down > end:
            if end > first:
                yield first, end
            first = down
        end = up
    if end > first:
        yield first, end


class Filler:
    """Says what lies between the units that are read; asked for ascending ranges only."""

    def __init__(self, kept: Iterator[tuple[int, int]]) -> None:
        self.kept = kept
        self.run = next(kept, None)

    def between(self, first: int, end: int) -> Iterator[Run]:
        """Yield zero and don't-care runs that fill units `first..end`."""
        while first < end:
            while self.run and self.run[1] <= first:
                self.run = next(self.kept, None)
            if not self.run or self.run[0] >= end:
                yield Run(State.DONT_CARE, first, end)
                return
            if self.run[0] > first:
                yield Run(State.DONT_CARE, first, self.run[0])
            stop = min(end, self.run[1])
            yield Run(State.ZERO, max(first, self.run[0]), stop)
            first = stop


def plan(volume: Volume, keep: ExtentSet) -> Iterator[Run | Part]:
    """Yield, in disk order, every unit of `volume` once, alone or in runs."""
    units = -(-volume.size // UNIT)
    wanted = intersect(aligned(keep, GRID, volume.size), volume.data(0, volume.size))
    filler = Filler(kept_units(aligned(keep, GRID, volume.size)))
    at = 0
    for part in parts(wanted):
        yield from filler.between(at, part.unit)
        yield part
        at = part.unit + 1
    yield from filler.between(at, units)


def read_part(volume: Volume, part: Part) -> bytes | bytearray:
    """Read a unit with few large reads; what is not in its ranges is zero, even where it was read."""
    start = part.unit * UNIT
    size = min(UNIT, volume.size - start)
    if part.ranges == [(start, start + size)]:
        return read_range(volume, start, size)
    out = bytearray(size)
    first, last = part.ranges[0]
    batch = [(first, last)]
    for begin, end in part.ranges[1:]:
        if begin - last > READ_OVER:
            place(volume, out, start, batch)
            batch = []
        batch.append((begin, end))
        last = end
    place(volume, out, start, batch)
    return out


def place(volume: Volume, out: bytearray, start: int, batch: list[tuple[int, int]]) -> None:
    """Read from the first to the last byte of `batch` and copy its ranges to `out`."""
    begin = batch[0][0]
    raw = memoryview(read_range(volume, begin, batch[-1][1] - begin))
    for first, end in batch:
        out[first - start : end - start] = raw[first - begin : end - begin]


def read_range(volume: Volume, at: int, size: int) -> bytes:
    """Read from the disk; raises SourceError where the medium cannot give its bytes."""
    try:
        return volume.read(at, size)
    except OSError as error:
        raise SourceError(f"cannot read the disk: {error.strerror}", volume=volume.name, at=at) from error
