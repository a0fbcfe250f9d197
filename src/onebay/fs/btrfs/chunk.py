"""Chunks: where a logical address lies on the device.

Sources: linux fs/btrfs/volumes.c (read_sys_array, read_one_chunk, read_one_dev) and
fs/btrfs/tree-checker.c (btrfs_check_chunk_valid). Only profiles whose logical bytes are contiguous on one
device are mapped: SINGLE and DUP; others are named and kept whole.
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
    DEV_ITEM,
    DEV_ITEM_KEY,
    KEY,
    PROFILE_NAMES,
    STRIPE,
    TYPE_DUP,
    TYPE_NAMES,
    DevItem,
    Super,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onebay.fs.btrfs.read import Reader

TYPE_MASK = sum(TYPE_NAMES)


class Mapping(NamedTuple):
    """Logical bytes `start..end`, each of them at all of `places` (bytes of the device)."""

    start: int
    end: int
    type: int
    places: tuple[int, ...]
    devids: tuple[int, ...]

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
    def readable(self) -> bool:
        """Whether `places` are whole copies, one after the other logical byte."""
        return self.type & ~TYPE_MASK in (0, TYPE_DUP)


class ChunkMap:
    """All chunks by logical address."""

    def __init__(self, chunks: Iterable[Mapping]) -> None:
        self.chunks = sorted(chunks)
        self.starts = [chunk.start for chunk in self.chunks]
        for left, right in pairwise(self.chunks):
            if right.start < left.end:
                raise Inconsistent("chunks overlap", expected=f">= {left.end:#x}", found=hex(right.start))

    def places(self, at: int, size: int) -> tuple[int, ...]:
        """Return where logical bytes `at..at+size` lie, one entry a copy; raises Inconsistent."""
        index = bisect_right(self.starts, at) - 1
        if index < 0 or at + size > self.chunks[index].end:
            raise Inconsistent(f"logical address {at:#x} is in no chunk")
        chunk = self.chunks[index]
        if not chunk.readable:
            raise Inconsistent(f"logical address {at:#x} is in a chunk of profile {chunk.profile}")
        return tuple(place + at - chunk.start for place in chunk.places)

    def stripes(self) -> list[tuple[int, int, Mapping]]:
        """Return (start, end, chunk) of all copies in the order of the device; raises Inconsistent."""
        found = sorted(
            (place, place + chunk.end - chunk.start, chunk) for chunk in self.chunks for place in chunk.places
        )
        for left, right in pairwise(found):
            if right[0] < left[1]:
                raise Inconsistent("stripes overlap", expected=f">= {left[1]:#x}", found=hex(right[0]))
        return found


@dataclass(frozen=True, slots=True)
class Space:
    """What the chunk tree says: the map, our device, and the tree block that holds the device item."""

    map: ChunkMap
    device: DevItem
    device_block: int  # logical address of the leaf
    device_at: int  # byte of the device item in that leaf
    generation: int  # of that leaf
    leaf: bytes  # the copy of it that was read
    devices: int


def parse_chunk(raw: bytes | memoryview, at: int, start: int, sectorsize: int) -> tuple[Mapping, int]:
    """Return the chunk at byte `at` of `raw` and its size there; raises Truncated or Inconsistent."""
    chunk = CHUNK.unpack(raw, at)
    size = CHUNK.size + chunk.num_stripes * STRIPE.size
    if chunk.num_stripes == 0 or at + size > len(raw):
        raise Truncated(f"stripes of chunk {start:#x}", expected=chunk.num_stripes, found=len(raw) - at)
    stripes = STRIPE.unpack_all(memoryview(raw)[at + CHUNK.size : at + size])
    places = tuple(stripe.offset for stripe in stripes)
    end = start + chunk.length
    if chunk.length == 0 or max(end, *(place + chunk.length for place in places)) >= 1 << 64:
        raise Inconsistent(f"length of chunk {start:#x}", found=chunk.length)
    if any(value % sectorsize for value in (start, chunk.length, *places)):
        raise Inconsistent(f"chunk {start:#x} is not aligned to sectors of {sectorsize} bytes")
    mapping = Mapping(start, end, chunk.type, places, tuple(stripe.devid for stripe in stripes))
    if mapping.readable and len(places) != (2 if chunk.type & TYPE_DUP else 1):
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


def read_space(reader: Reader, sb: Super) -> Space:
    """Read the whole chunk tree; raises Damaged, with what is wrong with each copy of a bad block."""
    chunks: list[Mapping] = []
    device: tuple[DevItem, int, int, int, bytes] | None = None
    own = DEV_ITEM.unpack(sb.dev_item)
    devices = 0
    for block in reader.leaves(reader.chunk_root()):
        for item in block.items():
            if item.type == CHUNK_ITEM_KEY:
                chunk, _ = parse_chunk(block.data(item), 0, item.offset, sb.sectorsize)
                chunks.append(chunk)
            elif item.type == DEV_ITEM_KEY:
                devices += 1
                found = DEV_ITEM.unpack(block.data(item))
                if found.devid == own.devid:
                    device = (found, block.at, block.place(item), block.generation, bytes(block.view))
    if device is None:
        raise Damaged(f"the chunk tree has no device item for devid {own.devid}")
    space = Space(ChunkMap(chunks), *device, devices)
    space.map.stripes()
    return space


def reason_by_space(space: Space, size: int) -> str | None:
    """Say why used space cannot be told by the chunk tree, on a volume of `size` bytes; None where it can."""
    if space.devices > 1:
        return f"one of {space.devices} devices"
    odd = sorted({chunk.profile for chunk in space.map.chunks if not chunk.readable})
    if odd:
        return f"chunk profile {' '.join(odd)} is not read"
    if any(devid != space.device.devid for chunk in space.map.chunks for devid in chunk.devids):
        return "chunks lie on another device"
    if space.device.total_bytes > size:
        return f"the file system has {space.device.total_bytes} bytes, its volume only {size}"
    stripes = space.map.stripes()
    if stripes and stripes[-1][1] > space.device.total_bytes:
        return "chunks lie beyond the end of the device"
    return None
