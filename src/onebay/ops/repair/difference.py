"""Steps that make a partition what a file says, in an order that a power cut may interrupt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.extent import Builder, ExtentSet
from onebay.base.step import Copy, Flush, Write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onebay.base.step import Step
    from onebay.block import Volume

PAGE = 4096
CHUNK = 1 << 20


def differing(want: Volume, have: Volume, extents: Iterable[tuple[int, int]]) -> ExtentSet:
    """Return the parts of `extents`, a page each at most, in which two volumes of one size differ."""
    found = Builder()
    for low, high in ExtentSet.of(extents).clip(0, want.size):  # blocks may be smaller than pages
        for at in range(low, high, CHUNK):
            size = min(CHUNK, high - at)
            new, old = want.read(at, size), have.read(at, size)
            if new == old:
                continue
            for start in range(0, size, PAGE):
                end = min(start + PAGE, size)
                if new[start:end] != old[start:end]:
                    found.add(at + start, at + end)
    return found.done()


def plan_whole(want: Volume, slot: Volume, extents: Iterable[tuple[int, int]], why: str) -> list[Step]:
    """Return the steps that bring the bytes `extents` of `want` to `slot`; the first page counts last.

    Cut short, the partition is as damaged as it was, and the same repair begins again.
    """
    pages = differing(want, slot, extents)
    if not pages:
        return []
    first = ExtentSet.single(0, PAGE)
    steps: list[Step] = [Copy(want, low, slot, low, high - low, why) for low, high in pages - first]
    steps.append(Flush(slot))
    steps += [Copy(want, low, slot, low, high - low, why) for low, high in pages & first]
    return [*steps, Flush(slot)]


def plan_careful(want: Volume, slot: Volume, free: ExtentSet, why: str) -> list[Step]:
    """Return the steps that make `slot` like `want`: first what is `free` in it, then the rest at once.

    The rest is marked as critical: it goes through the journal, so that the file system is the old one or
    the new one.
    """
    pages = differing(want, slot, [*want.data(0, want.size), *slot.data(0, slot.size)])
    if not pages:
        return []
    unused = pages & free
    rest = pages - unused
    # one name for both, by which the journal knows that the second stands on the first
    first, then = writes(want, slot, unused, why), writes(want, slot, rest, f"critical: {why}")
    return [*first, Flush(slot), *then, Flush(slot)]


def writes(want: Volume, slot: Volume, extents: ExtentSet, why: str) -> list[Step]:
    """Return the writes that bring `extents` of `want` to `slot`."""
    return [
        Write(slot, at, want.read(at, min(CHUNK, high - at)), why)
        for low, high in extents
        for at in range(low, high, CHUNK)
    ]
