"""Changes of a GPT as steps that leave one valid copy at every moment.

The backup is written while the primary counts, then, behind a barrier, the primary; until that one is
complete its checksums do not match and the new backup counts. A bad primary is mended from the backup first.
Readers then see either the old table or the new one, whatever part of the writes between two barriers reached
the disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4
from zlib import crc32

from onebay.base.error import Refused, Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, Step, Write, Zero
from onebay.table.gpt.read import Gpt, differences
from onebay.table.gpt.record import ENTRY, PRIMARY_LBA, Entry, Header, make_entry, pack_header
from onebay.table.kinds import PROTECTIVE
from onebay.table.mbr.record import SECTORS_MAX, TABLE_AT, pack_entries
from onebay.table.mbr.record import make_entry as make_mbr_entry
from onebay.table.room import check_additions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onebay.block import Volume
    from onebay.table.gpt.layer import GptTable
    from onebay.table.partition import NewPartition


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts of a GPT stand, in sectors."""

    primary_array: int
    backup: int
    backup_array: int
    end_usable: int


def plan_grow(table: GptTable) -> list[Step]:
    """Return the steps that move the backup to the disk's end, mend what is bad, and grow the last partition.

    Raises Refused where the table is too damaged to be written or the disk too short for the backup,
    Unsupported where a hybrid MBR would have to follow.
    """
    gpt, part = table.gpt, table.data_partition
    end = table.grown_end(part) if part else 0
    grows = part is not None and end > part.end
    if not grows and is_settled(gpt):
        return plan_protective(gpt)
    table.refuse_writing()
    array = bytearray(gpt.chosen.array)
    steps: list[Step] = []
    what = "move the backup table to the end of the disk"
    if part is not None and grows:
        refuse_hybrid(gpt, f"grow p{part.number}")
        entry = entry_at(gpt, part.number)
        last = end // gpt.volume.sector_size - 1
        put_entry(gpt, array, part.number, replace(entry, ending_lba=last))
        what = f"let p{part.number} end at {end}"
        steps = table.plan_clear_end(part, end, keep=gpt.metadata())
    return steps + plan_table(gpt, bytes(array), places_at_end(gpt, table), what) + plan_protective(gpt)


def plan_fill(table: GptTable) -> list[Step]:
    """Return the steps that move the backup to the disk's end and change no partition.

    Raises Refused where the table is too damaged to be written or a partition stands in the way.
    """
    gpt = table.gpt
    if is_settled(gpt):
        return plan_protective(gpt)
    table.refuse_writing()
    what = "move the backup table to the end of the disk"
    return plan_table(gpt, bytes(gpt.chosen.array), places_at_end(gpt, table), what) + plan_protective(gpt)


def plan_add(table: GptTable, additions: Sequence[NewPartition]) -> list[Step]:
    """Return the steps that add partitions; what is to be in them must be in the plan before.

    Raises Refused where there is no room or no slot, or where a GUID is in use.
    """
    if not additions:
        return []
    table.refuse_writing()
    gpt = table.gpt
    check_additions(gpt.volume, table.partitions, table.usable, additions)
    array = bytearray(gpt.chosen.array)
    header = gpt.chosen.header
    put_new(array, gpt, {p.number: p.uuid for p in table.partitions}, additions, header)
    return plan_table(
        gpt, bytes(array), places_now(gpt, table), f"add {len(additions)} to the partition table"
    )


def plan_mend(table: GptTable) -> list[Step]:
    """Return the steps that make both copies say what the one that counts says; none where they do.

    The copies stay where they are. Raises Refused where the table is too damaged to be written.
    """
    gpt = table.gpt
    if gpt.primary and gpt.backup and not differences(gpt.primary.header, gpt.backup.header):
        return []
    table.refuse_writing()
    return plan_table(gpt, bytes(gpt.chosen.array), places_now(gpt, table), "mend the partition table")


