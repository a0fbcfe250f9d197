"""Tell an MBR from other boot sectors, and follow the chain of extended boot records.

In an EBR the data entry counts from the EBR's own sector and the link entry from the start of the extended
partition. Numbers are those of Linux: p5 is the first logical partition along the chain. Sources: linux
block/partitions/msdos.c (v6.12), util-linux libblkid/src/partitions/dos.c and libfdisk/src/dos.c (v2.38).
Not supported: a second extended partition, and several data entries in one EBR; both are reported as damage.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent
from onebay.table.kinds import EXTENDED, NAMES, PROTECTIVE
from onebay.table.mbr.record import ACTIVE, MAGIC, MBR, Entry, Mbr

if TYPE_CHECKING:
    from onebay.block import Volume

MAX_LOGICALS = 252  # DISK_MAX_PARTS of Linux, without the four primaries
FIRST_LOGICAL = 5


@dataclass(frozen=True, slots=True)
class Ebr:
    """An extended boot record at sector `lba`; `data` and `link` are indices of its entries."""

    lba: int
    entries: tuple[Entry, ...]
    data: int | None
    link: int | None
    extra: bool  # entries beyond the first two are not empty


def read_mbr(volume: Volume) -> Mbr | None:
    """Return the first 512 bytes where they end in the magic, else None."""
    if volume.size < max(MBR.size, volume.sector_size):
        return None
    mbr = MBR.unpack(volume.read(0, MBR.size), volume=volume.name)
    return mbr if mbr.signature == MAGIC else None


def is_protective(mbr: Mbr) -> bool:
    """Whether an entry claims the disk for GPT, as Linux sees it: from LBA 1 on."""
    return any(entry.sys_ind == PROTECTIVE and entry.start_sect == 1 for entry in mbr.entries)


def is_file_system(mbr: Mbr) -> bool:
    """Whether the sector is the boot sector of FAT, exFAT or NTFS, as libblkid decides it."""
    raw = mbr.boot_code
    if raw[3:11] in (b"NTFS    ", b"EXFAT   "):
        return True
    if raw[0] not in (0xEB, 0xE9):
        return False
    sector, cluster = int.from_bytes(raw[11:13], "little"), raw[13]
    reserved, fats, media = int.from_bytes(raw[14:16], "little"), raw[16], raw[21]
    total = int.from_bytes(raw[19:21], "little") or int.from_bytes(raw[32:36], "little")
    return (
        sector in (512, 1024, 2048, 4096)
        and cluster.bit_count() == 1
        and reserved > 0
        and fats in (1, 2)
        and (media >= 0xF8 or media == 0xF0)
        and total > 0
    )


def is_table(volume: Volume, mbr: Mbr) -> bool:
    """Whether the sector is a partition table at all; strict, since 55 AA ends many boot sectors.

    A table without any entry counts only with a disk signature: boot code alone may as well be that of a
    partition (GRUB or EXTLINUX on ext4 leave the same picture).
    """
    if is_file_system(mbr) or any(entry.boot_ind not in (0, ACTIVE) for entry in mbr.entries):
        return False
    entries = [entry for entry in mbr.entries if entry.nr_sects]
    if not entries:
        return not any(mbr.partition_record) and mbr.unique_mbr_signature != 0
    sectors = volume.size // volume.sector_size
    if any(entry.start_sect < sectors for entry in entries):
        return True
    # A disk cut short has all its partitions beyond the end; chance hardly makes four sane entries.
    idle = [entry for entry in mbr.entries if not entry.nr_sects]
    return (
        all(f"0x{entry.sys_ind:02x}" in NAMES and entry.sys_ind for entry in entries)
        and all(not entry.sys_ind and not entry.start_sect for entry in idle)
        and all(a.end_sect <= b.start_sect for a, b in pairs(entries))
    )


def pairs(entries: list[Entry]) -> list[tuple[Entry, Entry]]:
    """Return neighbours by their starts."""
    ordered = sorted(entries, key=lambda entry: entry.start_sect)
    return list(pairwise(ordered))


def check_range(volume: Volume, number: int, start: int, end: int) -> None:
    """Raise Inconsistent where partition `number`, in sectors, is not inside the disk or covers LBA 0."""
    size = volume.sector_size
    if start == 0:
        raise Inconsistent(f"p{number} starts in the sector of the table", volume=volume.name, at=0)
    if end > volume.size // size:
        raise Inconsistent(
            f"p{number} ends beyond the end of the disk",
            volume=volume.name,
            at=start * size,
            expected=f"<= {volume.size} bytes",
            found=end * size,
        )


def read_chain(volume: Volume, extended: Entry) -> list[Ebr]:
    """Return the extended boot records of an extended partition in the order of their links.

    An extended partition whose first sector is zero has none. Raises Inconsistent where the chain leaves the
    partition, comes back to a sector, breaks off, or is longer than Linux would follow.
    """
    chain: list[Ebr] = []
    seen: set[int] = set()
    lba = extended.start_sect
    while True:
        at = lba * volume.sector_size
        if lba in seen:
            raise Inconsistent("the chain of extended boot records is a loop", volume=volume.name, at=at)
        if len(chain) > MAX_LOGICALS:
            raise Inconsistent(f"more than {MAX_LOGICALS} logical partitions", volume=volume.name, at=at)
        seen.add(lba)
        record = MBR.unpack(volume.read(at, MBR.size), volume=volume.name)
        if record.signature != MAGIC:
            if not chain and not any(MBR.pack(record)):
                return []
            raise Inconsistent(
                "extended boot record without magic",
                volume=volume.name,
                at=at,
                expected=MAGIC,
                found=record.signature,
            )
        ebr = parse_ebr(volume, lba, record)
        chain.append(ebr)
        if ebr.link is None:
            return chain
        link = ebr.entries[ebr.link]
        lba = extended.start_sect + link.start_sect
        if lba >= extended.end_sect:
            raise Inconsistent(
                "link of an extended boot record leaves the extended partition", volume=volume.name, at=at
            )


def parse_ebr(volume: Volume, lba: int, record: Mbr) -> Ebr:
    """Sort the entries of an EBR; raises Inconsistent where two of the first are of one sort."""
    entries = record.entries
    data: list[int] = []
    link: list[int] = []
    for index, entry in enumerate(entries[:2]):
        if entry.nr_sects:
            (link if entry.sys_ind in EXTENDED else data).append(index)
    if len(data) > 1 or len(link) > 1:
        what = "data entries" if len(data) > 1 else "links"
        raise Inconsistent(
            f"extended boot record with two {what}", volume=volume.name, at=lba * volume.sector_size
        )
    extra = any(entry.nr_sects for entry in entries[2:])
    return Ebr(lba, tuple(entries), data[0] if data else None, link[0] if link else None, extra)
