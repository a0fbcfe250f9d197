"""What btrfs puts on disk, with the kernel's own names.

Sources: linux include/uapi/linux/btrfs_tree.h, include/uapi/linux/btrfs.h, fs/btrfs/fs.h and
fs/btrfs/accessors.h; btrfs-progs kernel-shared/ctree.h (super block flags of unfinished conversions).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from onebay.base.record import Layout

MAGIC = b"_BHRfS_M"
SUPER_SIZE = 4096  # bytes
SUPER_PLACES = (0x1_0000, 0x400_0000, 0x40_0000_0000)  # bytes: 64 KiB, 64 MiB, 256 GiB
RESERVED_END = 1 << 20  # bytes; BTRFS_DEVICE_RANGE_RESERVED: boot loaders live here, btrfs never does
MAX_LEVEL = 8
MIN_BLOCK, MAX_BLOCK = 2048, 65536  # bytes; of a sector (btrfs's block) and of a node

ROOT_TREE, EXTENT_TREE, CHUNK_TREE = 1, 2, 3
ROOT_ITEM_KEY, EXTENT_ITEM_KEY, METADATA_ITEM_KEY, DEV_ITEM_KEY, CHUNK_ITEM_KEY = 132, 168, 169, 216, 228

TYPE_DATA, TYPE_SYSTEM, TYPE_METADATA = 1, 2, 4
TYPE_NAMES = {1: "data", 2: "system", 4: "metadata"}
PROFILE_NAMES = {
    0: "single",
    8: "raid0",
    16: "raid1",
    32: "dup",
    64: "raid10",
    128: "raid5",
    256: "raid6",
    512: "raid1c3",
    1024: "raid1c4",
}
# Stripes of the profiles whose stripes are whole copies: single, RAID1, DUP, RAID1C3, RAID1C4.
COPIES = {0: 1, 16: 2, 32: 2, 512: 3, 1024: 4}

INCOMPAT = {
    0: "mixed-backref",
    1: "default-subvol",
    2: "mixed-groups",
    3: "compress-lzo",
    4: "compress-zstd",
    5: "big-metadata",
    6: "extended-iref",
    7: "raid56",
    8: "skinny-metadata",
    9: "no-holes",
    10: "metadata-uuid",
    11: "raid1c34",
    12: "zoned",
    13: "extent-tree-v2",
    14: "raid-stripe-tree",
    16: "simple-quota",
    17: "remap-tree",
}
# These change where things are on the disk, or what the extent tree says; we do not read them.
INCOMPAT_KEPT_WHOLE = frozenset((12, 13, 14, 17))
COMPAT_RO = {0: "free-space-tree", 1: "free-space-tree-valid", 2: "verity", 3: "block-group-tree"}
INCOMPAT_METADATA_UUID = 1 << 10

SUPER_FLAGS = {
    0: "written",
    1: "reloc",
    2: "error",
    32: "seeding",
    33: "metadump",
    34: "metadump-v2",
    35: "changing-fsid",
    36: "changing-fsid-v2",
    38: "changing-block-group-tree",
    39: "changing-data-csum",
    40: "changing-metadata-csum",
}
SUPER_FLAGS_FINE = frozenset((0, 1, 2, 32))
SUPER_FLAG_SEEDING = 1 << 32


@dataclass(frozen=True, slots=True)
class DevItem:
    """struct btrfs_dev_item: one device, in the chunk tree and again in the superblock."""

    devid: Annotated[int, "Q"]
    total_bytes: Annotated[int, "Q"]
    bytes_used: Annotated[int, "Q"]
    io_align: Annotated[int, "I"]
    io_width: Annotated[int, "I"]
    sector_size: Annotated[int, "I"]
    type: Annotated[int, "Q"]
    generation: Annotated[int, "Q"]
    start_offset: Annotated[int, "Q"]
    dev_group: Annotated[int, "I"]
    seek_speed: Annotated[int, "B"]
    bandwidth: Annotated[int, "B"]
    uuid: Annotated[bytes, "16s"]
    fsid: Annotated[bytes, "16s"]


@dataclass(frozen=True, slots=True)
class Super:
    """struct btrfs_super_block; `dev_item` and `sys_chunk_array` are nested records in bytes."""

    csum: Annotated[bytes, "32s"]
    fsid: Annotated[bytes, "16s"]
    bytenr: Annotated[int, "Q"]
    flags: Annotated[int, "Q"]
    magic: Annotated[bytes, "8s"]
    generation: Annotated[int, "Q"]
    root: Annotated[int, "Q"]
    chunk_root: Annotated[int, "Q"]
    log_root: Annotated[int, "Q"]
    unused_log_root_transid: Annotated[int, "Q"]
    total_bytes: Annotated[int, "Q"]
    bytes_used: Annotated[int, "Q"]
    root_dir_objectid: Annotated[int, "Q"]
    num_devices: Annotated[int, "Q"]
    sectorsize: Annotated[int, "I"]
    nodesize: Annotated[int, "I"]
    unused_leafsize: Annotated[int, "I"]
    stripesize: Annotated[int, "I"]
    sys_chunk_array_size: Annotated[int, "I"]
    chunk_root_generation: Annotated[int, "Q"]
    compat_flags: Annotated[int, "Q"]
    compat_ro_flags: Annotated[int, "Q"]
    incompat_flags: Annotated[int, "Q"]
    csum_type: Annotated[int, "H"]
    root_level: Annotated[int, "B"]
    chunk_root_level: Annotated[int, "B"]
    log_root_level: Annotated[int, "B"]
    dev_item: Annotated[bytes, "98s"]
    label: Annotated[bytes, "256s"]
    cache_generation: Annotated[int, "Q"]
    uuid_tree_generation: Annotated[int, "Q"]
    metadata_uuid: Annotated[bytes, "16s"]
    nr_global_roots: Annotated[int, "Q"]
    reserved: Annotated[bytes, "216s"]
    sys_chunk_array: Annotated[bytes, "2048s"]
    super_roots: Annotated[bytes, "672s"]
    padding: Annotated[bytes, "565s"]


@dataclass(frozen=True, slots=True)
class Header:
    """struct btrfs_header: the head of every tree block."""

    csum: Annotated[bytes, "32s"]
    fsid: Annotated[bytes, "16s"]
    bytenr: Annotated[int, "Q"]
    flags: Annotated[int, "Q"]
    chunk_tree_uuid: Annotated[bytes, "16s"]
    generation: Annotated[int, "Q"]
    owner: Annotated[int, "Q"]
    nritems: Annotated[int, "I"]
    level: Annotated[int, "B"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """struct btrfs_chunk without its stripes: `length` logical bytes."""

    length: Annotated[int, "Q"]
    owner: Annotated[int, "Q"]
    stripe_len: Annotated[int, "Q"]
    type: Annotated[int, "Q"]
    io_align: Annotated[int, "I"]
    io_width: Annotated[int, "I"]
    sector_size: Annotated[int, "I"]
    num_stripes: Annotated[int, "H"]
    sub_stripes: Annotated[int, "H"]


@dataclass(frozen=True, slots=True)
class Stripe:
    """struct btrfs_stripe: byte `offset` of device `devid`."""

    devid: Annotated[int, "Q"]
    offset: Annotated[int, "Q"]
    dev_uuid: Annotated[bytes, "16s"]


DEV_ITEM = Layout(DevItem, order="<", size=98)
SUPER = Layout(Super, order="<", size=SUPER_SIZE)
HEADER = Layout(Header, order="<", size=101)
CHUNK = Layout(Chunk, order="<", size=48)
STRIPE = Layout(Stripe, order="<", size=32)


class Item(NamedTuple):
    """struct btrfs_item: a key, and where its data lie behind the header."""

    objectid: int
    type: int
    offset: int
    at: int
    size: int


class KeyPtr(NamedTuple):
    """struct btrfs_key_ptr: the first key below, and the child."""

    objectid: int
    type: int
    offset: int
    blockptr: int
    generation: int


KEY = struct.Struct("<QBQ")
ITEM = struct.Struct("<QBQII")
KEY_PTR = struct.Struct("<QBQQQ")
# The fields of struct btrfs_root_item that lead to the tree: behind its 160 bytes of inode item.
ROOT_ITEM_SIZE_V0 = 239
ROOT_ITEM_GENERATION = struct.Struct("<Q")
ROOT_ITEM_AT_GENERATION, ROOT_ITEM_AT_BYTENR, ROOT_ITEM_AT_LEVEL = 160, 176, 238


def names(bits: int, known: dict[int, str]) -> list[str]:
    """Name the bits that are set; a bit that nobody told us of is its hexadecimal value."""
    return [known.get(bit, hex(1 << bit)) for bit in range(64) if bits >> bit & 1]


def unknown(bits: int, known: dict[int, str]) -> list[str]:
    """Return the set bits that `known` does not have, as hexadecimal values."""
    return [hex(1 << bit) for bit in range(64) if bits >> bit & 1 and bit not in known]
