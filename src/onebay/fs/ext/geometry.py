"""Where things are in an ext file system, computed from its superblock.

Sources: linux v6.18 fs/ext4/super.c (ext4_handle_clustersize, ext4_block_group_meta_init, descriptor_loc),
fs/ext4/balloc.c (ext4_bg_has_super, ext4_bg_num_gdb), e2fsprogs 1.47 lib/ext2fs/closefs.c
(ext2fs_super_and_bgd_loc2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Inconsistent
from onebay.fs.crc32c import raw
from onebay.fs.ext.checksum import ALL32
from onebay.fs.ext.record import MAX_LOG_BLOCK_SIZE, Compat, Incompat, RoCompat, SuperBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_GROUP = 256  # mke2fs -g: "must be between 256 and the number of blocks that a bitmap block covers"
MAX_DESC_SIZE = 1024
GOOD_OLD_INODE_SIZE = 128
PAGE = 4096
MAX32 = 0xFFFFFFFF


class Run(NamedTuple):
    """`length` blocks from block `start`."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes and places; everything with `blocks` or without a unit counts blocks or groups, not bytes."""

    block_size: int
    cluster_blocks: int
    blocks: int
    free_blocks: int
    first_block: int
    group_blocks: int
    groups: int
    wide: bool
    desc_size: int
    desc_blocks: int
    reserved_desc_blocks: int
    first_meta_bg: int
    inode_size: int
    group_inodes: int
    table_blocks: int
    backup_groups: tuple[int, int] | None
    sparse_super: bool
    metadata_csum: bool
    gdt_csum: bool
    csum_seed: int
    uuid: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file system."""
        return self.blocks * self.block_size

    @property
    def descs_per_block(self) -> int:
        """Group descriptors in one block."""
        return self.block_size // self.desc_size

    @property
    def plain_desc_blocks(self) -> int:
        """Descriptor blocks that follow each superblock, those reserved for growing included."""
        return min(self.first_meta_bg, self.desc_blocks) + self.reserved_desc_blocks

    def group_start(self, group: int) -> int:
        """First block of a group."""
        return self.first_block + group * self.group_blocks

    def group_end(self, group: int) -> int:
        """First block behind a group."""
        return min(self.group_start(group) + self.group_blocks, self.blocks)

    def has_super(self, group: int) -> bool:
        """Whether a group begins with a superblock."""
        if group == 0:
            return True
        if self.backup_groups is not None:
            return group in self.backup_groups
        if group == 1 or not self.sparse_super:
            return True
        return any(is_power(group, base) for base in (3, 5, 7))

    def super_block(self, group: int) -> int:
        """Block in which the superblock of a group lies that has one."""
        # With clusters, blocks of 1 KiB do not start at 1; the boot sector still has block 0 for itself.
        return max(self.group_start(group), 1) if self.block_size == 1024 else self.group_start(group)

    def head(self, group: int) -> Iterator[Run]:
        """Yield where superblock and descriptors lie in a group: the superblock alone, then descriptors."""
        start = self.group_start(group)
        meta, place = divmod(group, self.descs_per_block)
        has_super = self.has_super(group)
        if has_super:
            start = self.super_block(group)
            yield Run(start, 1)
            if meta < self.first_meta_bg:
                yield Run(start + 1, self.plain_desc_blocks)
        if self.first_meta_bg <= meta and place in (0, 1, self.descs_per_block - 1):
            yield Run(start + has_super, 1)

    def desc_block(self, number: int) -> int:
        """Block that holds the primary copy of descriptor block `number`."""
        if number < self.first_meta_bg:
            return self.super_block(0) + 1 + number
        group = number * self.descs_per_block
        return (self.super_block(group) + 1) if self.has_super(group) else self.group_start(group)


def is_power(value: int, base: int) -> bool:
    """Whether `value` is `base` to some power of at least 1."""
    power = base
    while power < value:
        power *= base
    return power == value


def compute(superblock: SuperBlock) -> Geometry:
    """Return the geometry; raises Inconsistent where the superblock's fields cannot be true together."""
    sb = superblock
    expect("revision", sb.s_rev_level, sb.s_rev_level <= 1, "0 or 1")
    expect("s_log_block_size", sb.s_log_block_size, sb.s_log_block_size <= MAX_LOG_BLOCK_SIZE, "0..6")
    block_size = 1024 << sb.s_log_block_size
    wide = bool(sb.s_feature_incompat & Incompat.BIT64)
    blocks, free = sb.s_blocks_count_lo, sb.s_free_blocks_count_lo
    if wide:
        blocks |= sb.s_blocks_count_hi << 32
        free |= sb.s_free_blocks_count_hi << 32
    first = sb.s_first_data_block
    groups = check_groups(sb, block_size, blocks)
    desc_size = (sb.s_desc_size or 32) if wide else 32
    expect("s_desc_size", desc_size, is_desc_size(desc_size, block_size), "a power of 2 in 32..1024")
    desc_blocks = -(-groups // (block_size // desc_size))
    meta_bg = bool(sb.s_feature_incompat & Incompat.META_BG)
    if meta_bg:
        expect("s_first_meta_bg", sb.s_first_meta_bg, sb.s_first_meta_bg <= desc_blocks, f"<= {desc_blocks}")
    reserved = sb.s_reserved_gdt_blocks
    expect("s_reserved_gdt_blocks", reserved, reserved <= block_size // 4, f"<= {block_size // 4}")
    inode_size = check_inodes(sb, block_size, groups)
    metadata_csum = bool(sb.s_feature_ro_compat & RoCompat.METADATA_CSUM)
    return Geometry(
        block_size=block_size,
        cluster_blocks=cluster_blocks(sb),
        blocks=blocks,
        free_blocks=free,
        first_block=first,
        group_blocks=sb.s_blocks_per_group,
        groups=groups,
        wide=wide,
        desc_size=desc_size,
        desc_blocks=desc_blocks,
        reserved_desc_blocks=0 if meta_bg else reserved,
        first_meta_bg=sb.s_first_meta_bg if meta_bg else desc_blocks,
        inode_size=inode_size,
        group_inodes=sb.s_inodes_per_group,
        table_blocks=-(-sb.s_inodes_per_group * inode_size // block_size),
        backup_groups=backup_groups(sb),
        sparse_super=bool(sb.s_feature_ro_compat & RoCompat.SPARSE_SUPER),
        metadata_csum=metadata_csum,
        gdt_csum=bool(sb.s_feature_ro_compat & RoCompat.UNINIT_BG) and not metadata_csum,
        csum_seed=csum_seed(sb),
        uuid=sb.s_uuid,
    )


def expect(field: str, found: object, good: bool, expected: object) -> None:  # noqa: FBT001
    """Raise Inconsistent where a field is not `good`."""
    if not good:
        raise Inconsistent(field, expected=expected, found=found)


def check_groups(sb: SuperBlock, block_size: int, blocks: int) -> int:
    """Return the number of groups after checking everything that it depends on."""
    first = sb.s_first_data_block
    clusters = cluster_blocks(sb)
    expect(
        "s_first_data_block", first, first == (block_size == 1024 and clusters == 1), "1 for 1 KiB, else 0"
    )
    expect("s_blocks_count", blocks, blocks > first, f"> {first}")
    per_group = sb.s_blocks_per_group
    limit = 8 * block_size * clusters
    good = MIN_GROUP <= per_group <= limit and per_group % 8 == 0 and per_group % clusters == 0
    expect("s_blocks_per_group", per_group, good, f"a multiple of 8 and {clusters} in {MIN_GROUP}..{limit}")
    if clusters > 1:
        found, expected = sb.s_clusters_per_group, per_group // clusters
        expect("s_clusters_per_group", found, found == expected, expected)
    return -(-(blocks - first) // per_group)


def check_inodes(sb: SuperBlock, block_size: int, groups: int) -> int:
    """Return the size of an inode in bytes after checking it and the number of inodes."""
    size = GOOD_OLD_INODE_SIZE if sb.s_rev_level == 0 else sb.s_inode_size
    good = GOOD_OLD_INODE_SIZE <= size <= block_size and size & (size - 1) == 0
    expect("s_inode_size", size, good, f"a power of 2 in 128..{block_size}")
    per_group = sb.s_inodes_per_group
    expect("s_inodes_per_group", per_group, 0 < per_group <= 8 * block_size, f"1..{8 * block_size}")
    expect("s_inodes_count", sb.s_inodes_count, sb.s_inodes_count == groups * per_group, groups * per_group)
    return size


def is_desc_size(size: int, block_size: int) -> bool:
    """Whether a descriptor may have this size in bytes."""
    return 32 <= size <= min(MAX_DESC_SIZE, block_size) and size & (size - 1) == 0


def cluster_blocks(sb: SuperBlock) -> int:
    """Return blocks per cluster, 1 without bigalloc."""
    if not sb.s_feature_ro_compat & RoCompat.BIGALLOC:
        return 1
    shift = sb.s_log_cluster_size - sb.s_log_block_size
    expect("s_log_cluster_size", sb.s_log_cluster_size, 0 <= shift <= 20, f"{sb.s_log_block_size}..")
    return 1 << shift


def backup_groups(sb: SuperBlock) -> tuple[int, int] | None:
    """Return the groups of the two backups that sparse_super2 names, None without that feature."""
    if not sb.s_feature_compat & Compat.SPARSE_SUPER2:
        return None
    one, two = struct.unpack("<2I", sb.s_backup_bgs)
    return one, two


def csum_seed(sb: SuperBlock) -> int:
    """Return the start value of metadata checksums."""
    if sb.s_feature_incompat & Incompat.METADATA_CSUM_SEED:
        return sb.s_checksum_seed
    return raw(sb.s_uuid, ALL32)


def fitting(geometry: Geometry, size: int) -> int:
    """Return how many blocks a file system like this can have on a volume of `size` bytes, as resize2fs does.

    Whole pages and clusters; block and inode numbers of 32 bits; no last group too small for its own metadata
    (e2fsprogs 1.47 resize/resize2fs.c, adjust_fs_info).
    """
    page_blocks = max(PAGE // geometry.block_size, geometry.cluster_blocks)
    blocks = size // geometry.block_size // page_blocks * page_blocks
    if not geometry.wide:
        blocks = min(blocks, MAX32 // page_blocks * page_blocks)
    limit = MAX32 // geometry.group_inodes * geometry.group_blocks + geometry.first_block
    blocks = min(blocks, limit)
    groups, rest = divmod(blocks - geometry.first_block, geometry.group_blocks)
    overhead = 2 + geometry.table_blocks + 50
    if geometry.has_super(groups):
        overhead += 1 + geometry.desc_blocks + geometry.reserved_desc_blocks
    return blocks - rest if 0 < rest < overhead else blocks
