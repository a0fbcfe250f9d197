"""An MBR partition table as a layer."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from onebay.base.error import Error, Inconsistent
from onebay.base.extent import Extent, ExtentSet
from onebay.block import Span
from onebay.layer import Finding, Suspect
from onebay.table.kinds import EXTENDED, type_name
from onebay.table.mbr import write
from onebay.table.mbr.read import FIRST_LOGICAL, Ebr, check_range, is_table, read_chain
from onebay.table.mbr.record import ACTIVE, SECTORS_MAX, Entry, Mbr
from onebay.table.model import Table
from onebay.table.partition import Partition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.base.step import Step
    from onebay.layer import Value, Volume


class MbrTable(Table):
    """A DOS partition table with its chain of extended boot records."""

    kind = "mbr"
    growth = "the last data partition, up to 2 TiB; `grow --table gpt` makes it a GPT"
    shrinkage = "the last data partition, and the extended one around it"

    def __init__(
        self, volume: Volume, mbr: Mbr, ebrs: Sequence[Ebr], partitions: Sequence[Partition]
    ) -> None:
        self.mbr = mbr
        self.ebrs = tuple(ebrs)
        super().__init__(volume, partitions, chain_findings(volume, ebrs, partitions))

    @property
    def title(self) -> str:
        return "MBR"

    @property
    def identity(self) -> str:
        return f"{self.mbr.unique_mbr_signature:08x}"

    @property
    def extended(self) -> Partition | None:
        """The extended partition, if there is one."""
        return next((part for part in self.partitions if part.is_extended), None)

    @property
    def usable(self) -> Extent:
        return Extent(self.volume.sector_size, max(self.volume.sector_size, self.growth_limit()))

    def limit_on(self, size: int) -> int:
        sector = self.volume.sector_size
        return min(size // sector, SECTORS_MAX) * sector

    def metadata(self) -> ExtentSet:
        sector = self.volume.sector_size
        places = [0, *(ebr.lba for ebr in self.ebrs)]
        return ExtentSet.of((lba * sector, (lba + 1) * sector) for lba in places)

    def facts(self) -> Mapping[str, Value]:
        return {"table": "mbr", **super().facts()}

    def check(self) -> list[Finding]:
        found = super().check()
        sector = self.volume.sector_size
        if self.volume.size // sector > SECTORS_MAX:
            text = f"an MBR reaches {SECTORS_MAX * sector} bytes of the disk's {self.volume.size}"
            found.append(self.finding("note", "mbr-limit", text))
        last = self.volume.size // sector * sector - sector
        for at in (sector, last):
            if at > 0 and at + 8 <= self.volume.size and self.volume.read(at, 8) == b"EFI PART":
                text = "a GPT header without a protective MBR, which Linux and firmware ignore"
                found.append(self.finding("note", "gpt-stale", text, at))
        return found

    def plan_grow(self) -> list[Step]:
        return write.plan_grow(self)

    def plan_end(self, disk: Volume, end: int) -> list[Step]:
        # the same table, as if it had been read from the other disk
        moved = MbrTable(disk, self.mbr, self.ebrs, self.partitions)
        return write.plan_end(moved, self.data_partition, end)


def probe(volume: Volume, mbr: Mbr) -> MbrTable | Suspect | None:
    """Return the table of a sector that ends in 55 AA and is not protective; None where it is no table."""
    if not is_table(volume, mbr):
        return None
    try:
        ebrs, partitions = read_partitions(volume, mbr)
    except Error as error:
        return Suspect("mbr", volume, str(error), error.at)
    return MbrTable(volume, mbr, ebrs, partitions)


def read_partitions(volume: Volume, mbr: Mbr) -> tuple[list[Ebr], list[Partition]]:
    """Return the chain and all partitions; raises Damaged where the table contradicts itself or the disk."""
    partitions: list[Partition] = []
    ebrs: list[Ebr] = []
    extended: tuple[int, Entry] | None = None
    for number, entry in enumerate(mbr.entries, 1):
        if not entry.nr_sects:
            continue
        check_range(volume, number, entry.start_sect, entry.end_sect)
        partitions.append(make(volume, mbr, number, entry, entry.start_sect))
        if entry.sys_ind not in EXTENDED:
            continue
        if extended is not None:
            raise Inconsistent(f"two extended partitions, p{extended[0]} and p{number}", volume=volume.name)
        extended = number, entry
    if extended is not None:
        ebrs = read_chain(volume, extended[1])
        for number, ebr in enumerate((ebr for ebr in ebrs if ebr.data is not None), FIRST_LOGICAL):
            assert ebr.data is not None
            entry = ebr.entries[ebr.data]
            start = ebr.lba + entry.start_sect
            check_range(volume, number, start, start + entry.nr_sects)
            partitions.append(make(volume, mbr, number, entry, start, inside=extended[0]))
    return ebrs, partitions


def make(
    volume: Volume, mbr: Mbr, number: int, entry: Entry, start_lba: int, *, inside: int | None = None
) -> Partition:
    """Return the partition of an entry whose absolute start is `start_lba`."""
    sector = volume.sector_size
    start, size = start_lba * sector, entry.nr_sects * sector
    kind = f"0x{entry.sys_ind:02x}"
    return Partition(
        number=number,
        start=start,
        size=size,
        type=kind,
        type_name=type_name(kind),
        uuid=f"{mbr.unique_mbr_signature:08x}-{number:02x}",
        name="",
        active=entry.boot_ind == ACTIVE,
        volume=Span(f"{volume.name}:p{number}", volume, start, size),
        is_extended=entry.sys_ind in EXTENDED and inside is None,
        inside=inside,
    )


def chain_findings(volume: Volume, ebrs: Sequence[Ebr], partitions: Sequence[Partition]) -> list[Finding]:
    """Return what is odd about the chain of extended boot records."""
    found: list[Finding] = []
    sector = volume.sector_size
    extended = next((part for part in partitions if part.is_extended), None)
    if extended is None:
        return found

    def add(severity: str, kind: str, text: str, at: int) -> None:
        found.append(Finding(severity, kind, text, volume.name, at))

    if not ebrs:
        add("note", "ebr-missing", "the extended partition has no boot record yet", extended.start)
    starts = [part.start for part in partitions if part.inside is not None]
    if any(after < before for before, after in pairwise(starts)):
        add("warning", "ebr-order", "logical partitions are not in the order of the disk", extended.start)
    for ebr in ebrs:
        if ebr.extra:
            add(
                "warning",
                "ebr-extra",
                "entries 3 and 4 of an extended boot record are used",
                ebr.lba * sector,
            )
    for part in partitions:
        if part.inside is not None and not (extended.start < part.start and part.end <= extended.end):
            add("damage", "logical-outside", f"p{part.number} is not inside p{extended.number}", part.start)
    return found
