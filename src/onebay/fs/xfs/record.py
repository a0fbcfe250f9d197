"""XFS on disk: superblock, allocation group header, short btree blocks, log records. Big-endian.

Sources: linux fs/xfs/libxfs/xfs_format.h and xfs_log_format.h (v6.12), field names from there; "XFS
Algorithms & Data Structures", 3rd edition. Checksums alone are stored little-endian.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

from onebay.base.record import Layout


@dataclass(frozen=True, slots=True)
class Superblock:
    """struct xfs_dsb, up to version 5; version 4 ends before sb_features_compat."""

    sb_magicnum: Annotated[bytes, "4s"]
    sb_blocksize: Annotated[int, "I"]
    sb_dblocks: Annotated[int, "Q"]
    sb_rblocks: Annotated[int, "Q"]
    sb_rextents: Annotated[int, "Q"]
    sb_uuid: Annotated[bytes, "16s"]
    sb_logstart: Annotated[int, "Q"]
    sb_rootino: Annotated[int, "Q"]
    sb_rbmino: Annotated[int, "Q"]
    sb_rsumino: Annotated[int, "Q"]
    sb_rextsize: Annotated[int, "I"]
    sb_agblocks: Annotated[int, "I"]
    sb_agcount: Annotated[int, "I"]
    sb_rbmblocks: Annotated[int, "I"]
    sb_logblocks: Annotated[int, "I"]
    sb_versionnum: Annotated[int, "H"]
    sb_sectsize: Annotated[int, "H"]
    sb_inodesize: Annotated[int, "H"]
    sb_inopblock: Annotated[int, "H"]
    sb_fname: Annotated[bytes, "12s"]
    sb_blocklog: Annotated[int, "B"]
    sb_sectlog: Annotated[int, "B"]
    sb_inodelog: Annotated[int, "B"]
    sb_inopblog: Annotated[int, "B"]
    sb_agblklog: Annotated[int, "B"]
    sb_rextslog: Annotated[int, "B"]
    sb_inprogress: Annotated[int, "B"]
    sb_imax_pct: Annotated[int, "B"]
    sb_icount: Annotated[int, "Q"]
    sb_ifree: Annotated[int, "Q"]
    sb_fdblocks: Annotated[int, "Q"]
    sb_frextents: Annotated[int, "Q"]
    sb_uquotino: Annotated[int, "Q"]
    sb_gquotino: Annotated[int, "Q"]
    sb_qflags: Annotated[int, "H"]
    sb_flags: Annotated[int, "B"]
    sb_shared_vn: Annotated[int, "B"]
    sb_inoalignmt: Annotated[int, "I"]
    sb_unit: Annotated[int, "I"]
    sb_width: Annotated[int, "I"]
    sb_dirblklog: Annotated[int, "B"]
    sb_logsectlog: Annotated[int, "B"]
    sb_logsectsize: Annotated[int, "H"]
    sb_logsunit: Annotated[int, "I"]
    sb_features2: Annotated[int, "I"]
    sb_bad_features2: Annotated[int, "I"]
    sb_features_compat: Annotated[int, "I"]
    sb_features_ro_compat: Annotated[int, "I"]
    sb_features_incompat: Annotated[int, "I"]
    sb_features_log_incompat: Annotated[int, "I"]
    sb_crc: Annotated[bytes, "4s"]
    sb_spino_align: Annotated[int, "I"]
    sb_pquotino: Annotated[int, "Q"]
    sb_lsn: Annotated[int, "Q"]
    sb_meta_uuid: Annotated[bytes, "16s"]


@dataclass(frozen=True, slots=True)
class Agf:
    """struct xfs_agf, sector 1 of each allocation group; block numbers count from the group's start."""

    agf_magicnum: Annotated[bytes, "4s"]
    agf_versionnum: Annotated[int, "I"]
    agf_seqno: Annotated[int, "I"]
    agf_length: Annotated[int, "I"]
    agf_bno_root: Annotated[int, "I"]
    agf_cnt_root: Annotated[int, "I"]
    agf_rmap_root: Annotated[int, "I"]
    agf_bno_level: Annotated[int, "I"]
    agf_cnt_level: Annotated[int, "I"]
    agf_rmap_level: Annotated[int, "I"]
    agf_flfirst: Annotated[int, "I"]
    agf_fllast: Annotated[int, "I"]
    agf_flcount: Annotated[int, "I"]
    agf_freeblks: Annotated[int, "I"]
    agf_longest: Annotated[int, "I"]
    agf_btreeblks: Annotated[int, "I"]
    agf_uuid: Annotated[bytes, "16s"]
    agf_rmap_blocks: Annotated[int, "I"]
    agf_refcount_blocks: Annotated[int, "I"]
    agf_refcount_root: Annotated[int, "I"]
    agf_refcount_level: Annotated[int, "I"]
    agf_spare64: Annotated[bytes, "112s"]
    agf_lsn: Annotated[int, "Q"]
    agf_crc: Annotated[bytes, "4s"]
    agf_spare2: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class BtreeBlock:
    """struct xfs_btree_block, short form, as version 4 has it."""

    bb_magic: Annotated[bytes, "4s"]
    bb_level: Annotated[int, "H"]
    bb_numrecs: Annotated[int, "H"]
    bb_leftsib: Annotated[int, "I"]
    bb_rightsib: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class BtreeBlockCrc:
    """What version 5 adds to it."""

    bb_blkno: Annotated[int, "Q"]  # in units of 512 bytes
    bb_lsn: Annotated[int, "Q"]
    bb_uuid: Annotated[bytes, "16s"]
    bb_owner: Annotated[int, "I"]
    bb_crc: Annotated[bytes, "4s"]


