"""Heal the partition table itself: copies of a GPT, the protective MBR, dropped entries, types, the flag.

Nothing grows here, and no entry of the appliance is changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Error, Refused, Unsupported
from onebay.base.step import Flush, Write
from onebay.ops.foldlayout import NEXT_NUMBER, free_slot, next_number
from onebay.ops.kit import find_copies
from onebay.table import GptTable, MbrTable, NewPartition, Table, plan_add
from onebay.table.gpt import write as gpt_write
from onebay.table.gpt.layer import read_partitions
from onebay.table.gpt.read import Copy, Gpt, read_copy
from onebay.table.gpt.record import guid_bytes
from onebay.table.mbr import write as mbr_write
from onebay.table.mbr.read import read_mbr
from onebay.table.mbr.record import ACTIVE, TABLE_AT, pack_entries
from onebay.tree import Tree, discover

if TYPE_CHECKING:
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.ops.kitformat import KitPart
    from onebay.ops.repair.job import Job
    from onebay.table import Partition

OWN = "the disk itself"
BACKUP = "the backup gpt"


def mend_table(job: Job) -> tuple[Tree, Table]:
    """Heal the table's own copies and return it as it will be.

    Raises Damaged or Refused where there is none, or where it contradicts itself.
    """
    tree = discover([job.view])
    table = tree.on(job.view)
    if not isinstance(table, Table):
        table = mend_lost(job, tree)
    table.refuse_writing()
    if isinstance(table, GptTable):
        mend_copies(job, table)
        mend_protective(job, table)
    tree = discover([job.view])
    table = tree.on(job.view)
    assert isinstance(table, Table), table
    return tree, table


def mend_lost(job: Job, tree: Tree) -> GptTable:
    """Return the table that a backup alone tells of, where it is this disk's; raises Damaged or Refused.

    A backup alone may be what is left of the disk's last life, so somebody else must name its GUID.
    """
    disk = job.view
    for suspect in tree.suspects:
        if suspect.volume is disk:
            raise Damaged(f"{suspect.kind} is damaged: {suspect.evidence}", volume=disk.name, at=suspect.at)
    table = lone_backup(disk)
    kits = [*job.kits, *(copy.kit for copy in find_copies(disk, table) if copy.kit)] if table else []
    if table is None or not any(kit.facts.identity == table.identity for kit in kits):
        told = f"; the kit knows of {entries_of(job)}" if job.kits else ""
        raise Refused(f"there is no partition table, and repair makes none{told}", volume=disk.name)
    return table


def entries_of(job: Job) -> str:
    """Return the entries that a kit remembers, for people."""
    assert job.kit is not None
    facts = job.kit.facts
    own = [(part.number, part.start, part.size) for part in facts.partitions]
    others = [(other.get("number"), other.get("start"), other.get("size")) for other in facts.others]
    parts = [*own, *others]
    return ", ".join(f"p{number} at {start} with {size} bytes" for number, start, size in parts)


def lone_backup(disk: Volume) -> GptTable | None:
    """Return the table by the copy in the last sector; None where it is bad, or LBA 0 says otherwise."""
    mbr = read_mbr(disk)
    if mbr is not None and any(entry.nr_sects for entry in mbr.entries):
        return None
    try:
        backup = read_copy(disk, disk.size // disk.sector_size - 1)
        gpt = Gpt(disk, mbr, None, backup, ())
        return GptTable(gpt, read_partitions(gpt))
    except Error:
        return None


def mend_copies(job: Job, table: GptTable) -> None:
    """Make both copies of a GPT valid, equal and in their places."""
    gpt = table.gpt
    if gpt_write.is_settled(gpt):
        return
    if gpt.primary is None:
        kind, text, source = "gpt-primary-bad", "the primary gpt is not valid", BACKUP
    elif gpt.backup is None:
        kind, text, source = "gpt-backup-bad", "the backup gpt is not valid", "the primary gpt"
    elif gpt.backup.header.my_lba != gpt.last_lba:
        kind, text = "gpt-backup-misplaced", "the backup gpt is not at the end of the disk"
        source = "the primary gpt"
    else:
        kind, text, source = "gpt-disagree", "the two copies of the gpt differ", "the primary gpt"
    places = gpt_write.places_at_end(gpt, table)
    steps = gpt_write.plan_table(gpt, bytes(gpt.chosen.array), places, "mend the partition table")
    job.heal(kind, text, source, steps)


def mend_protective(job: Job, table: GptTable) -> None:
    """Make LBA 0 claim the whole disk for the GPT; its boot code stays."""
    gpt, disk = table.gpt, job.view
    if any(finding.kind == "pmbr-missing" for finding in table.findings) or gpt.mbr is None:
        data = pack_entries(mbr_write.protective_entries(disk.size // disk.sector_size))
        steps: list[Step] = [Write(disk, TABLE_AT, data, "make the mbr a protective one"), Flush(disk)]
        job.heal("pmbr-missing", "there is no protective mbr", OWN, steps)
    elif steps := gpt_write.plan_protective(gpt):
        job.heal("pmbr-stale", "the protective mbr does not cover the disk", OWN, steps)


def occupied(table: Table, start: int, end: int) -> str:
    """Say who has bytes `start` to `end` of the disk, "" for nobody."""
    for part in table.partitions:
        if part.start < end and start < part.end:
            return f"p{part.number} ({part.type_name}, {part.start}..{part.end})"
    return "the partition table" if table.metadata().overlaps(start, end) else ""


def place_of(table: Table, part: KitPart) -> Partition | None:
    """Return the entry that has exactly the place of a boot partition.

    Raises Refused where somebody else has a part of that place.
    """
    here = next((p for p in table.partitions if (p.start, p.size) == (part.start, part.size)), None)
    if here is not None and not here.is_extended:
        return here
    if who := occupied(table, part.start, part.end):
        raise Refused(
            f"the place of boot partition p{part.number} ({part.start}..{part.end}) is occupied by {who}",
            volume=table.volume.name,
            at=part.start,
            hint="delete what stands there, or fold anew into other free space",
        )
    return None


def add_entries(job: Job, table: Table, missing: list[KitPart], source: str) -> None:
    """Give boot partitions their entries again; raises Refused where there is no slot or no room."""
    if not missing:
        return
    taken = {part.number for part in table.partitions}
    active = isinstance(table, MbrTable) and not any(part.active for part in table.partitions)
    additions: list[NewPartition] = []
    for part in missing:
        number = part.number
        if isinstance(table, GptTable):
            number = next_number(taken, first=part.number if part.number > 0 else NEXT_NUMBER)
        elif number in taken or not 0 < number <= 4:
            number = free_slot(table)
        if number != part.number:
            job.note(f"p{part.number} becomes p{number}: its old number is taken")
        taken.add(number)
        unique = part.uuid if isinstance(table, GptTable) else None
        name = part.name if isinstance(table, GptTable) else ""
        flag = active and part.home
        additions.append(NewPartition(part.start, part.size, part.type, name, unique, flag, number))
    roomy = widened(table, min(part.start for part in missing))
    names = ", ".join(f"p{new.number}" for new in additions)
    try:
        steps = plan_add(roomy, additions)
    except ValueError as error:
        raise Damaged(f"the kit's entry cannot be written: {error}", volume=table.volume.name) from error
    job.heal("entry-missing", f"the table has no entry for {names}", source, steps)


def widened(table: Table, start: int) -> Table:
    """Return the table with byte `start` in its usable space, where nothing but habit keeps it out.

    Some tools let a GPT begin at 1 MiB although its entries end before.
    """
    if not isinstance(table, GptTable) or table.usable.start <= start:
        return table
    gpt, sector = table.gpt, table.volume.sector_size
    header = gpt.chosen.header
    least = gpt_write.primary_array(gpt) + header.array_lbas(sector)
    if start // sector < least:
        return table

    def wide(copy: Copy | None) -> Copy | None:
        return copy and replace(copy, header=replace(copy.header, first_usable_lba=start // sector))

    return GptTable(replace(gpt, primary=wide(gpt.primary), backup=wide(gpt.backup)), table.partitions)


def mend_type(job: Job, table: Table, part: KitPart, here: Partition) -> None:
    """Give the entry of a boot partition its type again."""
    if here.type == part.type:
        return
    why = f"let p{here.number} be of type {part.type}"
    if isinstance(table, MbrTable) and here.inside is None:
        entries = table.mbr.entries
        entries[here.number - 1] = replace(entries[here.number - 1], sys_ind=mbr_write.parse_type(part.type))
        steps = mbr_write.put(table, 0, entries, why)
    elif isinstance(table, GptTable):
        gpt = table.gpt
        array = bytearray(gpt.chosen.array)
        entry = replace(gpt_write.entry_at(gpt, here.number), partition_type_guid=guid_bytes(part.type))
        gpt_write.put_entry(gpt, array, here.number, entry)
        steps = gpt_write.plan_table(gpt, bytes(array), gpt_write.places_now(gpt, table), why)
    else:
        raise Unsupported(f"p{here.number} is a logical partition", volume=table.volume.name)
    job.heal("entry-type", f"p{here.number} is of type {here.type_name}", "what is known of the fold", steps)


def mend_active(job: Job, table: Table, start: int) -> None:
    """Make the boot partition at byte `start` of an MBR active where no partition is."""
    here = next((part for part in table.partitions if part.start == start and not part.is_extended), None)
    if not isinstance(table, MbrTable) or here is None or here.inside is not None:
        return
    others = [part for part in table.partitions if part.active]
    if others:
        if here not in others:
            job.note(f"p{others[0].number} is active and not p{here.number}: left as it is")
        return
    entries = table.mbr.entries
    entries[here.number - 1] = replace(entries[here.number - 1], boot_ind=ACTIVE)
    steps = mbr_write.put(table, 0, entries, f"make p{here.number} active")
    job.heal("active-flag", "no partition is active", OWN, steps)