def plan_remove(table: GptTable, numbers: Collection[int]) -> list[Step]:
    """Return the steps that remove partitions; their bytes stay. Raises Refused or Unsupported."""
    if not numbers:
        return []
    table.refuse_writing()
    gpt = table.gpt
    names = ", ".join(f"p{number}" for number in sorted(numbers))
    refuse_hybrid(gpt, f"remove {names}")
    array = bytearray(gpt.chosen.array)
    step = gpt.chosen.header.sizeof_partition_entry
    for number in numbers:
        if table.partition(number) is None:
            raise Refused(f"there is no partition {number}", volume=gpt.volume.name)
        array[(number - 1) * step : number * step] = bytes(step)
    return plan_table(gpt, bytes(array), places_now(gpt, table), f"remove {names}")


def put_new(
    array: bytearray, gpt: Gpt, taken: dict[int, str], additions: Sequence[NewPartition], header: Header
) -> None:
    """Put new entries into `array`; `taken` maps numbers to GUIDs. Raises Refused on a conflict."""
    name, sector = gpt.volume.name, gpt.volume.sector_size
    for new in additions:
        count = header.num_partition_entries
        number = new.number or next((n for n in range(1, count + 1) if n not in taken), 0)
        if not 0 < number <= count:
            raise Refused(
                f"the table has {count} entries; number {new.number or 'any'} is not free", volume=name
            )
        if number in taken:
            raise Refused(f"slot {number} is taken", volume=name)
        unique = (new.uuid or str(uuid4())).upper()
        if unique in taken.values():
            raise Refused(f"GUID {unique} is in use", volume=name)
        taken[number] = unique
        entry = make_entry(
            new.type, unique, new.start // sector, new.end // sector, new.name, active=new.active
        )
        put_entry(gpt, array, number, entry)


def put_entry(gpt: Gpt, array: bytearray, number: int, entry: Entry) -> None:
    """Replace entry `number` of `array`, the first 128 bytes of it."""
    at = (number - 1) * gpt.chosen.header.sizeof_partition_entry
    array[at : at + ENTRY.size] = ENTRY.pack(entry)


def entry_at(gpt: Gpt, number: int) -> Entry:
    """Return entry `number` of the copy that counts."""
    copy = gpt.chosen
    return ENTRY.unpack(copy.array, (number - 1) * copy.header.sizeof_partition_entry, volume=gpt.volume.name)


def refuse_hybrid(gpt: Gpt, what: str) -> None:
    """Raise Unsupported where an MBR shows the partitions too and would say something else afterwards."""
    if gpt.is_hybrid:
        raise Unsupported(f"cannot {what}: the disk has a hybrid MBR", volume=gpt.volume.name)


def is_settled(gpt: Gpt) -> bool:
    """Whether both copies are valid, agree, and stand where they should."""
    if gpt.primary is None or gpt.backup is None:
        return False
    backup = gpt.backup.header
    return backup.my_lba == gpt.last_lba and not differences(gpt.primary.header, backup)


def places_at_end(gpt: Gpt, table: GptTable) -> Places:
    """Return the places of a table whose backup is at the disk's end; raises Refused without room for it."""
    header = gpt.chosen.header
    lbas = header.array_lbas(gpt.volume.sector_size)
    array = gpt.last_lba - lbas
    return checked(Places(primary_array(gpt), gpt.last_lba, array, array), gpt, table)


def places_now(gpt: Gpt, table: GptTable) -> Places:
    """Return the places as they are; a bad backup is made anew at the disk's end."""
    end_usable = gpt.chosen.header.end_usable_lba
    if gpt.backup is None:
        places = places_at_end(gpt, table)
        return replace(places, end_usable=min(end_usable, places.end_usable))
    backup = gpt.backup.header
    places = Places(primary_array(gpt), backup.my_lba, backup.partition_entry_lba, end_usable)
    return checked(places, gpt, table)


def primary_array(gpt: Gpt) -> int:
    """Return the first sector of the primary's entries; that of a primary to be made is 2."""
    return gpt.primary.header.partition_entry_lba if gpt.primary else PRIMARY_LBA + 1


