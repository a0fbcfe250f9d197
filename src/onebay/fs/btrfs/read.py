"""Tree blocks, checked as the kernel checks them, and what the extent tree says is allocated.

Sources: linux fs/btrfs/disk-io.c (btrfs_validate_extent_buffer, btrfs_verify_level_key),
fs/btrfs/tree-checker.c; btrfs.readthedocs.io, "On-disk format".

A hostile tree cannot lead us in circles: levels fall by one with each step down, keys rise strictly, and a
block must begin with the key that its parent names, so no block is visited twice.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import BadChecksum, Damaged, Inconsistent
from onebay.base.extent import ExtentSet
from onebay.fs.btrfs.chunk import Place
from onebay.fs.btrfs.csum import matches
from onebay.fs.btrfs.record import (
    CHUNK_TREE,
    EXTENT_ITEM_KEY,
    EXTENT_TREE,
    HEADER,
    ITEM,
    KEY_PTR,
    MAX_LEVEL,
    METADATA_ITEM_KEY,
    ROOT_ITEM_AT_BYTENR,
    ROOT_ITEM_AT_GENERATION,
    ROOT_ITEM_AT_LEVEL,
    ROOT_ITEM_GENERATION,
    ROOT_ITEM_KEY,
    ROOT_ITEM_SIZE_V0,
    ROOT_TREE,
    Header,
    Item,
    KeyPtr,
    Super,
)
from onebay.fs.btrfs.super import tree_fsid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block.volume import Volume
    from onebay.fs.btrfs.chunk import ChunkMap, Stretch

Key = tuple[int, int, int]
FIRST: Key = (0, 0, 0)
BEYOND: Key = (1 << 64, 0, 0)
MAX_FAULTS = 100  # bad copies that are remembered one by one


class Root(NamedTuple):
    """Where a tree begins: logical address, and what the block there must say."""

    at: int
    level: int
    generation: int
    owner: int


class Step(NamedTuple):
    """A tree block to visit: what its parent says of it. Its keys are in `first..beyond`."""

    at: int
    level: int
    generation: int
    owner: int
    first: Key | None
    beyond: Key


class Copy(NamedTuple):
    """One copy of a tree block, at byte `at` of the device `devid`, and what is wrong with it."""

    devid: int
    at: int
    raw: bytes
    fault: Damaged | None


class Block(NamedTuple):
    """A checked tree block: logical address, bytes, number of items."""

    at: int
    view: memoryview
    nritems: int
    generation: int

    def items(self) -> Iterator[Item]:
        """Yield the items of a leaf; raises Inconsistent where keys do not rise."""
        last: Key = (-1, 0, 0)
        for fields in ITEM.iter_unpack(self.view[HEADER.size : HEADER.size + self.nritems * ITEM.size]):
            if fields[:3] <= last:
                raise Inconsistent(f"keys of tree block {self.at:#x} do not rise")
            last = fields[:3]
            yield Item(*fields)

    def place(self, item: Item) -> int:
        """Return the byte in the block where an item's data begin; raises Inconsistent beyond its end."""
        start = HEADER.size + item.at
        if item.at < self.nritems * ITEM.size or start + item.size > len(self.view):
            raise Inconsistent(f"item data of tree block {self.at:#x} lie outside", found=item.at)
        return start

    def data(self, item: Item) -> memoryview:
        """Return an item's data; raises Inconsistent where they are not inside the block."""
        start = self.place(item)
        return self.view[start : start + item.size]


