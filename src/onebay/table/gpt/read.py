"""Read both copies of a GPT and decide which one counts.

The primary counts where it is valid. Else the backup does: the one in the disk's last sector, as for Linux,
and failing that the one at the end that the protective MBR remembers (the disk grew). Sources: UEFI 2.10
section 5.3.2, linux block/partitions/efi.c (v6.12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from onebay.base.error import BadChecksum, BadMagic, Damaged, Error, Inconsistent, Unsupported
from onebay.base.extent import ExtentSet
from onebay.layer import Finding
from onebay.table.gpt.record import (
    HEADER,
    PRIMARY_LBA,
    REVISION_1_0,
    SIGNATURE,
    Header,
    guid_text,
    header_crc,
)
from onebay.table.kinds import PROTECTIVE

if TYPE_CHECKING:
    from onebay.block import Volume
    from onebay.table.mbr.record import Mbr

MAX_ARRAY = 4 << 20  # bytes; Linux refuses larger ones too (KMALLOC_MAX_SIZE)
ENTRY_SIZES = (128, 256, 512, 1024, 2048, 4096)
COMPARED = (
    "disk_guid",
    "first_usable_lba",
    "last_usable_lba",
    "num_partition_entries",
    "sizeof_partition_entry",
    "partition_entry_array_crc32",
)


@dataclass(frozen=True, slots=True)
class Copy:
    """One valid copy of the table: its header, what follows it in the sector, and the entry array."""

    header: Header
    rest: bytes
    array: bytes

    def extents(self, sector_size: int) -> list[tuple[int, int]]:
        """Bytes of the header's sector and of the array's."""
        lba, array = self.header.my_lba, self.header.partition_entry_lba
        end = array + self.header.array_lbas(sector_size)
        return [(lba * sector_size, (lba + 1) * sector_size), (array * sector_size, end * sector_size)]


@dataclass(frozen=True, slots=True)
class Gpt:
    """Both copies, None where one is not valid; at least one is."""

    volume: Volume
    mbr: Mbr | None
    primary: Copy | None
    backup: Copy | None
    findings: tuple[Finding, ...]

    @property
    def chosen(self) -> Copy:
        """The copy that counts."""
        copy = self.primary or self.backup
        assert copy is not None
        return copy

    @property
    def last_lba(self) -> int:
        """The disk's last whole sector."""
        return self.volume.size // self.volume.sector_size - 1

    @property
    def is_hybrid(self) -> bool:
        """Whether the MBR shows other partitions than the protective one."""
        return self.mbr is not None and any(
            entry.nr_sects and entry.sys_ind != PROTECTIVE for entry in self.mbr.entries
        )

    def metadata(self) -> ExtentSet:
        """The bytes of the protective MBR and of both copies."""
        sector = self.volume.sector_size
        places = [(0, sector)]
        for copy in (self.primary, self.backup):
            places += copy.extents(sector) if copy else []
        return ExtentSet.of(places)


def read_copy(volume: Volume, lba: int) -> Copy:
    """Read the copy whose header is at `lba`; raises Damaged or Unsupported with what is wrong."""
    sector = volume.read(lba * volume.sector_size, volume.sector_size)
    header = parse_header(sector, lba, volume)
    at = header.partition_entry_lba * volume.sector_size
    array = volume.read(at, header.array_size)
    if crc32(array) != header.partition_entry_array_crc32:
        raise BadChecksum(
            "entry array crc",
            volume=volume.name,
            at=at,
            expected=f"{header.partition_entry_array_crc32:08x}",
            found=f"{crc32(array):08x}",
        )
    return Copy(header, sector[HEADER.size :], array)


def parse_header(sector: bytes, lba: int, volume: Volume) -> Header:
    """Return the header in `sector`, read from `lba`; raises Damaged or Unsupported."""
    name, at = volume.name, lba * volume.sector_size
    header = HEADER.unpack(sector, volume=name)
    if header.signature != SIGNATURE:
        raise BadMagic("gpt signature", volume=name, at=at, expected=SIGNATURE, found=header.signature)
    if not HEADER.size <= header.header_size <= len(sector):
        raise Inconsistent(
            "header size", volume=name, at=at, expected=f"92..{len(sector)}", found=header.header_size
        )
    if (crc := header_crc(sector, header.header_size)) != header.header_crc32:
        raise BadChecksum(
            "header crc", volume=name, at=at, expected=f"{header.header_crc32:08x}", found=f"{crc:08x}"
        )
    if header.revision != REVISION_1_0:
        raise Unsupported("gpt revision", volume=name, at=at, expected="10000", found=f"{header.revision:x}")
    if header.my_lba != lba:
        raise Inconsistent("header's own lba", volume=name, at=at, expected=lba, found=header.my_lba)
    if header.first_usable_lba > header.end_usable_lba:
        raise Inconsistent(
            "usable space ends before it starts",
            volume=name,
            at=at,
            expected=f">= {header.first_usable_lba}",
            found=header.last_usable_lba,
        )
    check_array(header, volume, at)
    return header


