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
from onebay.fs.btrfs import Btrfs, BtrfsFs, assemble, probe
from onebay.fs.btrfs.csum import sealed
from onebay.fs.btrfs.record import (
    CHUNK,
    CHUNK_ITEM_KEY,
    DEV_ITEM,
    DEV_ITEM_KEY,
    HEADER,
    ITEM,
    PROFILE_NAMES,
    STRIPE,
    SUPER,
    SUPER_PLACES,
    SUPER_SIZE,
    Item,
)
from onebay.layer import Member, Suspect

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onebay.base.record import Layout

GOLDEN = Path(__file__).parents[1] / "format" / "btrfs"
# File systems by their devices; of the last one there is only one of two.
CASES = {
    "dup": ("dup",),
    "mixed-xxhash": ("mixed-xxhash",),
    "single-sha256": ("single-sha256",),
    "block-group-tree": ("block-group-tree",),
    "mirror": ("mirror.1", "mirror.3"),
    "spread": ("spread.2", "spread.3"),
    "stripes": ("stripes.1", "stripes.2", "stripes.3"),
    "raid1": ("raid1",),
}
READ = [*CASES][:6]  # whose trees are read

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


def devices(case: str) -> list[Memory]:
    """Return the devices of a golden file system."""
    return [image(name) for name in CASES[case]]


def found(volumes: Sequence[Volume]) -> list[Btrfs | Suspect]:
    """Probe volumes and join what are members, in their groups."""
    answers, groups = list[Btrfs | Suspect](), dict[str, list[Member]]()
    for volume in volumes:
        match probe(volume):
            case Member() as member:
                groups.setdefault(member.key, []).append(member)
            case Btrfs() | Suspect() as answer:
                answers.append(answer)
            case None:
                pass
    return answers + [assemble(members) for members in groups.values()]


def good(case: str) -> Btrfs:
    """Return a golden file system."""
    (fs,) = found(devices(case))
    assert isinstance(fs, Btrfs)
    return fs


class Spy(Overlay):
    """Collects where is read."""

    def __init__(self, base: Volume) -> None:
        super().__init__(base)
        self.seen: set[int] = set()

    def read(self, at: int, size: int) -> bytes:
        self.seen.add(at)
        return super().read(at, size)


@cache
def blocks(case: str) -> tuple[int, ...]:
    """Return the logical addresses of the tree blocks that we read: chunk tree, root tree, extent tree."""
    spies = [Spy(volume) for volume in devices(case)]
    (fs,) = found(spies)
    assert isinstance(fs, Btrfs)
    assert fs.used()
    assert fs.reader is not None
    places = {(spy, at) for spy in spies for at in spy.seen if at not in SUPER_PLACES}
    return tuple(sorted({HEADER.unpack(spy.read(at, HEADER.size)).bytenr for spy, at in places}))


def survive(volumes: Sequence[Volume]) -> None:
    """Ask everything that may be asked of volumes; what is answered is for each of them."""
    below: list[Volume] = []
    for fs in found(volumes):
        if not isinstance(fs, Btrfs):
            continue
        below += fs.below
        for volume, used in zip(fs.below, fs.used(), strict=True):
            assert used.bounds[-1] <= volume.size
        assert fs.facts()
        fs.keep_whole()
        fs.check()
        with contextlib.suppress(Unsupported, Damaged):
            fs.plan_grow()
    assert len({id(volume) for volume in below}) == len(below)


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


def patch(raw: bytearray, data: st.DataObject, limit: int) -> None:
    """Change some numbers in the first `limit` bytes."""
    for place, value, size in data.draw(PATCHES):
        at = place % limit
        raw[at : at + size] = value[:size].ljust(size, b"\0")


@pytest.mark.parametrize("case", READ)
@given(data=st.data())
@settings(max_examples=150, deadline=2000)
def test_hostile_tree_blocks(case: str, data: st.DataObject) -> None:
    more = data.draw(st.sampled_from((0, 1 << 30)))
    volumes = [Overlay(base, size=base.size + more) for base in devices(case)]
    fs = good(case)
    assert fs.reader is not None
    by_devid = dict(zip(fs.reader.volumes, volumes, strict=True))
    for address in data.draw(st.lists(st.sampled_from(blocks(case)), min_size=1, max_size=3)):
        copies = fs.reader.map.places(address, fs.sb.nodesize)  # none is left to fall back to
        node = bytearray(by_devid[copies[0].devid].read(copies[0].at, fs.sb.nodesize))
        patch(node, data, len(node) - 8)
        for devid, at in copies:
            by_devid[devid].write(at, sealed(fs.sb.csum_type, node))
    survive(volumes)


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
@settings(max_examples=150, deadline=2000)
def test_hostile_superblocks(case: str, data: st.DataObject) -> None:
    volumes = [Overlay(base) for base in devices(case)]
    for volume in volumes if data.draw(st.booleans()) else volumes[:1]:
        for at in SUPER_PLACES[: data.draw(st.integers(1, 2))]:
            sb = bytearray(volume.read(at, SUPER_SIZE))
            patch(sb, data, 1200)
            kind = int.from_bytes(sb[0xC4:0xC6], "little")
            volume.write(at, sealed(kind, sb) if kind < 4 else sb)
    survive(volumes)


