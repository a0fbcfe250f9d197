"""ExtentSet against Python's own sets of integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onebay.base.extent import ExtentSet, union

ranges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda r: (r[0], r[0] + r[1])), max_size=8
)


def points(extents: ExtentSet) -> set[int]:
    return {byte for start, end in extents for byte in range(start, end)}


def plain(pairs: list[tuple[int, int]]) -> set[int]:
    return {byte for start, end in pairs for byte in range(start, end)}


@given(ranges, ranges)
def test_algebra(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    left, right = ExtentSet.of(a), ExtentSet.of(b)
    assert points(left) == plain(a)
    assert points(left | right) == plain(a) | plain(b)
    assert points(left & right) == plain(a) & plain(b)
    assert points(left - right) == plain(a) - plain(b)
    assert left.size == len(plain(a))
    for one, two in zip(list(left), list(left)[1:], strict=False):
        assert one.end < two.start  # normal form: sorted, disjoint, not touching


@given(st.lists(ranges, max_size=6))
def test_union(many: list[list[tuple[int, int]]]) -> None:
    assert union([ExtentSet.of(each) for each in many]) == ExtentSet.of(
        [pair for each in many for pair in each]
    )


@given(ranges, st.integers(0, 70), st.integers(0, 70))
def test_clip_covers_overlaps(a: list[tuple[int, int]], start: int, end: int) -> None:
    extents = ExtentSet.of(a)
    window = set(range(start, end))
    assert points(extents.clip(start, end)) == plain(a) & window
    assert extents.clip(start, end) == ExtentSet.of(list(extents.clip(start, end)))
    assert extents.covers(start, end) == (window <= plain(a))
    assert extents.overlaps(start, end) == bool(window & plain(a))


@given(ranges, st.integers(1, 9), st.integers(0, 100))
def test_align_and_shift(a: list[tuple[int, int]], grid: int, delta: int) -> None:
    extents = ExtentSet.of(a)
    assert points(extents.align(grid)) == {
        byte for point in plain(a) for byte in range(point // grid * grid, point // grid * grid + grid)
    }
    assert points(extents.shift(delta)) == {point + delta for point in plain(a)}
