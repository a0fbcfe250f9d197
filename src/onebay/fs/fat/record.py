"""FAT on disk: the boot sector with its BIOS parameter block, FSInfo, directory entries.

Sources: Microsoft "FAT: General Overview of On-Disk Format" 1.03 and ECMA-107; field names from linux
include/uapi/linux/msdos_fs.h (v6.12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from onebay.base.record import Layout


@dataclass(frozen=True, slots=True)
class BootSector:
    """First 36 bytes, the same for all three widths."""

    ignored: Annotated[bytes, "3s"]  # the jump over this block
    system_id: Annotated[bytes, "8s"]
    sector_size: Annotated[int, "H"]
    sec_per_clus: Annotated[int, "B"]
    reserved: Annotated[int, "H"]
    fats: Annotated[int, "B"]
    dir_entries: Annotated[int, "H"]
    sectors: Annotated[int, "H"]
    media: Annotated[int, "B"]
    fat_length: Annotated[int, "H"]
    secs_track: Annotated[int, "H"]
    heads: Annotated[int, "H"]
    hidden: Annotated[int, "I"]
    total_sect: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class Tail16:
    """What follows at byte 36 on FAT12 and FAT16."""

    drive_number: Annotated[int, "B"]
    state: Annotated[int, "B"]
    signature: Annotated[int, "B"]
    vol_id: Annotated[int, "I"]
    vol_label: Annotated[bytes, "11s"]
    fs_type: Annotated[bytes, "8s"]


@dataclass(frozen=True, slots=True)
class Tail32:
    """What follows at byte 36 on FAT32."""

    length: Annotated[int, "I"]
    flags: Annotated[int, "H"]
    version: Annotated[int, "H"]
    root_cluster: Annotated[int, "I"]
    info_sector: Annotated[int, "H"]
    backup_boot: Annotated[int, "H"]
    reserved2: Annotated[bytes, "12s"]
    drive_number: Annotated[int, "B"]
    state: Annotated[int, "B"]
    signature: Annotated[int, "B"]
    vol_id: Annotated[int, "I"]
    vol_label: Annotated[bytes, "11s"]
    fs_type: Annotated[bytes, "8s"]


@dataclass(frozen=True, slots=True)
class FsInfo:
    """FAT32's counters, hints only."""

    signature1: Annotated[int, "I"]
    reserved1: Annotated[bytes, "480s"]
    signature2: Annotated[int, "I"]
    free_clusters: Annotated[int, "I"]
    next_cluster: Annotated[int, "I"]
    reserved2: Annotated[bytes, "12s"]
    signature3: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class DirEntry:
    """A short directory entry."""

    name: Annotated[bytes, "11s"]
    attr: Annotated[int, "B"]
    lcase: Annotated[int, "B"]
    ctime_cs: Annotated[int, "B"]
    ctime: Annotated[int, "H"]
    cdate: Annotated[int, "H"]
    adate: Annotated[int, "H"]
    starthi: Annotated[int, "H"]
    time: Annotated[int, "H"]
    date: Annotated[int, "H"]
    start: Annotated[int, "H"]
    size: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class SlotEntry:
    """One of up to 20 entries with a part of a long name, 13 UTF-16 units each."""

    id: Annotated[int, "B"]
    name0_4: Annotated[bytes, "10s"]
    attr: Annotated[int, "B"]
    reserved: Annotated[int, "B"]
    alias_checksum: Annotated[int, "B"]
    name5_10: Annotated[bytes, "12s"]
    start: Annotated[int, "H"]
    name11_12: Annotated[bytes, "4s"]


BOOT_SECTOR = Layout(BootSector, order="<", size=36)
TAIL16 = Layout(Tail16, order="<", size=26)
TAIL32 = Layout(Tail32, order="<", size=54)
FS_INFO = Layout(FsInfo, order="<", size=512)
DIR_ENTRY = Layout(DirEntry, order="<", size=32)
SLOT_ENTRY = Layout(SlotEntry, order="<", size=32)

FSINFO_SIGNATURE1 = 0x41615252
FSINFO_SIGNATURE2 = 0x61417272

ATTR_MASK = 0x3F
ATTR_VOLUME = 0x08
ATTR_DIR = 0x10
ATTR_LONG_NAME = 0x0F
CASE_LOWER_BASE = 0x08
CASE_LOWER_EXT = 0x10
STATE_DIRTY = 0x01
