"""Changes of an MBR table as steps; only bytes 446..512 of a sector are ever written, boot code never.

Each write is within one sector, so each counts whole or not at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onebay.base.error import Refused, Unsupported
from onebay.base.step import Flush, Step, Write
from onebay.table.kinds import EXTENDED, PROTECTIVE
from onebay.table.mbr.read import FIRST_LOGICAL
from onebay.table.mbr.record import (
    EMPTY,
    ENTRIES,
    SECTORS_MAX,
    TABLE_AT,
    Entry,
    make_entry,
    pack_entries,
)
from onebay.table.room import check_additions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onebay.table.mbr.layer import MbrTable
    from onebay.table.mbr.read import Ebr
    from onebay.table.partition import NewPartition, Partition


def plan_grow(table: MbrTable) -> list[Step]:
    """Return the steps that grow the last data partition, and the extended one around it first.

    Raises Refused where the table is too damaged to be written.
    """
    part = table.data_partition
    end = table.grown_end(part) if part else 0
    if part is None or end == part.end:
        return []
    table.refuse_writing()
    steps = table.plan_clear_end(part, end, keep=table.metadata())
    steps.append(Flush(table.volume))
    steps += grow_primary(table, part, end) if part.inside is None else grow_logical(table, part, end)
    return steps


def grow_primary(table: MbrTable, part: Partition, end: int) -> list[Step]:
    """Let the entry of a primary or the extended partition end at byte `end`."""
    entries = table.mbr.entries
    entries[part.number - 1] = longer(entries[part.number - 1], end // table.volume.sector_size)
    return put(table, 0, entries, f"let p{part.number} end at {end}")


def grow_logical(table: MbrTable, part: Partition, end: int) -> list[Step]:
    """Grow from the outside in, so that the logical partition is inside the extended one all the time."""
    extended = table.extended
    assert extended is not None
    steps: list[Step] = []
    if extended.end < end:
        steps += grow_primary(table, extended, end)
    return steps + end_logical(table, part, extended, end)


def end_logical(table: MbrTable, part: Partition, extended: Partition, end: int) -> list[Step]:
    """Let a logical partition, and the link that leads to it, end at byte `end`."""
    sector = table.volume.sector_size
    steps: list[Step] = []
    holders = [ebr for ebr in table.ebrs if ebr.data is not None]
    ebr = holders[part.number - FIRST_LOGICAL]
    before = table.ebrs[table.ebrs.index(ebr) - 1] if ebr is not table.ebrs[0] else None
    if before is not None and before.link is not None:
        first = extended.start // sector
        steps += put_one(
            table, before, before.link, first, end, why=f"let the link to p{part.number} reach {end}"
        )
    assert ebr.data is not None
    return steps + put_one(table, ebr, ebr.data, ebr.lba, end, why=f"let p{part.number} end at {end}")


def plan_end(table: MbrTable, part: Partition | None, end: int) -> list[Step]:
    """Let `part` end at byte `end`, and the extended partition around it with it, from the inside out.

    Raises Refused where the table is too damaged to be written.
    """
    table.refuse_writing()
    if part is None:
        return []
    outer = part if part.inside is None else table.extended
    assert outer is not None
    steps: list[Step] = []
    if part.inside is not None and end < part.end:
        steps += end_logical(table, part, outer, end)
    if end < outer.end:
        steps += grow_primary(table, outer, end)
    return steps


def put_one(table: MbrTable, ebr: Ebr, index: int, base: int, end: int, *, why: str) -> list[Step]:
    """Let entry `index` of an EBR, which counts from sector `base`, end at byte `end`."""
    entries = list(ebr.entries)
    entries[index] = longer(entries[index], end // table.volume.sector_size - base, base=base)
    return put(table, ebr.lba, entries, why)


def longer(entry: Entry, end_sect: int, *, base: int = 0) -> Entry:
    """Return the entry with another end; its first sector and its flags stay as they are."""
    fresh = make_entry(entry.sys_ind, entry.start_sect, end_sect - entry.start_sect, base=base)
    return replace(
        entry,
        end_head=fresh.end_head,
        end_sector=fresh.end_sector,
        end_cyl=fresh.end_cyl,
        nr_sects=fresh.nr_sects,
    )


def put(table: MbrTable, lba: int, entries: list[Entry], why: str) -> list[Step]:
    """Write the four entries of the sector at `lba`, and wait."""
    at = lba * table.volume.sector_size + TABLE_AT
    return [Write(table.volume, at, pack_entries(entries), why), Flush(table.volume)]


def plan_add(table: MbrTable, additions: Sequence[NewPartition]) -> list[Step]:
    """Return the steps that add primary partitions; what is to be in them must be in the plan before.

    An active one takes the flag from the one that has it. Raises Refused where there is no room or no slot.
    """
    table.refuse_writing()
    primary = [part for part in table.partitions if part.inside is None]
    check_additions(table.volume, primary, table.usable, additions)
    sector = table.volume.sector_size
    entries = table.mbr.entries
    taken = {n for n, entry in enumerate(entries, 1) if entry.nr_sects}
    for new in additions:
        number = free_slot(table, taken, new.number)
        taken.add(number)
        kind = parse_type(new.type)
        if new.active:
            entries = [replace(entry, boot_ind=0) for entry in entries]
        if new.start // sector > SECTORS_MAX or new.end // sector > SECTORS_MAX:
            raise Refused("beyond what an MBR can address", volume=table.volume.name, at=new.start)
        entries[number - 1] = make_entry(kind, new.start // sector, new.size // sector, active=new.active)
    if not additions:
        return []
    return [Flush(table.volume), *put(table, 0, entries, f"add {len(additions)} to the partition table")]


def parse_type(text: str) -> int:
    """Return the type byte of "0xfd"; raises ValueError where it cannot be that of a primary partition."""
    kind = int(text, 16)
    if not 0 < kind < 256 or kind in EXTENDED or kind == PROTECTIVE:
        raise ValueError(f"not the type of a primary partition: {text}")
    return kind


def free_slot(table: MbrTable, taken: Collection[int], wanted: int | None) -> int:
    """Return the wanted or the lowest free primary number; raises Refused and says which are taken."""
    name = table.volume.name
    slots = range(1, ENTRIES + 1)
    if wanted is not None:
        if wanted not in slots:
            raise Refused(f"an MBR has primary slots 1 to 4, not {wanted}", volume=name)
        if wanted in taken:
            raise Refused(f"slot {wanted} is taken", volume=name)
        return wanted
    for number in slots:
        if number not in taken:
            return number
    used = ", ".join(f"p{n} {table_type(table, n)}" for n in sorted(taken))
    raise Refused(f"all four primary slots are taken: {used}", volume=name)


def table_type(table: MbrTable, number: int) -> str:
    """Return the type name of a partition, or "new" for one that is only planned."""
    part = table.partition(number)
    return part.type_name if part else "new"


def plan_remove(table: MbrTable, numbers: Collection[int]) -> list[Step]:
    """Return the steps that remove partitions; their bytes stay.

    An extended partition goes only with all its logical ones. Of those, only the last of the chain can go,
    since others would change the numbers of those behind. Raises Refused or Unsupported.
    """
    table.refuse_writing()
    for number in numbers:
        if table.partition(number) is None:
            raise Refused(f"there is no partition {number}", volume=table.volume.name)
    if not numbers:
        return []
    extended = table.extended
    logical = [part.number for part in table.partitions if part.inside is not None]
    steps: list[Step] = []
    if extended is not None and extended.number in numbers:
        if left := set(logical) - set(numbers):
            text = f"p{extended.number} still holds {', '.join(f'p{n}' for n in sorted(left))}"
            raise Refused(text, volume=table.volume.name)
    else:
        steps += remove_logical(table, [n for n in numbers if n in logical], len(logical))
    entries = table.mbr.entries
    primary = [n for n in numbers if n <= ENTRIES]
    for number in primary:
        entries[number - 1] = EMPTY
    if primary:
        names = ", ".join(f"p{n}" for n in sorted(primary))
        steps += put(table, 0, entries, f"remove {names}")
    return steps


def remove_logical(table: MbrTable, numbers: Sequence[int], count: int) -> list[Step]:
    """Cut the chain of extended boot records before the first of `numbers`, its last ones."""
    if not numbers:
        return []
    first = min(numbers)
    if sorted(numbers) != list(range(first, FIRST_LOGICAL + count)):
        raise Unsupported(
            f"removing p{first} would renumber the logical partitions behind it", volume=table.volume.name
        )
    holders = [ebr for ebr in table.ebrs if ebr.data is not None]
    ebr = holders[first - FIRST_LOGICAL]
    index = table.ebrs.index(ebr)
    why = f"end the logical partitions before p{first}"
    if index == 0:  # the first boot record stays, without entries
        return put(table, ebr.lba, [EMPTY] * ENTRIES, why)
    before = table.ebrs[index - 1]
    assert before.link is not None
    entries = list(before.entries)
    entries[before.link] = EMPTY
    return put(table, before.lba, entries, why)


def protective_entries(sectors: int) -> list[Entry]:
    """Return the entries of a protective MBR for a disk of `sectors` sectors (UEFI 2.10, table 5.4)."""
    return [
        replace(make_entry(PROTECTIVE, 1, min(sectors - 1, SECTORS_MAX)), boot_ind=0),
        EMPTY,
        EMPTY,
        EMPTY,
    ]