def checked(places: Places, gpt: Gpt, table: GptTable) -> Places:
    """Return `places`; raises Refused where a partition stands in the way."""
    sector = gpt.volume.sector_size
    lbas = gpt.chosen.header.array_lbas(sector)
    own = ExtentSet.of(
        (lba * sector, (lba + count) * sector)
        for lba, count in (
            (PRIMARY_LBA, 1),
            (places.primary_array, lbas),
            (places.backup_array, lbas),
            (places.backup, 1),
        )
        if lba > 0
    )
    for part in table.partitions:
        if own.overlaps(part.start, part.end):
            raise Refused(
                f"p{part.number} leaves no room for the partition table",
                volume=gpt.volume.name,
                at=part.start,
            )
    if places.end_usable < gpt.chosen.header.first_usable_lba:
        raise Refused("the disk is too small for the backup table", volume=gpt.volume.name)
    return places


def plan_table(gpt: Gpt, array: bytes, places: Places, why: str) -> list[Step]:
    """Return the steps that make `array` the table, with its copies at `places`."""
    volume = gpt.volume
    steps: list[Step] = [Flush(volume)]
    chosen, rest = gpt.chosen, gpt.chosen.rest
    if gpt.primary is None:
        old = replace(
            chosen.header,
            my_lba=PRIMARY_LBA,
            alternate_lba=chosen.header.my_lba,
            partition_entry_lba=places.primary_array,
        )
        steps += put_copy(volume, old, rest, chosen.array, "mend the primary table from the backup")
    primary = replace(
        chosen.header,
        my_lba=PRIMARY_LBA,
        alternate_lba=places.backup,
        last_usable_lba=places.end_usable - 1,
        partition_entry_lba=places.primary_array,
        partition_entry_array_crc32=crc32(array),
    )
    backup = replace(
        primary,
        my_lba=places.backup,
        alternate_lba=PRIMARY_LBA,
        partition_entry_lba=places.backup_array,
    )
    steps += put_copy(volume, backup, rest, array, f"{why} (backup table)")
    steps += put_copy(volume, primary, rest, array, f"{why} (primary table)")
    return steps + plan_erase(gpt, primary, backup)


def put_copy(volume: Volume, header: Header, rest: bytes, array: bytes, why: str) -> list[Step]:
    """Write one copy, its entries first, and wait."""
    sector = volume.sector_size
    return [
        Write(volume, header.partition_entry_lba * sector, array, why),
        Write(volume, header.my_lba * sector, pack_header(header, rest), why),
        Flush(volume),
    ]


def plan_erase(gpt: Gpt, primary: Header, backup: Header) -> list[Step]:
    """Erase the backup that was left behind, so that nobody takes it for a table again."""
    if gpt.backup is None or gpt.backup.header.my_lba == backup.my_lba:
        return []
    sector = gpt.volume.sector_size
    fresh = ExtentSet.of(
        (lba * sector, (lba + count) * sector)
        for header in (primary, backup)
        for lba, count in ((header.my_lba, 1), (header.partition_entry_lba, header.array_lbas(sector)))
    )
    old = ExtentSet.of(gpt.backup.extents(sector)) - fresh
    why = "erase the backup table at its old place"
    return [*(Zero(gpt.volume, low, high - low, why) for low, high in old), Flush(gpt.volume)]


def plan_protective(gpt: Gpt) -> list[Step]:
    """Let the protective MBR cover the whole disk; boot code and a hybrid MBR stay as they are."""
    total = gpt.last_lba + 1
    want = min(total - 1, SECTORS_MAX)
    if gpt.mbr is None or gpt.is_hybrid:
        return []
    entries = gpt.mbr.entries
    for index, entry in enumerate(entries):
        if entry.sys_ind == PROTECTIVE and entry.start_sect == PRIMARY_LBA:
            if entry.nr_sects in (want, SECTORS_MAX):
                return []
            entries[index] = replace(make_mbr_entry(PROTECTIVE, PRIMARY_LBA, want), boot_ind=entry.boot_ind)
            data = pack_entries(entries)
            return [
                Write(gpt.volume, TABLE_AT, data, "let the protective mbr cover the disk"),
                Flush(gpt.volume),
            ]
    return []
