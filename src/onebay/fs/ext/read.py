"""From the disk to facts: group descriptors, allocated blocks, and what of them nobody needs.

Sources: linux v6.18 fs/ext4/balloc.c (ext4_init_block_bitmap, ext4_validate_block_bitmap), fs/ext4/ialloc.c
(ext4_init_inode_table), e2fsprogs 1.47 lib/ext2fs/rw_bitmaps.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import BadChecksum, Inconsistent
from onebay.base.extent import Builder, ExtentSet
from onebay.fs.crc32c import raw
from onebay.fs.ext.bitmap import runs
from onebay.fs.ext.checksum import descriptor_sums
from onebay.fs.ext.record import GROUP_DESC, GROUP_DESC_HIGH, SUPER_AT, SUPER_SIZE, GroupFlag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import Volume
    from onebay.fs.ext.geometry import Geometry

CHUNK = 1 << 20
# Plain integers, for they are looked at 131,072 times.
INODE_UNINIT, BLOCK_UNINIT, INODE_ZEROED = (int(flag) for flag in GroupFlag)
CSUM_HI_END = 0x3A  # EXT4_BG_BLOCK_BITMAP_CSUM_HI_END
HIGH_AT = GROUP_DESC.size


class Group(NamedTuple):
    """One group descriptor: places in blocks, `flags` 0 where the file system has no descriptor checksums."""

    number: int
    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    flags: int
    unused_inodes: int
    bitmap_sum: int


@dataclass(frozen=True)
class Scan:
    """What one walk over all groups found, in bytes of the volume.

    `allocated` is what the block bitmaps say; `unneeded` is the part of it that nobody ever reads before
    writing it: bitmaps that are computed instead, and inode tables that are not yet zeroed.
    """

    allocated: ExtentSet
    unneeded: ExtentSet

    @property
    def needed(self) -> ExtentSet:
        """What must be kept."""
        return self.allocated - self.unneeded


def read_groups(volume: Volume, geometry: Geometry) -> Iterator[Group]:
    """Yield all group descriptors; raises BadChecksum, Inconsistent or Truncated where they are damaged."""
    per_block = geometry.descs_per_block
    for first, count, table in read_descriptors(volume, geometry):
        size = geometry.desc_size
        sums = descriptor_sums(geometry, table, first)
        for index in range(count):
            number, at = first + index, index * size
            group, stored = parse_group(table, at, number, geometry)
            if sums is not None and stored != sums[index]:
                where = geometry.desc_block(number // per_block) * geometry.block_size
                raise BadChecksum(
                    f"descriptor of group {number}",
                    volume=volume.name,
                    at=where + number % per_block * size,
                    expected=f"{sums[index]:#06x}",
                    found=f"{stored:#06x}",
                )
            yield check_group(group, geometry, volume.name)


def read_descriptors(volume: Volume, geometry: Geometry) -> Iterator[tuple[int, int, bytes]]:
    """Yield (first group, number of groups, descriptors), contiguous descriptor blocks in one piece."""
    per_block, size = geometry.descs_per_block, geometry.block_size
    number = 0
    while number < geometry.desc_blocks:
        start, count = geometry.desc_block(number), 1
        while (
            number + count < min(geometry.first_meta_bg, geometry.desc_blocks) and (count + 1) * size <= CHUNK
        ):
            count += 1
        first = number * per_block
        groups = min(count * per_block, geometry.groups - first)
        yield first, groups, volume.read(start * size, groups * geometry.desc_size)
        number += count


def parse_group(table: bytes, at: int, number: int, geometry: Geometry) -> tuple[Group, int]:
    """Return the descriptor at byte `at` of `table`, and the checksum that is stored in it."""
    (bitmap, inodes, inode_table, _, _, _, flags, _, bitmap_sum, _, unused, checksum) = (
        GROUP_DESC.struct.unpack_from(table, at)
    )
    if geometry.desc_size >= HIGH_AT + GROUP_DESC_HIGH.size:
        high = GROUP_DESC_HIGH.struct.unpack_from(table, at + HIGH_AT)
        bitmap |= high[0] << 32
        inodes |= high[1] << 32
        inode_table |= high[2] << 32
        unused |= high[6] << 16
        bitmap_sum |= high[8] << 16
    if not (geometry.gdt_csum or geometry.metadata_csum):
        flags = unused = 0
    return Group(number, bitmap, inodes, inode_table, flags, unused, bitmap_sum), checksum


def check_group(group: Group, geometry: Geometry, name: str) -> Group:
    """Return the group; raises Inconsistent where it points outside the file system."""
    for what, start, count in (
        ("block bitmap", group.block_bitmap, 1),
        ("inode bitmap", group.inode_bitmap, 1),
        ("inode table", group.inode_table, geometry.table_blocks),
    ):
        if not geometry.first_block <= start <= geometry.blocks - count:
            raise Inconsistent(
                f"{what} of group {group.number}",
                volume=name,
                expected=f"block {geometry.first_block}..{geometry.blocks - count}",
                found=start,
            )
    if group.unused_inodes > geometry.group_inodes:
        raise Inconsistent(
            f"unused inodes of group {group.number}",
            volume=name,
            expected=f"<= {geometry.group_inodes}",
            found=group.unused_inodes,
        )
    return group


def read_bitmap(volume: Volume, geometry: Geometry, group: Group) -> bytes:
    """Return the block bitmap of a group; raises BadChecksum where it does not match the descriptor."""
    clusters = geometry.group_blocks // geometry.cluster_blocks
    at = group.block_bitmap * geometry.block_size
    bitmap = volume.read(at, -(-clusters // 8))
    if geometry.metadata_csum:
        found = raw(bitmap[: clusters // 8], geometry.csum_seed)
        if geometry.desc_size < CSUM_HI_END:
            found &= 0xFFFF
        if found != group.bitmap_sum:
            raise BadChecksum(
                f"block bitmap of group {group.number}",
                volume=volume.name,
                at=at,
                expected=f"{group.bitmap_sum:#x}",
                found=f"{found:#x}",
            )
    return bitmap


def scan(volume: Volume, geometry: Geometry) -> Scan:
    """Walk over all groups; raises Damaged where descriptors or bitmaps cannot be trusted."""
    size, ratio = geometry.block_size, geometry.cluster_blocks
    builder = Builder()
    computed: list[tuple[int, int]] = []
    unneeded: list[tuple[int, int]] = []
    for group in read_groups(volume, geometry):
        start, end = geometry.group_start(group.number), geometry.group_end(group.number)
        unneeded.extend(unneeded_of(group, geometry))
        if group.flags & BLOCK_UNINIT:
            computed.extend(computed_of(group, geometry))
            continue
        bitmap = read_bitmap(volume, geometry, group)
        for first, last in runs(bitmap, -(-(end - start) // ratio)):
            builder.add((start + first * ratio) * size, min(start + last * ratio, end) * size)
    allocated = builder.done()
    if computed:
        allocated |= ExtentSet.of(computed)
    left_out = ExtentSet.of(unneeded)
    if left_out.size != sum(end - start for start, end in unneeded):
        raise Inconsistent("bitmaps and inode tables of two groups overlap", volume=volume.name)
    return Scan(allocated, left_out)


def computed_of(group: Group, geometry: Geometry) -> Iterator[tuple[int, int]]:
    """Yield the bytes, whole clusters, that a group without a bitmap has allocated: its own metadata.

    What lies in other groups (flex_bg) is in their bitmaps, or is yielded for nothing a second time.
    """
    grid = geometry.cluster_blocks
    base = geometry.first_block
    for start, length in (*geometry.head(group.number), *tables_of(group, geometry)):
        first = (start - base) // grid * grid + base
        last = -(-(start + length - base) // grid) * grid + base
        yield max(first, 0) * geometry.block_size, min(last, geometry.blocks) * geometry.block_size


def tables_of(group: Group, geometry: Geometry) -> tuple[tuple[int, int], ...]:
    """Return (start, count) in blocks of both bitmaps and the inode table of a group."""
    return (
        (group.block_bitmap, 1),
        (group.inode_bitmap, 1),
        (group.inode_table, geometry.table_blocks),
    )


def unneeded_of(group: Group, geometry: Geometry) -> Iterator[tuple[int, int]]:
    """Yield the allocated bytes of a group's metadata that need not be kept.

    A bitmap marked uninit is computed, never read. The unused end of an inode table is never read either as
    long as INODE_ZEROED is missing: the kernel's lazy initialisation zeroes it first. Once the flag is set
    e2fsck may look there for lost inodes, so those zeros count.
    """
    size = geometry.block_size
    if group.flags & BLOCK_UNINIT:
        yield group.block_bitmap * size, (group.block_bitmap + 1) * size
    if group.flags & INODE_UNINIT:
        yield group.inode_bitmap * size, (group.inode_bitmap + 1) * size
    if not (geometry.gdt_csum or geometry.metadata_csum) or group.flags & INODE_ZEROED:
        return
    inodes = 0 if group.flags & INODE_UNINIT else geometry.group_inodes - group.unused_inodes
    kept = -(-inodes * geometry.inode_size // size)
    if kept < geometry.table_blocks:
        yield (group.inode_table + kept) * size, (group.inode_table + geometry.table_blocks) * size


def metadata(volume: Volume, geometry: Geometry) -> ExtentSet:
    """Return where all superblocks, descriptors, bitmaps and inode tables lie, in bytes."""
    size = geometry.block_size
    ranges = [(SUPER_AT, SUPER_AT + SUPER_SIZE)]
    for group in read_groups(volume, geometry):
        ranges.extend(
            (start * size, (start + length) * size)
            for start, length in (*geometry.head(group.number), *tables_of(group, geometry))
        )
    return ExtentSet.of(ranges)


def head_extents(geometry: Geometry, groups: range) -> ExtentSet:
    """Return where superblocks and descriptors of these groups lie, in bytes."""
    size = geometry.block_size
    heads = (run for group in groups for run in geometry.head(group))
    return ExtentSet.of((start * size, (start + length) * size) for start, length in heads)