class Reader:
    """Reads trees of one file system on `volumes`, by devid, through `map`.

    `faults` collects bad copies whose twin was good, by place.
    """

    def __init__(self, volumes: dict[int, Volume], sb: Super, chunks: ChunkMap) -> None:
        self.volumes, self.sb, self.map = volumes, sb, chunks
        self.name = ", ".join(volume.name for volume in volumes.values())
        self.fsid = tree_fsid(sb)
        self.faults: dict[Place, Damaged] = {}

    def chunk_root(self) -> Root:
        """Return the root of the chunk tree."""
        return Root(self.sb.chunk_root, self.sb.chunk_root_level, self.sb.chunk_root_generation, CHUNK_TREE)

    def tree_root(self) -> Root:
        """Return the root of the tree of tree roots."""
        return Root(self.sb.root, self.sb.root_level, self.sb.generation, ROOT_TREE)

    def copies(self, step: Step) -> Iterator[Copy]:
        """Read and check each copy of a tree block."""
        for place in self.map.places(step.at, self.sb.nodesize):
            raw, fault = b"", None
            try:
                raw = self.read(place)
                self.verify(raw, step, place)
            except Damaged as error:
                fault = error
            except OSError as error:
                fault = Damaged(f"unreadable: {error}", volume=self.where(place), at=place.at)
            yield Copy(place.devid, place.at, raw, fault)

    def read(self, place: Place) -> bytes:
        """Read as many bytes as a tree block has; raises Damaged, also without the device, OSError."""
        volume = self.volumes.get(place.devid)
        if volume is None:
            raise Damaged(f"device {place.devid} is not on this disk")
        return volume.read(place.at, self.sb.nodesize)

    def where(self, place: Place) -> str:
        """Name the volume of a place."""
        volume = self.volumes.get(place.devid)
        return self.name if volume is None else volume.name

    def block(self, step: Step) -> Block:
        """Return a tree block from its first good copy; raises Damaged with what is wrong with every copy."""
        bad: list[Copy] = []
        for copy in self.copies(step):
            if copy.fault is None:
                for other in bad[: MAX_FAULTS - len(self.faults)]:
                    assert other.fault is not None
                    self.faults[Place(other.devid, other.at)] = other.fault
                view = memoryview(copy.raw)
                header = HEADER.unpack(view)
                return Block(step.at, view, header.nritems, header.generation)
            bad.append(copy)
        several = len(self.volumes) > 1
        evidence = "; ".join(
            f"copy at {copy.at:#x}{f' of device {copy.devid}' if several else ''}: {plain(copy.fault)}"
            for copy in bad
        )
        raise Damaged(
            f"tree block {step.at:#x} of tree {step.owner}: {evidence}", volume=self.name, at=bad[0].at
        )

    def verify(self, raw: bytes, step: Step, place: Place) -> None:
        """Raise BadChecksum or Inconsistent where a block is not the one that its parent speaks of."""
        if not matches(self.sb.csum_type, raw):
            raise BadChecksum("checksum", volume=self.where(place), at=place.at)
        header = HEADER.unpack(raw)
        for name, expected, found in (
            ("address", step.at, header.bytenr),
            ("file system id", self.fsid, header.fsid),
            ("level", step.level, header.level),
            ("generation", step.generation, header.generation),
            ("owner", step.owner, header.owner),
        ):
            if expected != found:
                raise Inconsistent(
                    name, volume=self.where(place), at=place.at, expected=expected, found=found
                )
        self.verify_keys(raw, header, step, place)

    def verify_keys(self, raw: bytes, header: Header, step: Step, place: Place) -> None:
        """Raise Inconsistent where a block's keys are not those that its parent promises."""
        size = KEY_PTR.size if header.level else ITEM.size
        count = header.nritems
        if count > (len(raw) - HEADER.size) // size or (count == 0 and (header.level or step.first)):
            raise Inconsistent("number of items", volume=self.where(place), at=place.at, found=count)
        if count == 0:
            return
        first = ITEM.unpack_from(raw, HEADER.size)[:3]
        last = ITEM.unpack_from(raw, HEADER.size + (count - 1) * size)[:3]
        if step.first not in (None, first):
            raise Inconsistent(
                "first key", volume=self.where(place), at=place.at, expected=step.first, found=first
            )
        if not first <= last < step.beyond:
            raise Inconsistent("key order", volume=self.where(place), at=place.at, found=last)

    def leaves(self, root: Root, first: Key = FIRST, beyond: Key = BEYOND) -> Iterator[Block]:
        """Yield, in order, the leaves that may hold keys `first..beyond`; raises Damaged."""
        if not 0 <= root.level < MAX_LEVEL:
            raise Inconsistent("tree level", volume=self.name, found=root.level)
        todo = [Step(root.at, root.level, root.generation, root.owner, None, BEYOND)]
        budget = sum(volume.size for volume in self.volumes.values()) // self.sb.nodesize + 1
        while todo:
            budget -= 1
            if budget < 0:
                raise Inconsistent("a tree has more blocks than there is room for", volume=self.name)
            step = todo.pop()
            block = self.block(step)
            if step.level == 0:
                yield block
            else:
                todo.extend(reversed(self.children(block, step, first, beyond)))

    def children(self, block: Block, step: Step, first: Key, beyond: Key) -> list[Step]:
        """Return the children of a node that may hold keys `first..beyond`; raises Inconsistent."""
        end = HEADER.size + block.nritems * KEY_PTR.size
        pointers = [KeyPtr(*fields) for fields in KEY_PTR.iter_unpack(block.view[HEADER.size : end])]
        keys: list[Key] = [pointer[:3] for pointer in pointers] + [step.beyond]
        if any(left >= right for left, right in pairwise(keys)):
            raise Inconsistent(f"keys of tree block {block.at:#x} do not rise", volume=self.name)
        return [
            Step(
                pointer.blockptr, step.level - 1, pointer.generation, step.owner, keys[index], keys[index + 1]
            )
            for index, pointer in enumerate(pointers)
            if keys[index] < beyond and keys[index + 1] > first
        ]

    def find_root(self, tree: int) -> Root:
        """Look a tree up in the tree of tree roots; raises Damaged."""
        first: Key = (tree, ROOT_ITEM_KEY, 0)
        beyond: Key = (tree, ROOT_ITEM_KEY + 1, 0)
        for block in self.leaves(self.tree_root(), first, beyond):
            for item in block.items():
                if first <= item[:3] < beyond:
                    data = block.data(item)
                    if len(data) < ROOT_ITEM_SIZE_V0:
                        raise Inconsistent(f"root item of tree {tree} is short", found=len(data))
                    (generation,) = ROOT_ITEM_GENERATION.unpack_from(data, ROOT_ITEM_AT_GENERATION)
                    (at,) = ROOT_ITEM_GENERATION.unpack_from(data, ROOT_ITEM_AT_BYTENR)
                    return Root(at, data[ROOT_ITEM_AT_LEVEL], generation, tree)
        raise Inconsistent(f"tree {tree} is missing", volume=self.name)