@pytest.mark.parametrize("case", [case for case in CASES if len(CASES[case]) > 1])
@given(data=st.data())
@settings(max_examples=100, deadline=2000)
def test_hostile_devices(case: str, data: st.DataObject) -> None:
    """Devices that claim other numbers, UUIDs or sizes than they have, are there twice, or not at all."""
    volumes = [Overlay(base, name=f"v{number}") for number, base in enumerate(devices(case))]
    for volume in data.draw(st.lists(st.sampled_from(volumes), max_size=2)):
        item = {
            "devid": data.draw(st.sampled_from((0, 1, 2, 3, 4, (1 << 64) - 1))),
            "total_bytes": data.draw(NUMBERS),
            "uuid": bytes(16),
        }
        chosen = data.draw(st.sets(st.sampled_from([*item]), min_size=1))
        changes = {name: value for name, value in item.items() if name in chosen}
        for at in SUPER_PLACES[:2]:
            sb = SUPER.unpack(volume.read(at, SUPER_SIZE))
            dev_item = DEV_ITEM.pack(DEV_ITEM.unpack(sb.dev_item), **changes)
            volume.write(at, sealed(sb.csum_type, SUPER.pack(sb, dev_item=dev_item)))
    survive(data.draw(st.lists(st.sampled_from(volumes), max_size=4, unique_by=id)))
    twice = [*volumes, Overlay(volumes[0], name="twin")]
    assert not any(isinstance(fs, Btrfs) and len(fs.below) == len(twice) for fs in found(twice))
    survive(twice)


@pytest.mark.parametrize("case", ["mirror", "spread", "stripes"])
@given(data=st.data())
@settings(max_examples=100, deadline=2000)
def test_hostile_device_tables(case: str, data: st.DataObject) -> None:
    """Device items and stripes of the chunk tree that speak of devices, places and profiles at will."""
    volumes = [Overlay(base) for base in devices(case)]
    fs = good(case)
    assert fs.reader is not None
    by_devid = dict(zip(fs.reader.volumes, volumes, strict=True))
    sb = fs.sb
    copies = fs.reader.map.places(sb.chunk_root, sb.nodesize)
    leaf = bytearray(by_devid[copies[0].devid].read(copies[0].at, sb.nodesize))
    header = HEADER.unpack(leaf)
    items = [Item(*ITEM.unpack_from(leaf, HEADER.size + n * ITEM.size)) for n in range(header.nritems)]
    devids = st.sampled_from((0, 1, 2, 3, 4, (1 << 64) - 1))
    for item in data.draw(st.lists(st.sampled_from(items), min_size=1, max_size=3)):
        start = HEADER.size + item.at
        if item.type == DEV_ITEM_KEY:
            leaf[start : start + 8] = data.draw(devids).to_bytes(8, "little")
        elif item.type == CHUNK_ITEM_KEY:
            stripe = start + CHUNK.size + data.draw(st.integers(0, 1)) * STRIPE.size
            leaf[stripe : stripe + 8] = data.draw(devids).to_bytes(8, "little")
            leaf[stripe + 8 : stripe + 16] = data.draw(NUMBERS).to_bytes(8, "little")
            kind = data.draw(st.sampled_from((1, 2, 4, 5))) | data.draw(
                st.sampled_from((0, *PROFILE_NAMES, 24))
            )
            at = start + CHUNK.offset("type")
            leaf[at : at + 8] = kind.to_bytes(8, "little")
    for devid, at in copies:
        by_devid[devid].write(at, sealed(sb.csum_type, leaf))
    survive(volumes)


@given(raw=st.binary(min_size=1, max_size=64))
@settings(max_examples=40, deadline=2000)
def test_noise_is_not_ours(raw: bytes) -> None:
    noise = bytearray((raw * (300_000 // len(raw) + 1))[:300_000])
    noise[0x1_0040:0x1_0048] = b"_BHRfS_!"
    assert probe(Memory([bytes(noise)])) is None
    noise[0x1_0040:0x1_0048] = b"_BHRfS_M"
    assert isinstance(probe(Memory([bytes(noise)])), BtrfsFs | Suspect)
