"""A disk that notes every write and flush of a real run, and what a power cut may leave of them.

A disk promises: what was written before a flush is on the medium when the flush returns, and a sector is
there whole or not at all. Nothing else. So after a cut every sector written since the last flush may have
its old or its new content, whatever order they were written in.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from onebay.base.extent import Extent, ExtentSet
from onebay.block import Overlay, Volume

GRAIN = 512  # bytes that are written whole or not at all; also assumed of disks with larger sectors
Content = dict[int, bytes]


class Soiled(Volume):
    """`base` on a larger disk that has had a life before: random bytes behind its end and in `dirt`."""

    def __init__(self, base: Volume, size: int, dirt: ExtentSet | None = None, seed: int = 1) -> None:
        self.base, self.size = base, size
        self.name, self.sector_size = base.name, base.sector_size
        self.dirt = (dirt or ExtentSet()) | ExtentSet.single(base.size, size)
        self.pattern = random.Random(seed).randbytes((1 << 20) + 4096 + GRAIN)

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        inside = max(0, min(size, self.base.size - at))
        out = bytearray(self.base.read(at, inside) if inside else b"").ljust(size, b"\0")
        for start, end in self.dirt.clip(at, at + size):
            skip = start % len(self.pattern)
            times = -(-(skip + end - start) // len(self.pattern))
            out[start - at : end - at] = (self.pattern * times)[skip : skip + end - start]
        return bytes(out)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError("what a disk was before is never written")

    def flush(self) -> None:
        raise AssertionError("what a disk was before is never written")

    def data(self, start: int, end: int) -> Iterator[Extent]:
        inside = min(end, self.base.size)
        held = ExtentSet.of(self.base.data(start, inside)) if inside > start else ExtentSet()
        yield from held | self.dirt.clip(start, end)


class Writable(Overlay):
    """An overlay that also answers what a verb asks of an image file or device."""

    fresh = False
    writable = True

    def forget(self) -> None:
        """Nothing is cached."""

    def busy(self) -> str | None:
        return None

    def settle(self) -> None:
        """There is no system to tell."""


class Recorder(Writable):
    """Notes what is written: `epochs` are the stretches between flushes, as (sector, content)."""

    def __init__(self, base: Volume) -> None:
        super().__init__(base)
        self.epochs: list[list[tuple[int, bytes]]] = [[]]
        self.known: dict[bytes, bytes] = {}
        self.writes = self.flushes = 0

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        super().write(at, data)
        self.writes += 1
        first, end = at // GRAIN, -(-(at + len(data)) // GRAIN)
        raw = self.read(first * GRAIN, (end - first) * GRAIN)
        for skip in range(0, len(raw), GRAIN):
            piece = raw[skip : skip + GRAIN]
            self.epochs[-1].append((first + skip // GRAIN, self.known.setdefault(piece, piece)))

    def flush(self) -> None:
        self.flushes += 1
        if self.epochs[-1]:
            self.epochs.append([])

    def log(self) -> Log:
        """Return what was noted; the run must have ended with a flush."""
        assert not self.epochs[-1], "the last writes were not flushed"
        return Log(self.base, self.epochs[:-1])


@dataclass
class Log:
    """The writes of one run on `base`, in epochs between flushes, sector by sector."""

    base: Volume
    epochs: list[list[tuple[int, bytes]]]
    universe: list[int] = field(init=False)
    before: Content = field(init=False)

    def __post_init__(self) -> None:
        self.universe = sorted({sector for epoch in self.epochs for sector, _ in epoch})
        self.before = {sector: self.base.read(sector * GRAIN, GRAIN) for sector in self.universe}

    @property
    def sectors(self) -> int:
        """Number of sector writes."""
        return sum(map(len, self.epochs))

    def put(self, content: Content, sector: int, data: bytes) -> bool:
        """Apply one sector write; return whether it changed anything."""
        if data == self.before[sector]:
            return content.pop(sector, None) is not None
        if content.get(sector) == data:
            return False
        content[sector] = data
        return True

    def prefixes(self) -> Iterator[Content]:
        """Yield the state before the first write, and after each write of a sector that changes something.

        It is one dictionary that changes; copy what is to be kept.
        """
        content: Content = {}
        yield content
        for epoch in self.epochs:
            for sector, data in epoch:
                if self.put(content, sector, data):
                    yield content

    def subsets(self, rng: random.Random, each: int) -> Iterator[Content]:
        """Yield, for every epoch, up to `each` random sets of its sectors on top of all earlier epochs.

        The last write alone, all but the first, few, half or most of the sectors, single ones that are
        missing or came alone, and a torn stretch of a write. Only sectors that change anything count.
        """
        start: Content = {}
        for whole in self.epochs:
            epoch = [item for item in whole if start.get(item[0], self.before[item[0]]) != item[1]]
            if not epoch:
                continue
            count = 1 if len(epoch) == 1 else min(each, 1 << min(len(epoch), 20))
            for turn in range(count):
                content = dict(start)
                for sector, data in chosen(epoch, rng, turn):
                    self.put(content, sector, data)
                yield content
            for sector, data in whole:
                self.put(start, sector, data)

    def sample(self, rng: random.Random, prefixes: int, subsets: int) -> list[Content]:
        """Return up to so many random prefixes and random parts, as copies."""
        total = sum(1 for _ in self.prefixes())
        numbers = set(rng.sample(range(total), min(total, prefixes)))
        found = [dict(content) for number, content in enumerate(self.prefixes()) if number in numbers]
        parts = [dict(content) for content in self.subsets(rng, 12)]
        return found + rng.sample(parts, min(len(parts), subsets))

    def final(self) -> Content:
        """Return the state after the whole run."""
        content: Content = {}
        for epoch in self.epochs:
            for sector, data in epoch:
                self.put(content, sector, data)
        return content

    def volume(self, content: Content) -> Replayed:
        """Return the disk in a state."""
        return Replayed(self.base, content, self.universe)

    def touched(self) -> ExtentSet:
        """Return the bytes whose content the run changes at any time."""
        return ExtentSet.of(
            (sector * GRAIN, (sector + 1) * GRAIN)
            for sector in {s for epoch in self.epochs for s, data in epoch if data != self.before[s]}
        )


def chosen(epoch: list[tuple[int, bytes]], rng: random.Random, turn: int) -> list[tuple[int, bytes]]:
    """Return the sector writes of an epoch that reach the disk, in their order."""
    match turn % 8:
        case 0:
            return epoch[-1:]
        case 1:
            return epoch[1:]
        case 2:
            alone = rng.randrange(len(epoch))
            return [epoch[alone]]
        case 3:
            gone = rng.randrange(len(epoch))
            return [item for number, item in enumerate(epoch) if number != gone]
        case 4:
            first, last = sorted(rng.choices(range(len(epoch) + 1), k=2))
            return epoch[first:last]
        case kind:
            share = (0.1, 0.5, 0.9)[kind - 5]
            return [item for item in epoch if rng.random() < share]


class Replayed(Volume):
    """`base` with the sectors of a state."""

    def __init__(self, base: Volume, content: Content, universe: list[int]) -> None:
        self.base, self.content, self.universe = base, content, universe
        self.name, self.size, self.sector_size = base.name, base.size, base.sector_size

    def read(self, at: int, size: int) -> bytes:
        raw = self.base.read(at, size)
        first, end = at // GRAIN, -(-(at + size) // GRAIN)
        content = self.content
        if end - first > len(content):
            hits = [sector for sector in content if first <= sector < end]
        else:
            hits = [sector for sector in range(first, end) if sector in content]
        if not hits:
            return raw
        out = bytearray(raw)
        for sector in hits:
            low, high = max(at, sector * GRAIN), min(at + size, (sector + 1) * GRAIN)
            out[low - at : high - at] = content[sector][low - sector * GRAIN : high - sector * GRAIN]
        return bytes(out)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError("a state is looked at, never written")

    def flush(self) -> None:
        raise AssertionError("a state is looked at, never written")

    def data(self, start: int, end: int) -> Iterator[Extent]:
        known = ExtentSet.of(self.base.data(start, end))
        mine = ExtentSet.of((s * GRAIN, (s + 1) * GRAIN) for s in self.content).clip(start, end)
        yield from known | mine
