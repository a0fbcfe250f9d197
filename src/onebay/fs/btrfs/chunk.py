"""Chunks: where a logical address lies on the devices.

Sources: linux fs/btrfs/volumes.c (read_sys_array, read_one_chunk, read_one_dev) and
fs/btrfs/tree-checker.c (btrfs_check_chunk_valid). Only profiles whose stripes are whole copies are mapped:
SINGLE, DUP, RAID1, RAID1C3 and RAID1C4; others are named and kept whole.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Damaged, Inconsistent, Truncated
from onebay.fs.btrfs.record import (
    CHUNK,
    CHUNK_ITEM_KEY,
    COPIES,
    DEV_ITEM,
    DEV_ITEM_KEY,
    KEY,
    PROFILE_NAMES,
    STRIPE,
    TYPE_NAMES,
    DevItem,
    Super,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onebay.block.volume import Volume
    from onebay.fs.btrfs.read import Reader

TYPE_MASK = sum(TYPE_NAMES)


class Place(NamedTuple):
    """Byte `at` of the device `devid`."""

    devid: int
    at: int


class Mapping(NamedTuple):
    """Logical bytes `start..end`, each of them at all of `places`, which say where `start` is."""

    start: int
    end: int
    type: int
    places: tuple[Place, ...]

    @property
    def kind(self) -> str:
        """What the chunk is for, as `data` or `data+metadata`."""
        return "+".join(name for bit, name in TYPE_NAMES.items() if self.type & bit) or "none"

    @property
    def profile(self) -> str:
        """Name of the replication profile, as `single` or `dup`; an unknown one in hexadecimal."""
        bits = self.type & ~TYPE_MASK
        return PROFILE_NAMES.get(bits, hex(bits))

    @property
    def copies(self) -> int:
        """How many stripes the profile has, each a whole copy; 0 for a profile whose stripes are none."""
        return COPIES.get(self.type & ~TYPE_MASK, 0)


class Stretch(NamedTuple):
    """A copy of `chunk` on a device, at its bytes `start..end`."""

    start: int
    end: int
    chunk: Mapping


class ChunkMap:
    """All chunks by logical address."""

    def __init__(self, chunks: Iterable[Mapping]) -> None:
        self.chunks = sorted(chunks)
        self.starts = [chunk.start for chunk in self.chunks]
        for left, right in pairwise(self.chunks):
            if right.start < left.end:
                raise Inconsistent("chunks overlap", expected=f">= {left.end:#x}", found=hex(right.start))

    @property
    def odd_profiles(self) -> list[str]:
        """Names of the profiles that are not read."""
        return sorted({chunk.profile for chunk in self.chunks if not chunk.copies})

    def places(self, at: int, size: int) -> tuple[Place, ...]:
        """Return where logical bytes `at..at+size` lie, one entry a copy; raises Inconsistent."""
        index = bisect_right(self.starts, at) - 1
        if index < 0 or at + size > self.chunks[index].end:
            raise Inconsistent(f"logical address {at:#x} is in no chunk")
        chunk = self.chunks[index]
        if not chunk.copies:
            raise Inconsistent(f"logical address {at:#x} is in a chunk of profile {chunk.profile}")
        return tuple(Place(place.devid, place.at + at - chunk.start) for place in chunk.places)

    def stripes(self) -> dict[int, list[Stretch]]:
        """Return, by devid, all copies in the order of the device; raises Inconsistent where some overlap.

        Chunks of profiles that are not read are left out.
        """
        found: dict[int, list[Stretch]] = {}
        for chunk in self.chunks:
            for devid, at in chunk.places if chunk.copies else ():
                found.setdefault(devid, []).append(Stretch(at, at + chunk.end - chunk.start, chunk))
        for stripes in found.values():
            stripes.sort()
            for left, right in pairwise(stripes):
                if right.start < left.end:
                    raise Inconsistent(
                        "stripes overlap", expected=f">= {left.end:#x}", found=hex(right.start)
                    )
        return found


@dataclass(frozen=True, slots=True)
class DeviceItem:
    """What the chunk tree says of one of our devices, and where."""

    record: DevItem
    block: int  # logical address of the leaf
    at: int  # byte of the device item in that leaf
    generation: int  # of that leaf
    leaf: bytes  # the copy of it that was read


@dataclass(frozen=True, slots=True)
class Space:
    """What the chunk tree says: the map, our devices by devid, and the devids of others that it names."""

    map: ChunkMap
    devices: dict[int, DeviceItem]
    absent: frozenset[int]


def parse_chunk(raw: bytes | memoryview, at: int, start: int, sectorsize: int) -> tuple[Mapping, int]:
    """Return the chunk at byte `at` of `raw` and its size there; raises Truncated or Inconsistent."""
    chunk = CHUNK.unpack(raw, at)
    size = CHUNK.size + chunk.num_stripes * STRIPE.size
    if chunk.num_stripes == 0 or at + size > len(raw):
        raise Truncated(f"stripes of chunk {start:#x}", expected=chunk.num_stripes, found=len(raw) - at)
    stripes = STRIPE.unpack_all(memoryview(raw)[at + CHUNK.size : at + size])
    places = tuple(Place(stripe.devid, stripe.offset) for stripe in stripes)
    end = start + chunk.length
    if chunk.length == 0 or max(end, *(place.at + chunk.length for place in places)) >= 1 << 64:
        raise Inconsistent(f"length of chunk {start:#x}", found=chunk.length)
    if any(value % sectorsize for value in (start, chunk.length, *(place.at for place in places))):
        raise Inconsistent(f"chunk {start:#x} is not aligned to sectors of {sectorsize} bytes")
    mapping = Mapping(start, end, chunk.type, places)
    if mapping.copies not in (0, len(places)):
        raise Inconsistent(f"chunk {start:#x}: {mapping.profile} of {len(places)} stripes")
    return mapping, size


def parse_system_chunks(sb: Super) -> list[Mapping]:
    """Return the chunks in the superblock, which lead to the chunk tree; raises Truncated or Inconsistent."""
    raw = sb.sys_chunk_array[: sb.sys_chunk_array_size]
    found, at = [], 0
    while at < len(raw):
        if at + KEY.size > len(raw):
            raise Truncated("system chunk array ends inside a key", found=len(raw))
        _, kind, start = KEY.unpack_from(raw, at)
        if kind != CHUNK_ITEM_KEY:
            raise Inconsistent("key in the system chunk array", expected=CHUNK_ITEM_KEY, found=kind)
        chunk, size = parse_chunk(raw, at + KEY.size, start, sb.sectorsize)
        found.append(chunk)
        at += KEY.size + size
    return found


def read_space(reader: Reader) -> Space:
    """Read the whole chunk tree; raises Damaged, with what is wrong with each copy of a bad block."""
    chunks: list[Mapping] = []
    devices: dict[int, DeviceItem] = {}
    absent: set[int] = set()
    for block in reader.leaves(reader.chunk_root()):
        for item in block.items():
            if item.type == CHUNK_ITEM_KEY:
                chunk, _ = parse_chunk(block.data(item), 0, item.offset, reader.sb.sectorsize)
                chunks.append(chunk)
            elif item.type == DEV_ITEM_KEY:
                found = DEV_ITEM.unpack(block.data(item))
                if found.devid in reader.volumes:
                    place, leaf = block.place(item), bytes(block.view)
                    devices[found.devid] = DeviceItem(found, block.at, place, block.generation, leaf)
                else:
                    absent.add(found.devid)
    for devid in reader.volumes:
        if devid not in devices:
            raise Damaged(f"the chunk tree has no device item for devid {devid}")
    space = Space(ChunkMap(chunks), devices, frozenset(absent))
    space.map.stripes()
    return space


def reason_by_space(space: Space, volumes: dict[int, Volume]) -> str | None:
    """Say why used space of `volumes` (by devid) cannot be told by the chunk tree; None where it can."""
    if space.absent:
        names = ", ".join(map(str, sorted(space.absent)))
        count = len(space.devices) + len(space.absent)
        return f"{len(space.devices)} of {count} devices; not on this disk: devid {names}"
    if odd := space.map.odd_profiles:
        return f"chunk profile {' '.join(odd)} is not read"
    stripes = space.map.stripes()
    if stripes.keys() - space.devices.keys():
        return "chunks lie on another device"
    for devid, found in space.devices.items():
        size, volume = found.record.total_bytes, volumes[devid]
        if size > volume.size:
            return f"the file system has {size} bytes, its volume only {volume.size}"
        if devid in stripes and stripes[devid][-1].end > size:
            return "chunks lie beyond the end of the device"
    return None
