"""A GPT as a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Error, Inconsistent
from onebay.base.extent import Extent, ExtentSet
from onebay.block import Span
from onebay.layer import Finding, Suspect
from onebay.table.gpt import write
from onebay.table.gpt.read import Gpt, read_copy, read_gpt
from onebay.table.gpt.record import (
    ENTRY,
    LEGACY_BOOTABLE,
    PRIMARY_LBA,
    UNUSED,
    Entry,
    guid_text,
    name_text,
)
from onebay.table.gpt.shrink import plan_end
from onebay.table.kinds import type_name
from onebay.table.model import Table
from onebay.table.partition import Partition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.base.step import Step
    from onebay.layer import Value, Volume
    from onebay.table.mbr.record import Mbr


class GptTable(Table):
    """A GUID partition table; `gpt` holds both copies as read."""

    kind = "gpt"
    growth = "the last data partition; the backup table moves to the end of the disk"
    shrinkage = "the last data partition; the backup table moves to the new end"

    def __init__(self, gpt: Gpt, partitions: Sequence[Partition]) -> None:
        self.gpt = gpt
        super().__init__(gpt.volume, partitions, (*gpt.findings, *entry_findings(gpt, partitions)))

    @property
    def title(self) -> str:
        return "GPT (hybrid MBR)" if self.gpt.is_hybrid else "GPT"

    @property
    def identity(self) -> str:
        return guid_text(self.gpt.chosen.header.disk_guid)

    @property
    def usable(self) -> Extent:
        header, sector = self.gpt.chosen.header, self.volume.sector_size
        total = self.volume.size // sector
        start = min(header.first_usable_lba, total)
        return Extent(start * sector, max(start, min(header.end_usable_lba, total)) * sector)

    def metadata(self) -> ExtentSet:
        return self.gpt.metadata()

    def limit_on(self, size: int) -> int:
        sector = self.volume.sector_size
        return (size // sector - 1 - self.gpt.chosen.header.array_lbas(sector)) * sector

    def facts(self) -> Mapping[str, Value]:
        return {
            "table": "gpt",
            "entries": self.gpt.chosen.header.num_partition_entries,
            "hybrid": self.gpt.is_hybrid,
            "primary_valid": self.gpt.primary is not None,
            "backup_valid": self.gpt.backup is not None,
            **super().facts(),
        }

    def plan_grow(self) -> list[Step]:
        return write.plan_grow(self)

    def plan_end(self, disk: Volume, end: int) -> list[Step]:
        return plan_end(self, disk, end)


def probe(volume: Volume, mbr: Mbr) -> GptTable | Suspect:
    """Return the table of a disk whose MBR is protective; a Suspect where no copy is valid."""
    try:
        gpt = read_gpt(volume, mbr)
        return GptTable(gpt, read_partitions(gpt))
    except Error as error:
        return Suspect("gpt", volume, str(error), error.at)


def probe_unprotected(volume: Volume) -> GptTable | Suspect | None:
    """Return the table of a disk whose LBA 0 is lost; None unless the primary copy is valid.

    A backup alone says nothing: it is what is left of the disk's last life once its start is wiped.
    """
    sector = volume.sector_size
    if volume.size < 3 * sector or volume.read(sector, 8) != b"EFI PART":
        return None
    try:
        read_copy(volume, PRIMARY_LBA)
        gpt = read_gpt(volume, None)
        return GptTable(gpt, read_partitions(gpt))
    except Error as error:
        return Suspect("gpt", volume, str(error), error.at)


def read_partitions(gpt: Gpt) -> list[Partition]:
    """Return the partitions of the copy that counts; raises Inconsistent where one is not on the disk."""
    copy, volume = gpt.chosen, gpt.volume
    step = copy.header.sizeof_partition_entry
    found: list[Partition] = []
    for index in range(copy.header.num_partition_entries):
        at = index * step
        if copy.array[at : at + 16] == UNUSED:
            continue
        found.append(make(volume, index + 1, ENTRY.unpack(copy.array, at, volume=volume.name), gpt.last_lba))
    return found


def make(volume: Volume, number: int, entry: Entry, last_lba: int) -> Partition:
    """Return the partition of an entry; raises Inconsistent where it is not on the disk."""
    sector = volume.sector_size
    if not 0 < entry.starting_lba < entry.end_lba <= last_lba + 1:
        raise Inconsistent(
            f"p{number} is not on the disk",
            volume=volume.name,
            at=min(entry.starting_lba * sector, volume.size),
            expected=f"sectors 1..{last_lba}",
            found=f"{entry.starting_lba}..{entry.ending_lba}",
        )
    start, size = entry.starting_lba * sector, (entry.end_lba - entry.starting_lba) * sector
    kind = guid_text(entry.partition_type_guid)
    return Partition(
        number=number,
        start=start,
        size=size,
        type=kind,
        type_name=type_name(kind),
        uuid=guid_text(entry.unique_partition_guid),
        name=name_text(entry.partition_name),
        active=bool(entry.attributes & LEGACY_BOOTABLE),
        volume=Span(f"{volume.name}:p{number}", volume, start, size),
    )


def entry_findings(gpt: Gpt, partitions: Sequence[Partition]) -> list[Finding]:
    """Return what is wrong with single entries."""
    found: list[Finding] = []
    header, sector = gpt.chosen.header, gpt.volume.sector_size
    seen: dict[str, int] = {}
    for part in partitions:
        if part.start < header.first_usable_lba * sector or part.end > header.end_usable_lba * sector:
            text = f"p{part.number} is outside the table's usable space"
            found.append(Finding("damage", "outside-usable", text, gpt.volume.name, part.start))
        if part.uuid in seen:
            text = f"p{seen[part.uuid]} and p{part.number} have the same GUID {part.uuid}"
            found.append(Finding("warning", "duplicate-guid", text, gpt.volume.name, part.start))
        seen.setdefault(part.uuid, part.number)
    return found
