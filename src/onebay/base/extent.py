"""Sets of byte ranges: half-open, sorted, disjoint, kept as one flat array of bounds.

A disk with millions of extents must fit into memory: 16 bytes an extent, no objects.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


class Extent(NamedTuple):
    """Bytes `start` up to but not including `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start


class ExtentSet:
    """An immutable set of bytes; build it with `of`, `single` or `Builder`."""

    __slots__ = ("bounds",)

    def __init__(self, bounds: array[int] | None = None) -> None:
        self.bounds: array[int] = array("Q") if bounds is None else bounds

    @classmethod
    def of(cls, extents: Iterable[tuple[int, int]]) -> ExtentSet:
        """Build from ranges in any order; raises ValueError where one ends before its start."""
        builder = Builder()
        for start, end in sorted(extents):
            if end < start:
                raise ValueError(f"extent ends before it starts: {start}..{end}")
            builder.add(start, end)
        return builder.done()

    @classmethod
    def single(cls, start: int, end: int) -> ExtentSet:
        """Build from one range; empty where `end <= start`."""
        return cls(array("Q", (start, end)) if end > start else None)

    def __iter__(self) -> Iterator[Extent]:
        it = iter(self.bounds)
        return (Extent(start, end) for start, end in zip(it, it, strict=True))

    def __len__(self) -> int:
        return len(self.bounds) // 2

    def __bool__(self) -> bool:
        return bool(self.bounds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtentSet) and self.bounds == other.bounds

    def __hash__(self) -> int:
        return hash(self.bounds.tobytes())

    def __repr__(self) -> str:
        head = ", ".join(f"{e.start:#x}..{e.end:#x}" for e, _ in zip(self, range(6), strict=False))
        return f"ExtentSet({head}{', ..' if len(self) > 6 else ''})"

    @property
    def size(self) -> int:
        """Number of bytes in the set."""
        return sum(self.bounds[1::2]) - sum(self.bounds[0::2])

    def __or__(self, other: ExtentSet) -> ExtentSet:
        if not other:
            return self
        if not self:
            return other
        return combine(self, other, lambda a, b: a or b)

    def __and__(self, other: ExtentSet) -> ExtentSet:
        return combine(self, other, lambda a, b: a and b)

    def __sub__(self, other: ExtentSet) -> ExtentSet:
        return self if not other else combine(self, other, lambda a, b: a and not b)

    def shift(self, delta: int) -> ExtentSet:
        """Move every range by `delta` bytes; raises OverflowError below zero."""
        return self if delta == 0 else ExtentSet(array("Q", (bound + delta for bound in self.bounds)))

    def clip(self, start: int, end: int) -> ExtentSet:
        """Only what lies in `start..end`; cost is that of the result."""
        if end <= start:
            return ExtentSet()
        first, last = bisect_right(self.bounds, start), bisect_right(self.bounds, end)
        middle = self.bounds[first:last]
        if first % 2:
            middle.insert(0, start)
        if last % 2:
            middle.append(end)
        if len(middle) >= 2 and middle[-1] == middle[-2]:
            del middle[-2:]
        return ExtentSet(middle)

    def align(self, grid: int) -> ExtentSet:
        """Grow every range outwards to multiples of `grid` bytes, and merge what then touches."""
        builder = Builder()
        for start, end in self:
            builder.add(start // grid * grid, -(-end // grid) * grid)
        return builder.done()

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte of `start..end` is in the set."""
        if end <= start:
            return True
        at = bisect_right(self.bounds, start)
        return at % 2 == 1 and self.bounds[at] >= end

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any byte of `start..end` is in the set."""
        return bool(self.clip(start, end))


class Builder:
    """Collect ranges in ascending order of their starts; touching and overlapping ones merge."""

    __slots__ = ("bounds",)

    def __init__(self) -> None:
        self.bounds: array[int] = array("Q")

    def add(self, start: int, end: int) -> None:
        """Append a range; raises ValueError where it starts before the previous one did."""
        bounds = self.bounds
        if end <= start:
            return
        if bounds and start <= bounds[-1]:
            if start < bounds[-2]:
                raise ValueError(f"extents out of order: {start} after {bounds[-2]}")
            bounds[-1] = max(bounds[-1], end)
        else:
            bounds.append(start)
            bounds.append(end)

    def done(self) -> ExtentSet:
        """Return the set."""
        return ExtentSet(self.bounds)


def union(sets: Sequence[ExtentSet]) -> ExtentSet:
    """Return what is in any of `sets`; joined in pairs, so that each range is copied a few times only."""
    while len(sets) > 1:
        pairs = zip(sets[::2], [*sets[1::2], ExtentSet()], strict=False)
        sets = [one | other for one, other in pairs]
    return sets[0] if sets else ExtentSet()


def combine(a: ExtentSet, b: ExtentSet, keep: Callable[[bool, bool], bool]) -> ExtentSet:
    """Sweep over the bounds of both sets and keep the bytes for which `keep(in_a, in_b)` holds.

    Where many bounds of one set lie between two of the other, they are taken as one slice.
    """
    left, right = a.bounds, b.bounds
    out: array[int] = array("Q")
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] < right[j]:
            i, first = ahead(left, i, right[j]), i
            if keep(False, j % 2 == 1) != keep(True, j % 2 == 1):  # each bound of the slice counts
                out.extend(left[first:i])
        elif right[j] < left[i]:
            j, first = ahead(right, j, left[i]), j
            if keep(i % 2 == 1, False) != keep(i % 2 == 1, True):
                out.extend(right[first:j])
        else:
            before = keep(i % 2 == 1, j % 2 == 1)
            i, j = i + 1, j + 1
            if keep(i % 2 == 1, j % 2 == 1) != before:
                out.append(left[i - 1])
    if keep(True, False):
        out.extend(left[i:])
    if keep(False, True):
        out.extend(right[j:])
    return ExtentSet(out)


def ahead(bounds: array[int], at: int, limit: int) -> int:
    """Return the index of the first bound from `at` + 1 on that is not below `limit`."""
    at += 1
    if at == len(bounds) or bounds[at] >= limit:
        return at
    return bisect_left(bounds, limit, at)
