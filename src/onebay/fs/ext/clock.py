"""Where resize2fs leaves the time of day: in superblocks and in the resize inode.

Two runs of resize2fs differ in these fields, and in the checksums over them, in nothing else. With bigalloc
e2fsck follows it, which leaves the time of its check.

Sources: e2fsprogs 1.47 lib/ext2fs/closefs.c (ext2fs_flush2), lib/ext2fs/res_gdt.c
(ext2fs_create_resize_inode), lib/ext2fs/csum.c (ext2fs_inode_csum), e2fsck/unix.c; linux v6.18
fs/ext4/ext4.h (struct ext4_super_block, struct ext4_inode).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from onebay.fs.crc32c import raw
from onebay.fs.ext.checksum import superblock_sum
from onebay.fs.ext.read import read_groups
from onebay.fs.ext.record import SUPER, SUPER_AT, SUPER_SIZE, Compat
from onebay.fs.ext.scratch import RESIZE_INODE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.fs.ext.filesystem import ExtFs
    from onebay.fs.ext.geometry import Geometry

# s_wtime, s_wtime_hi
SUPER_TIMES = ((0x30, 0x34), (0x274, 0x275))
# s_lastcheck, s_lastcheck_hi
CHECK_TIMES = ((0x40, 0x44), (0x277, 0x278))
# i_atime, i_ctime, i_mtime; of larger inodes i_ctime_extra up to i_crtime_extra
INODE_TIMES = ((0x08, 0x14), (0x84, 0x98))
GENERATION_AT, CHECKSUM_LO_AT, EXTRA_SIZE_AT, CHECKSUM_HI_AT = 0x64, 0x7C, 0x80, 0x82
PLAIN_INODE = 128


@dataclass(frozen=True, slots=True)
class Clock:
    """A record with the time of day: `size` bytes at byte `at` of the volume; a superblock, or inode 7."""

    at: int
    size: int
    is_super: bool
    geometry: Geometry

    def set_as(self, told: bytes, found: bytes) -> bytes:
        """Return the record `told` with the times of `found`, and the checksum that belongs to it then."""
        made = bytearray(told)
        times: tuple[tuple[int, int], ...] = SUPER_TIMES if self.is_super else INODE_TIMES
        if self.is_super and self.geometry.cluster_blocks > 1:
            times += CHECK_TIMES
        for start, end in times:
            made[start:end] = found[start:end]
        if self.geometry.metadata_csum and self.is_super:
            at = SUPER.offset("s_checksum")
            made[at : at + 4] = superblock_sum(bytes(made)).to_bytes(4, "little")
        elif self.geometry.metadata_csum:
            seal(made, self.geometry.csum_seed)
        return bytes(made[: self.size])


def seal(inode: bytearray, seed: int) -> None:
    """Make the checksum of inode 7 right."""
    high = len(inode) > PLAIN_INODE and inode[EXTRA_SIZE_AT] + 256 * inode[EXTRA_SIZE_AT + 1] >= 4
    inode[CHECKSUM_LO_AT : CHECKSUM_LO_AT + 2] = bytes(2)
    if high:
        inode[CHECKSUM_HI_AT : CHECKSUM_HI_AT + 2] = bytes(2)
    state = raw(RESIZE_INODE.to_bytes(4, "little"), seed)
    state = raw(bytes(inode[GENERATION_AT : GENERATION_AT + 4]), state)
    total = raw(bytes(inode), state).to_bytes(4, "little")
    inode[CHECKSUM_LO_AT : CHECKSUM_LO_AT + 2] = total[:2]
    if high:
        inode[CHECKSUM_HI_AT : CHECKSUM_HI_AT + 2] = total[2:]


def clocks(fs: ExtFs) -> Iterator[Clock]:
    """Yield all records of a file system that resize2fs may leave the time of day in.

    Raises BadChecksum, Inconsistent or Truncated where the first group descriptor is damaged.
    """
    geometry = fs.geometry
    size = geometry.block_size
    for group in range(geometry.groups):
        if geometry.has_super(group):
            at = max(geometry.super_block(group) * size, SUPER_AT)
            yield Clock(at, SUPER_SIZE, is_super=True, geometry=geometry)
    if fs.superblock.s_feature_compat & Compat.RESIZE_INODE:
        for first in islice(read_groups(fs.volume, geometry), 1):
            at = first.inode_table * size + (RESIZE_INODE - 1) * geometry.inode_size
            yield Clock(at, geometry.inode_size, is_super=False, geometry=geometry)