def plain(fault: Damaged | None) -> str:
    """Return what is wrong, without the place, which the caller gives."""
    if fault is None:
        return "good"
    return str(type(fault)(fault.what, expected=fault.expected, found=fault.found))


def allocated(reader: Reader) -> ExtentSet:
    """Return all allocated logical bytes, data and metadata, by the extent tree.

    Raises Damaged where the tree cannot be read, extents overlap, are not aligned or in no chunk, or do not
    add up to what the superblock says.
    """
    sb, volume = reader.sb, reader.name
    bounds, total, bits = collect(reader)
    if bits & (sb.sectorsize - 1):
        raise Inconsistent(f"extents are not aligned to {sb.sectorsize} bytes", volume=volume)
    if total != sb.bytes_used:
        raise Inconsistent(
            "extents do not add up to the superblock's bytes_used",
            volume=volume,
            expected=sb.bytes_used,
            found=total,
        )
    return ExtentSet(bounds)


def collect(reader: Reader) -> tuple[array[int], int, int]:
    """Return the bounds of all extents, touching ones merged; their sum; and all their bits, ored.

    This is the hot loop: plain tuples, and one comparison for everything that may be wrong with an extent.
    """
    bounds: array[int] = array("Q")
    chunks = reader.map.chunks
    limit = chunks[-1].end if chunks else 0
    nodesize, sectorsize = reader.sb.nodesize, reader.sb.sectorsize
    last = -1
    bits = total = 0
    for block in reader.leaves(reader.find_root(EXTENT_TREE)):
        end_of_items = HEADER.size + block.nritems * ITEM.size
        for start, kind, offset, _, _ in ITEM.iter_unpack(block.view[HEADER.size : end_of_items]):
            if kind == METADATA_ITEM_KEY:
                size = nodesize
            elif kind == EXTENT_ITEM_KEY:
                size = offset
            else:
                continue
            if start < last or size < sectorsize or start + size > limit:
                raise Inconsistent(
                    f"extent {start:#x} of {size} bytes overlaps, is empty, or ends beyond all chunks",
                    volume=reader.name,
                )
            bits |= start | size
            total += size
            if start == last:
                bounds[-1] = last = start + size
            else:
                last = start + size
                bounds.append(start)
                bounds.append(last)
    return bounds, total, bits


def on_devices(extents: ExtentSet, chunks: ChunkMap) -> dict[int, ExtentSet]:
    """Map logical bytes to all their copies, by devid; raises Inconsistent where some have none."""
    covered = sum(extents.clip(chunk.start, chunk.end).size for chunk in chunks.chunks)
    if covered != extents.size:
        raise Inconsistent("extents lie in no chunk", expected=extents.size, found=covered)
    return {devid: on_device(extents, stripes) for devid, stripes in chunks.stripes().items()}


def on_device(extents: ExtentSet, stripes: list[Stretch]) -> ExtentSet:
    """Map logical bytes to the copies on one device, which `stripes` gives in its order."""
    bounds: array[int] = array("Q")
    for start, _, chunk in stripes:
        part = extents.clip(chunk.start, chunk.end)
        shifted = part.shift(start - chunk.start).bounds
        if shifted and bounds and shifted[0] == bounds[-1]:
            bounds.pop()
            shifted = shifted[1:]
        bounds.extend(shifted)
    return ExtentSet(bounds)
