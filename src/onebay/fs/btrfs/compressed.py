"""Whether files of a btrfs are compressed, so that their text is not on the disk as it reads.

Source: linux include/uapi/linux/btrfs_tree.h (struct btrfs_file_extent_item, struct btrfs_extent_item). The
superblock tells of zstd and lzo only, not of zlib, so the leaves of all trees are looked at.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Inconsistent
from onebay.fs.btrfs.csum import matches
from onebay.fs.btrfs.read import Block
from onebay.fs.btrfs.record import (
    EXTENT_ITEM_KEY,
    EXTENT_TREE,
    HEADER,
    ITEM,
    METADATA_ITEM_KEY,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.fs.btrfs.read import Reader

EXTENT_DATA_KEY = 108
COMPRESSION_AT = 16  # in a file's extent item: behind generation (8) and ram_bytes (8)
EXTENT_FLAGS = struct.Struct("<16xQ")  # behind refs (8) and generation (8)
TREE_BLOCK = 2


def compressed_extents(reader: Reader) -> Iterator[int]:
    """Yield the kind of compression (1 zlib, 2 lzo, 3 zstd) of each extent item of a file that has one.

    A block that several snapshots share is looked at once. Raises Damaged where a tree cannot be read.
    """
    for at in tree_blocks(reader):
        block = leaf(reader, at)
        for item in block.items() if block is not None else ():
            if item.type == EXTENT_DATA_KEY:
                data = block.data(item) if block is not None else memoryview(b"")
                if len(data) > COMPRESSION_AT and data[COMPRESSION_AT]:
                    yield data[COMPRESSION_AT]


def tree_blocks(reader: Reader) -> Iterator[int]:
    """Yield the logical address of every tree block that the extent tree has, but of nodes it tells apart."""
    for block in reader.leaves(reader.find_root(EXTENT_TREE)):
        for item in block.items():
            if item.type == METADATA_ITEM_KEY and item.offset == 0:  # the level
                yield item.objectid
            elif item.type == EXTENT_ITEM_KEY:
                data = block.data(item)
                if len(data) >= EXTENT_FLAGS.size and EXTENT_FLAGS.unpack_from(data)[0] & TREE_BLOCK:
                    yield item.objectid


def leaf(reader: Reader, at: int) -> Block | None:
    """Return the tree block at logical byte `at` from its first good copy, None for a node."""
    size = reader.sb.nodesize
    for place in reader.map.places(at, size):
        raw = reader.read(place)
        if not matches(reader.sb.csum_type, raw):
            continue
        header = HEADER.unpack(raw)
        if header.bytenr != at or header.nritems > (size - HEADER.size) // ITEM.size:
            raise Inconsistent("not the tree block", volume=reader.where(place), at=place.at)
        return Block(at, memoryview(raw), header.nritems, header.generation) if header.level == 0 else None
    raise Damaged(f"no good copy of tree block {at:#x}", volume=reader.name)
