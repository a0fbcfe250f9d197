"""Superblocks of Linux md as they lie on disk: 0.90, 1.x and the write-intent bitmap's.

Names are the kernel's: include/uapi/linux/raid/md_p.h (mdp_super_t, mdp_superblock_1) and
drivers/md/md-bitmap.h (bitmap_super_s). A 0.90 superblock is in the byte order of the host
that wrote it; only little-endian ones are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated

from onebay.base.record import Layout

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
I32 = Annotated[int, "i"]
U64 = Annotated[int, "Q"]

SB_MAGIC = 0xA92B4EFC
BITMAP_MAGIC = 0x6D746962
SB_BYTES = 4096
RESERVED_BYTES = 64 << 10  # a 0.90 superblock starts the last whole 64 KiB of the device
MAX_SECTOR = (1 << 64) - 1  # resync_offset of a clean array
MAX_DEVS_0 = 27
MAX_DEVS_1 = (SB_BYTES - 256) // 2
ROLE_MAX = 0xFF00
ROLE_JOURNAL = 0xFFFD
ROLE_FAULTY = 0xFFFE
ROLE_SPARE = 0xFFFF


class Feature(IntFlag):
    """feature_map of a 1.x superblock."""

    BITMAP_OFFSET = 1
    RECOVERY_OFFSET = 2
    RESHAPE_ACTIVE = 4
    BAD_BLOCKS = 8
    REPLACEMENT = 16
    RESHAPE_BACKWARDS = 32
    NEW_OFFSET = 64
    RECOVERY_BITMAP = 128
    CLUSTERED = 256
    JOURNAL = 512
    PPL = 1024
    MULTIPLE_PPLS = 2048
    RAID0_LAYOUT = 4096


FEATURES_KNOWN = sum(Feature)
RESHAPING = Feature.RESHAPE_ACTIVE | Feature.RESHAPE_BACKWARDS | Feature.NEW_OFFSET


class DiskState(IntFlag):
    """State bits of a device descriptor in a 0.90 superblock."""

    FAULTY = 1 << 0
    ACTIVE = 1 << 1
    SYNC = 1 << 2
    REMOVED = 1 << 3


@dataclass(frozen=True, slots=True)
class Super0:
    """mdp_super_t: `size` is in KiB, `chunk_size` in bytes."""

    md_magic: U32
    major_version: U32
    minor_version: U32
    patch_version: U32
    gvalid_words: U32
    set_uuid0: U32
    ctime: U32
    level: I32
    size: U32
    nr_disks: U32
    raid_disks: U32
    md_minor: U32
    not_persistent: U32
    set_uuid1: U32
    set_uuid2: U32
    set_uuid3: U32
    gstate_creserved: Annotated[bytes, "64s"]
    utime: U32
    state: U32
    active_disks: U32
    working_disks: U32
    failed_disks: U32
    spare_disks: U32
    sb_csum: U32
    events_lo: U32
    events_hi: U32
    cp_events_lo: U32
    cp_events_hi: U32
    recovery_cp: U32
    reshape_position: U64
    new_level: U32
    delta_disks: U32
    new_layout: U32
    new_chunk: U32
    gstate_sreserved: Annotated[bytes, "56s"]
    layout: U32
    chunk_size: U32
    root_pv: U32
    root_block: U32
    pstate_reserved: Annotated[bytes, "240s"]
    disks: Annotated[bytes, "3456s"]
    this_disk: Annotated[bytes, "128s"]


@dataclass(frozen=True, slots=True)
class Disk0:
    """mdp_disk_t: one device in a 0.90 superblock."""

    number: U32
    major: U32
    minor: U32
    raid_disk: U32
    state: U32
    reserved: Annotated[bytes, "108s"]


@dataclass(frozen=True, slots=True)
class Super1:
    """mdp_superblock_1 up to dev_roles: sizes and offsets are in 512-byte sectors."""

    magic: U32
    major_version: U32
    feature_map: U32
    pad0: U32
    set_uuid: Annotated[bytes, "16s"]
    set_name: Annotated[bytes, "32s"]
    ctime: U64
    level: I32
    layout: U32
    size: U64
    chunksize: U32
    raid_disks: U32
    bitmap_offset: I32
    new_level: U32
    reshape_position: U64
    delta_disks: U32
    new_layout: U32
    new_chunk: U32
    new_offset: U32
    data_offset: U64
    data_size: U64
    super_offset: U64
    recovery_offset: U64
    dev_number: U32
    cnt_corrected_read: U32
    device_uuid: Annotated[bytes, "16s"]
    devflags: U8
    bblog_shift: U8
    bblog_size: U16
    bblog_offset: I32
    utime: U64
    events: U64
    resync_offset: U64
    sb_csum: U32
    max_dev: U32
    pad3: Annotated[bytes, "32s"]


@dataclass(frozen=True, slots=True)
class BitmapSuper:
    """bitmap_super_s: `sync_size` is in sectors, `chunksize` in bytes."""

    magic: U32
    version: U32
    uuid: Annotated[bytes, "16s"]
    events: U64
    events_cleared: U64
    sync_size: U64
    state: U32
    chunksize: U32
    daemon_sleep: U32
    write_behind: U32
    sectors_reserved: U32
    nodes: U32
    cluster_name: Annotated[bytes, "64s"]
    pad: Annotated[bytes, "120s"]


SUPER0 = Layout(Super0, order="<", size=SB_BYTES)
DISK0 = Layout(Disk0, order="<", size=128)
SUPER1 = Layout(Super1, order="<", size=256)
BITMAP_SUPER = Layout(BitmapSuper, order="<", size=256)


def fold(total: int) -> int:
    """Fold a sum of 32-bit words as md.c does."""
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


def checksum0(raw: bytes) -> int:
    """Checksum of a 0.90 superblock of 4096 bytes (md.c, calc_sb_csum)."""
    words = struct.unpack("<1024I", raw)
    return fold(sum(words) - words[SUPER0.offset("sb_csum") // 4])


def checksum1(raw: bytes, max_dev: int) -> int:
    """Checksum of a 1.x superblock with `max_dev` roles (md.c, calc_sb_1_csum)."""
    size = 256 + 2 * max_dev
    words = struct.unpack_from(f"<{size // 4}I", raw)
    total = sum(words) - words[SUPER1.offset("sb_csum") // 4]
    if size % 4:
        total += int.from_bytes(raw[size - 2 : size], "little")
    return fold(total)
