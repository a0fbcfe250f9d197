"""The file allocation table: its entries, chains of clusters, and what is allocated."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent
from onebay.base.extent import Builder, ExtentSet
from onebay.fs.fat.geometry import FAT_START_ENT, Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block.volume import Volume

CHUNK = 96 << 10  # a multiple of 3, 2 and 4 bytes, so that no entry is cut


class Table:
    """The FATs of one volume; numbers of copies count from 0."""

    def __init__(self, volume: Volume, geometry: Geometry) -> None:
        self.volume, self.geometry = volume, geometry
        # what lies behind the last cluster's entry means nothing
        self.size = -(-(geometry.clusters + FAT_START_ENT) * geometry.bits // 8)

    def chunks(self, copy: int) -> Iterator[bytes]:
        """Yield the meaningful bytes of a copy in order."""
        at = self.geometry.fat_at + copy * self.geometry.fat_size
        for done in range(0, self.size, CHUNK):
            yield self.volume.read(at + done, min(CHUNK, self.size - done))

    def entry(self, number: int) -> int:
        """Return the entry of cluster `number` (0 and 1 are no clusters) in the active FAT."""
        bits = self.geometry.bits
        at = self.geometry.fat_at + self.geometry.active[0] * self.geometry.fat_size + number * bits // 8
        raw = int.from_bytes(self.volume.read(at, 4 if bits == 32 else 2), "little")
        return (raw >> 4 if bits == 12 and number % 2 else raw) & self.geometry.mask

    def chain(self, first: int, most: int) -> Iterator[int]:
        """Yield the clusters of a chain; raises Inconsistent where it leaves the volume or exceeds `most`."""
        geometry = self.geometry
        number = first
        for _ in range(most):
            if not FAT_START_ENT <= number < geometry.clusters + FAT_START_ENT:
                raise Inconsistent(
                    "chain leads to a cluster that does not exist",
                    volume=self.volume.name,
                    expected=f"2 to {geometry.clusters + 1}",
                    found=number,
                )
            yield number
            number = self.entry(number)
            if number > geometry.bad:
                return
        raise Inconsistent("chain of clusters is too long or a loop", volume=self.volume.name, expected=most)

    def differing(self) -> list[int]:
        """Numbers of the copies that are not what the first one is."""
        first, *rest = self.geometry.active
        return [
            copy
            for copy in rest
            if any(a != b for a, b in zip(self.chunks(first), self.chunks(copy), strict=True))
        ]

    def allocated(self) -> ExtentSet:
        """Bytes of all clusters that any copy marks as allocated; bad clusters are not among them."""
        found = self.allocated_in(self.geometry.active[0])
        for copy in self.differing():
            found |= self.allocated_in(copy)
        return found

    def allocated_in(self, copy: int) -> ExtentSet:
        """Bytes of the clusters that one copy marks as allocated."""
        geometry = self.geometry
        mask, bad = geometry.mask, geometry.bad
        stop = geometry.clusters + FAT_START_ENT
        builder = Builder()
        first = 0
        for chunk in self.chunks(copy):
            if chunk.count(0) == len(chunk):
                first += len(chunk) * 8 // geometry.bits
                continue
            values = decode(chunk, geometry.bits)
            start = None
            for number, value in enumerate(values, first):
                if value & mask and value & mask != bad:
                    if start is None:
                        start = number
                elif start is not None:
                    self.add(builder, start, number)
                    start = None
            first += len(values)
            if start is not None:
                self.add(builder, start, min(first, stop))
        return builder.done()

    def add(self, builder: Builder, start: int, stop: int) -> None:
        """Append clusters `start` up to but not including `stop`; entries 0 and 1 are none."""
        start = max(start, FAT_START_ENT)
        if start < stop:
            builder.add(self.geometry.cluster_at(start), self.geometry.cluster_at(stop))


def decode(raw: bytes, bits: int) -> array[int]:
    """Split bytes into entries; an incomplete rest is ignored."""
    if bits == 12:
        raw = raw + bytes(-len(raw) % 3)
        out = array("H")
        for low, middle, high in zip(raw[0::3], raw[1::3], raw[2::3], strict=True):
            out.append(low | (middle & 0x0F) << 8)
            out.append(middle >> 4 | high << 4)
        return out
    width = bits // 8
    values = array("H" if bits == 16 else "I", raw[: len(raw) // width * width])
    if values.itemsize != width:
        raise AssertionError("array item size")
    return values
