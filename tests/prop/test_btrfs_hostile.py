"""Btrfs records, and hostile trees: whatever the bytes say, only our own errors come out, in bounded time.

Damage is sealed with a right checksum, so that it reaches the parsers behind it.
"""

from __future__ import annotations

import contextlib
import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from onebay.base.error import Damaged, Unsupported
from onebay.block import Overlay, Volume
from onebay.fs.btrfs import BtrfsFs, probe
from onebay.fs.btrfs.csum import sealed
from onebay.fs.btrfs.record import CHUNK, DEV_ITEM, HEADER, STRIPE, SUPER, SUPER_PLACES, SUPER_SIZE
from onebay.layer import Suspect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onebay.base.record import Layout

GOLDEN = Path(__file__).parents[1] / "format" / "btrfs"
CASES = ("dup", "mixed-xxhash", "single-sha256", "block-group-tree", "raid1")


PAGE = 1 << 16  # bytes


class Memory(Volume):
    """A read-only volume that keeps only the pages that are not zero."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.name, self.size, self.sector_size = "memory", 0, 512
        self.pages: dict[int, bytes] = {}
        for part in parts:
            for at in range(0, len(part), PAGE):
                if page := part[at : at + PAGE].rstrip(b"\0"):
                    self.pages[(self.size + at) // PAGE] = page
            self.size += len(part)

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        first = at // PAGE
        pages = [self.pages.get(n, b"").ljust(PAGE, b"\0") for n in range(first, (at + size - 1) // PAGE + 1)]
        return b"".join(pages)[at - first * PAGE :][:size]

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError("plans must not write")

    def flush(self) -> None:
        raise AssertionError("plans must not write")


@cache
def image(case: str) -> Memory:
    """Unpack a golden image."""
    with (GOLDEN / f"{case}.img.zst").open("rb") as packed:
        return Memory(zstandard.ZstdDecompressor().read_to_iter(packed, write_size=PAGE))


@cache
def blocks(case: str) -> tuple[int, ...]:
    """Return where the tree blocks are that we read: chunk tree, root tree, extent tree."""
    fs = probe(image(case))
    assert isinstance(fs, BtrfsFs)
    reader = fs.reader
    assert reader is not None
    found: set[int] = set()
    read = reader.volume.read

    def spy(at: int, size: int) -> bytes:
        found.add(at)
        return read(at, size)

    reader.volume.read = spy  # type: ignore[method-assign]
    try:
        assert fs.used()
        fs = probe(reader.volume)
    finally:
        del reader.volume.read
    return tuple(sorted(at for at in found if at not in SUPER_PLACES))


def twins(fs: BtrfsFs, at: int) -> tuple[int, ...]:
    """Return all copies of the tree block at a place of the device, so that none is left to fall back to."""
    assert fs.reader is not None
    bytenr = HEADER.unpack(fs.below[0].read(at, HEADER.size)).bytenr
    return fs.reader.map.places(bytenr, fs.sb.nodesize)


def survive(volume: Volume) -> None:
    """Ask everything that may be asked of a volume."""
    fs = probe(volume)
    if not isinstance(fs, BtrfsFs):
        assert fs is None or isinstance(fs, Suspect)
        return
    (used,) = fs.used()
    assert used.bounds[-1] <= volume.size
    assert fs.facts()
    fs.keep_whole()
    fs.check()
    with contextlib.suppress(Unsupported, Damaged):
        fs.plan_grow()


@pytest.mark.parametrize(
    "layout", [SUPER, HEADER, DEV_ITEM, CHUNK, STRIPE], ids=lambda it: it.record.__name__
)
@given(seed=st.integers(0), fill=st.sampled_from((None, 0, 0xFF)))
@settings(max_examples=30, deadline=None)
def test_records_keep_every_byte(layout: Layout[Any], seed: int, fill: int | None) -> None:
    raw = random.Random(seed).randbytes(layout.size) if fill is None else bytes((fill,)) * layout.size
    assert layout.pack(layout.unpack(raw)) == raw


NUMBERS = st.sampled_from(
    (0, 1, 2, 255, 4095, 4096, 65536, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63), (1 << 64) - 1)
)
PATCHES = st.lists(
    st.tuples(
        st.integers(0, 400) | st.integers(0, 16_383),
        NUMBERS.map(lambda n: n.to_bytes(8, "little")) | st.binary(min_size=1, max_size=8),
        st.sampled_from((1, 2, 4, 8)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("case", CASES[:-1])
@given(data=st.data())
@settings(max_examples=150, deadline=2000)
def test_hostile_tree_blocks(case: str, data: st.DataObject) -> None:
    base = image(case)
    volume = Overlay(base, size=base.size + data.draw(st.sampled_from((0, 1 << 30))))
    fs = probe(base)
    assert isinstance(fs, BtrfsFs)
    for at in data.draw(st.lists(st.sampled_from(blocks(case)), min_size=1, max_size=3)):
        node = bytearray(volume.read(at, fs.sb.nodesize))
        for place, value, size in data.draw(PATCHES):
            place %= len(node) - 8  # noqa: PLW2901
            node[place : place + size] = value[:size].ljust(size, b"\0")
        for copy in twins(fs, at):
            volume.write(copy, sealed(fs.sb.csum_type, node))
    survive(volume)


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
@settings(max_examples=150, deadline=2000)
def test_hostile_superblocks(case: str, data: st.DataObject) -> None:
    base = image(case)
    volume = Overlay(base)
    for at in SUPER_PLACES[: data.draw(st.integers(1, 2))]:
        sb = bytearray(volume.read(at, SUPER_SIZE))
        for place, value, size in data.draw(PATCHES):
            place %= 1200  # noqa: PLW2901
            sb[place : place + size] = value[:size].ljust(size, b"\0")
        kind = int.from_bytes(sb[0xC4:0xC6], "little")
        volume.write(at, sealed(kind, sb) if kind < 4 else sb)
    survive(volume)


@given(raw=st.binary(min_size=1, max_size=64))
@settings(max_examples=40, deadline=2000)
def test_noise_is_not_ours(raw: bytes) -> None:
    noise = bytearray((raw * (300_000 // len(raw) + 1))[:300_000])
    noise[0x1_0040:0x1_0048] = b"_BHRfS_!"
    assert probe(Memory([bytes(noise)])) is None
    noise[0x1_0040:0x1_0048] = b"_BHRfS_M"
    assert isinstance(probe(Memory([bytes(noise)])), BtrfsFs | Suspect)