@dataclass(frozen=True, slots=True)
class LogRecord:
    """struct xlog_rec_header, at the start of a 512-byte basic block."""

    h_magicno: Annotated[int, "I"]
    h_cycle: Annotated[int, "I"]
    h_version: Annotated[int, "I"]
    h_len: Annotated[int, "I"]
    h_lsn: Annotated[int, "Q"]
    h_tail_lsn: Annotated[int, "Q"]
    h_crc: Annotated[bytes, "4s"]
    h_prev_block: Annotated[int, "I"]
    h_num_logops: Annotated[int, "I"]
    h_cycle_data: Annotated[bytes, "256s"]
    h_fmt: Annotated[int, "I"]
    h_fs_uuid: Annotated[bytes, "16s"]
    h_size: Annotated[int, "I"]


SUPERBLOCK = Layout(Superblock, order=">", size=264)
AGF = Layout(Agf, order=">", size=224)
BTREE_BLOCK = Layout(BtreeBlock, order=">", size=16)
BTREE_BLOCK_CRC = Layout(BtreeBlockCrc, order=">", size=40)
LOG_RECORD = Layout(LogRecord, order=">", size=324)

SB_MAGIC = b"XFSB"
AGF_MAGIC = b"XAGF"
BNO_MAGIC = b"ABTB"
BNO_MAGIC_CRC = b"AB3B"
LOG_MAGIC = 0xFEEDBABE
UNMOUNT_TRANS = 0x20
LOG_VERSION_2 = 2
BASIC_BLOCK = 512
NULL_BLOCK = 0xFFFFFFFF


class Version(enum.IntFlag):
    """sb_versionnum above its low four bits."""

    ATTR = 0x0010
    NLINK = 0x0020
    QUOTA = 0x0040
    ALIGN = 0x0080
    DALIGN = 0x0100
    SHARED = 0x0200
    LOGV2 = 0x0400
    SECTOR = 0x0800
    EXTFLG = 0x1000
    DIRV2 = 0x2000
    BORG = 0x4000
    MOREBITS = 0x8000


class Features2(enum.IntFlag):
    """sb_features2."""

    LAZYSBCOUNT = 0x002
    ATTR2 = 0x008
    PARENT = 0x010
    PROJID32 = 0x080
    CRC = 0x100
    FTYPE = 0x200


class RoCompat(enum.IntFlag):
    """sb_features_ro_compat: a reader need not know them."""

    FINOBT = 1
    RMAPBT = 2
    REFLINK = 4
    INOBTCNT = 8


class Incompat(enum.IntFlag):
    """sb_features_incompat."""

    FTYPE = 0x001
    SPINODES = 0x002
    META_UUID = 0x004
    BIGTIME = 0x008
    NEEDSREPAIR = 0x010
    NREXT64 = 0x020
    EXCHRANGE = 0x040
    PARENT = 0x080
    METADIR = 0x100
    ZONED = 0x200
    ZONE_GAPS = 0x400


# None of these moves or hides free space of the data section.
INCOMPAT_KNOWN = (
    Incompat.FTYPE
    | Incompat.SPINODES
    | Incompat.META_UUID
    | Incompat.BIGTIME
    | Incompat.NREXT64
    | Incompat.EXCHRANGE
    | Incompat.PARENT
    | Incompat.METADIR
)