def check_array(header: Header, volume: Volume, at: int) -> None:
    """Raise Damaged where the entry array has an impossible size or place."""
    name = volume.name
    if header.sizeof_partition_entry not in ENTRY_SIZES:
        raise Inconsistent(
            "entry size", volume=name, at=at, expected="128..4096", found=header.sizeof_partition_entry
        )
    if not 0 < header.array_size <= MAX_ARRAY:
        raise Inconsistent(
            "entry array size", volume=name, at=at, expected=f"1..{MAX_ARRAY}", found=header.array_size
        )
    low = header.partition_entry_lba
    high = low + header.array_lbas(volume.sector_size)
    total = volume.size // volume.sector_size
    if low <= PRIMARY_LBA or high > total or low <= header.my_lba < high:
        raise Inconsistent("entry array place", volume=name, at=at, expected=f"2..{total}", found=low)


def read_gpt(volume: Volume, mbr: Mbr | None) -> Gpt:
    """Read both copies; raises Damaged where neither is valid, or where two backups contradict each other."""
    evidence: list[str] = []
    primary = attempt(volume, PRIMARY_LBA, evidence)
    backups = [
        copy for lba in backup_places(volume, primary, mbr) if (copy := attempt(volume, lba, evidence))
    ]
    if primary is None and not backups:
        raise Damaged(f"no valid gpt header: {'; '.join(evidence)}", volume=volume.name)
    if primary is None:
        guids = {copy.header.disk_guid for copy in backups}
        if len(guids) > 1:
            names = " and ".join(sorted(guid_text(guid) for guid in guids))
            raise Inconsistent(f"the primary gpt is bad and two backups differ: {names}", volume=volume.name)
    else:
        # Another owner of the disk may have left a backup of its own in the last sector.
        backups = [copy for copy in backups if copy.header.disk_guid == primary.header.disk_guid]
    backup = backups[0] if backups else None
    findings = findings_of(volume, primary, backup, evidence)
    gpt = Gpt(volume, mbr, primary, backup, ())
    return Gpt(volume, mbr, primary, backup, (*findings, *mbr_findings(gpt)))


def attempt(volume: Volume, lba: int, evidence: list[str]) -> Copy | None:
    """Read a copy, or note why there is none."""
    try:
        return read_copy(volume, lba)
    except Error as error:
        evidence.append(str(error))
        return None


def backup_places(volume: Volume, primary: Copy | None, mbr: Mbr | None) -> list[int]:
    """Return where a backup header may be, the likeliest first."""
    last = volume.size // volume.sector_size - 1
    places = [primary.header.alternate_lba] if primary else []
    places.append(last)
    if mbr is not None and primary is None:
        places += [entry.end_sect - 1 for entry in mbr.entries if entry.sys_ind == PROTECTIVE]
    found = [lba for lba in places if PRIMARY_LBA < lba <= last]
    return list(dict.fromkeys(found))


def findings_of(
    volume: Volume, primary: Copy | None, backup: Copy | None, evidence: list[str]
) -> list[Finding]:
    """Return what is wrong with the copies."""
    found: list[Finding] = []
    last = volume.size // volume.sector_size - 1

    def add(kind: str, text: str, lba: int) -> None:
        found.append(Finding("warning", kind, text, volume.name, lba * volume.sector_size))

    why = f" ({evidence[0]})" if evidence else ""
    if primary is None:
        add("gpt-primary-bad", f"the primary gpt is not valid, the backup is used{why}", PRIMARY_LBA)
    if backup is None:
        add("gpt-backup-bad", f"the backup gpt is not valid{why}", last)
    elif backup.header.my_lba != last:
        text = "the backup gpt is not at the end of the disk; the disk is larger than the table knows"
        add("gpt-backup-misplaced", text, backup.header.my_lba)
    if primary and primary.header.alternate_lba > last:
        add(
            "gpt-disk-shorter",
            "the disk is smaller than the table says; linux ignores the table",
            PRIMARY_LBA,
        )
    if primary and backup and (names := differences(primary.header, backup.header)):
        text = f"the two copies differ in {', '.join(names)}; the primary is used"
        add("gpt-disagree", text, backup.header.my_lba)
    return found


def differences(primary: Header, backup: Header) -> list[str]:
    """Return the fields in which the copies contradict each other."""
    names = [name for name in COMPARED if getattr(primary, name) != getattr(backup, name)]
    if primary.alternate_lba != backup.my_lba or backup.alternate_lba != primary.my_lba:
        names.append("alternate_lba")
    return names


def mbr_findings(gpt: Gpt) -> list[Finding]:
    """Return what is odd about LBA 0."""
    name = gpt.volume.name
    if gpt.mbr is None or not any(entry.sys_ind == PROTECTIVE for entry in gpt.mbr.entries):
        return [Finding("damage", "pmbr-missing", "no protective mbr; linux ignores the table", name, 0)]
    if gpt.is_hybrid:
        return [Finding("note", "hybrid-mbr", "the mbr shows some partitions of the gpt too", name, 0)]
    return []
