"""What ext2, ext3 and ext4 put on disk: superblock, group descriptors, feature and state bits.

Sources: linux v6.18 fs/ext4/ext4.h (struct ext4_super_block, struct ext4_group_desc) and
Documentation/filesystems/ext4/; names of features as e2fsprogs 1.47 lib/e2p/feature.c prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated

from onebay.base.record import Layout

SUPER_AT = 1024
SUPER_SIZE = 1024
MAGIC = 0xEF53
MAX_LOG_BLOCK_SIZE = 6  # 64 KiB

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]


class State(IntFlag):
    """s_state."""

    VALID = 0x0001
    ERROR = 0x0002
    ORPHAN = 0x0004
    FC_REPLAY = 0x0020


class Compat(IntFlag):
    """s_feature_compat: who does not know a bit may still read and write."""

    DIR_PREALLOC = 0x0001
    IMAGIC_INODES = 0x0002
    HAS_JOURNAL = 0x0004
    EXT_ATTR = 0x0008
    RESIZE_INODE = 0x0010
    DIR_INDEX = 0x0020
    LAZY_BG = 0x0040
    SNAPSHOT_BITMAP = 0x0100
    SPARSE_SUPER2 = 0x0200
    FAST_COMMIT = 0x0400
    STABLE_INODES = 0x0800
    ORPHAN_FILE = 0x1000


class RoCompat(IntFlag):
    """s_feature_ro_compat: who does not know a bit may still read."""

    SPARSE_SUPER = 0x0001
    LARGE_FILE = 0x0002
    BTREE_DIR = 0x0004
    HUGE_FILE = 0x0008
    UNINIT_BG = 0x0010
    DIR_NLINK = 0x0020
    EXTRA_ISIZE = 0x0040
    SNAPSHOT = 0x0080
    QUOTA = 0x0100
    BIGALLOC = 0x0200
    METADATA_CSUM = 0x0400
    REPLICA = 0x0800
    READ_ONLY = 0x1000
    PROJECT = 0x2000
    SHARED_BLOCKS = 0x4000
    VERITY = 0x8000
    ORPHAN_PRESENT = 0x10000


class Incompat(IntFlag):
    """s_feature_incompat: who does not know a bit must not touch the file system."""

    COMPRESSION = 0x0001
    FILETYPE = 0x0002
    NEEDS_RECOVERY = 0x0004
    JOURNAL_DEV = 0x0008
    META_BG = 0x0010
    EXTENT = 0x0040
    BIT64 = 0x0080
    MMP = 0x0100
    FLEX_BG = 0x0200
    EA_INODE = 0x0400
    DIRDATA = 0x1000
    METADATA_CSUM_SEED = 0x2000
    LARGE_DIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


class GroupFlag(IntFlag):
    """bg_flags."""

    INODE_UNINIT = 0x1
    BLOCK_UNINIT = 0x2
    INODE_ZEROED = 0x4


UNUSUAL_NAMES = {"BIT64": "64bit", "READ_ONLY": "read-only"}


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """struct ext4_super_block; arrays are kept as bytes."""

    s_inodes_count: U32
    s_blocks_count_lo: U32
    s_r_blocks_count_lo: U32
    s_free_blocks_count_lo: U32
    s_free_inodes_count: U32
    s_first_data_block: U32
    s_log_block_size: U32
    s_log_cluster_size: U32
    s_blocks_per_group: U32
    s_clusters_per_group: U32
    s_inodes_per_group: U32
    s_mtime: U32
    s_wtime: U32
    s_mnt_count: U16
    s_max_mnt_count: U16
    s_magic: U16
    s_state: U16
    s_errors: U16
    s_minor_rev_level: U16
    s_lastcheck: U32
    s_checkinterval: U32
    s_creator_os: U32
    s_rev_level: U32
    s_def_resuid: U16
    s_def_resgid: U16
    s_first_ino: U32
    s_inode_size: U16
    s_block_group_nr: U16
    s_feature_compat: U32
    s_feature_incompat: U32
    s_feature_ro_compat: U32
    s_uuid: Annotated[bytes, "16s"]
    s_volume_name: Annotated[bytes, "16s"]
    s_last_mounted: Annotated[bytes, "64s"]
    s_algorithm_usage_bitmap: U32
    s_prealloc_blocks: U8
    s_prealloc_dir_blocks: U8
    s_reserved_gdt_blocks: U16
    s_journal_uuid: Annotated[bytes, "16s"]
    s_journal_inum: U32
    s_journal_dev: U32
    s_last_orphan: U32
    s_hash_seed: Annotated[bytes, "16s"]
    s_def_hash_version: U8
    s_jnl_backup_type: U8
    s_desc_size: U16
    s_default_mount_opts: U32
    s_first_meta_bg: U32
    s_mkfs_time: U32
    s_jnl_blocks: Annotated[bytes, "68s"]
    s_blocks_count_hi: U32
    s_r_blocks_count_hi: U32
    s_free_blocks_count_hi: U32
    s_min_extra_isize: U16
    s_want_extra_isize: U16
    s_flags: U32
    s_raid_stride: U16
    s_mmp_update_interval: U16
    s_mmp_block: U64
    s_raid_stripe_width: U32
    s_log_groups_per_flex: U8
    s_checksum_type: U8
    s_encryption_level: U8
    s_reserved_pad: U8
    s_kbytes_written: U64
    s_snapshot_inum: U32
    s_snapshot_id: U32
    s_snapshot_r_blocks_count: U64
    s_snapshot_list: U32
    s_error_count: U32
    s_first_error_time: U32
    s_first_error_ino: U32
    s_first_error_block: U64
    s_first_error_func: Annotated[bytes, "32s"]
    s_first_error_line: U32
    s_last_error_time: U32
    s_last_error_ino: U32
    s_last_error_line: U32
    s_last_error_block: U64
    s_last_error_func: Annotated[bytes, "32s"]
    s_mount_opts: Annotated[bytes, "64s"]
    s_usr_quota_inum: U32
    s_grp_quota_inum: U32
    s_overhead_clusters: U32
    s_backup_bgs: Annotated[bytes, "8s"]
    s_encrypt_algos: Annotated[bytes, "4s"]
    s_encrypt_pw_salt: Annotated[bytes, "16s"]
    s_lpf_ino: U32
    s_prj_quota_inum: U32
    s_checksum_seed: U32
    s_wtime_hi: U8
    s_mtime_hi: U8
    s_mkfs_time_hi: U8
    s_lastcheck_hi: U8
    s_first_error_time_hi: U8
    s_last_error_time_hi: U8
    s_first_error_errcode: U8
    s_last_error_errcode: U8
    s_encoding: U16
    s_encoding_flags: U16
    s_orphan_file_inum: U32
    s_reserved: Annotated[bytes, "376s"]
    s_checksum: U32


SUPER = Layout(SuperBlock, order="<", size=SUPER_SIZE)


@dataclass(frozen=True, slots=True)
class GroupDesc:
    """struct ext4_group_desc, the 32 bytes that every version has."""

    bg_block_bitmap_lo: U32
    bg_inode_bitmap_lo: U32
    bg_inode_table_lo: U32
    bg_free_blocks_count_lo: U16
    bg_free_inodes_count_lo: U16
    bg_used_dirs_count_lo: U16
    bg_flags: U16
    bg_exclude_bitmap_lo: U32
    bg_block_bitmap_csum_lo: U16
    bg_inode_bitmap_csum_lo: U16
    bg_itable_unused_lo: U16
    bg_checksum: U16


GROUP_DESC = Layout(GroupDesc, order="<", size=32)


@dataclass(frozen=True, slots=True)
class GroupDescHigh:
    """The second 32 bytes of struct ext4_group_desc, with feature 64bit."""

    bg_block_bitmap_hi: U32
    bg_inode_bitmap_hi: U32
    bg_inode_table_hi: U32
    bg_free_blocks_count_hi: U16
    bg_free_inodes_count_hi: U16
    bg_used_dirs_count_hi: U16
    bg_itable_unused_hi: U16
    bg_exclude_bitmap_hi: U32
    bg_block_bitmap_csum_hi: U16
    bg_inode_bitmap_csum_hi: U16
    bg_reserved: U32


GROUP_DESC_HIGH = Layout(GroupDescHigh, order="<", size=32)


def feature_names(superblock: SuperBlock) -> list[str]:
    """Return the names of all features as dumpe2fs prints them; unnamed bits as `incompat 0x40000`."""
    return (
        names(Compat, superblock.s_feature_compat)
        + names(Incompat, superblock.s_feature_incompat)
        + names(RoCompat, superblock.s_feature_ro_compat)
    )


def external_journal(superblock: SuperBlock) -> bool:
    """Whether the journal is on another device."""
    journal = superblock.s_feature_compat & Compat.HAS_JOURNAL
    return bool(journal) and (not superblock.s_journal_inum or bool(superblock.s_journal_dev))


def names(kind: type[Compat | Incompat | RoCompat], value: int) -> list[str]:
    """Return the names of the bits of one feature word."""
    found = []
    for shift in range(32):
        bit = value & (1 << shift)
        if not bit:
            continue
        flag = next((flag for flag in kind if flag.value == bit), None)
        if flag is None or flag.name is None:
            found.append(f"{kind.__name__.lower()} {bit:#x}")
        else:
            found.append(UNUSUAL_NAMES.get(flag.name, flag.name.lower()))
    return found
