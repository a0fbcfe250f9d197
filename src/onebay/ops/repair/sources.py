"""What a boot path should be: by kits, and by the record of the fold where it survived on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.block import Span
from onebay.fs.fat import Fat
from onebay.fs.fat import probe as probe_fat
from onebay.ops.fold import MBR_ESP, MBR_FAT
from onebay.ops.foldimage import Identities
from onebay.ops.foldlayout import NEXT_NUMBER, next_number
from onebay.ops.foldrecord import Record, read_record
from onebay.ops.kit import MIB, SCAN, find_copies, layer_uuids, refuse_other, same_disk
from onebay.ops.kitformat import KitPart
from onebay.table import GptTable, kinds

if TYPE_CHECKING:
    from onebay.ops.kitformat import Kit
    from onebay.ops.repair.job import Job
    from onebay.table import Table
    from onebay.tree import Tree

CORE_ROOM = MIB


def gather(job: Job, tree: Tree, table: Table, given: Kit | None) -> None:
    """Fill in the job's record and kits, its own first; raises Refused for a kit of another disk."""
    own = own_record(job, tree, table)
    for copy in find_copies(job.view, table):
        if copy.kit is None:
            job.note(f"the copy of the boot kit in the tail is ignored: {copy.why}")
        elif why := foreign(copy.kit, tree, table, own):
            job.note(f"{copy.kit.name} is ignored: {why}")
        else:
            job.kits.append(copy.kit)
    if given is not None:
        if not (by := same_disk(given, tree, table)):
            raise refuse_other(given, tree, table)
        if why := foreign(given, tree, table, own):
            raise Refused(f"{given.name}: {why}", volume=table.volume.name)
        job.note(f"the kit is of this disk: they share {by}")
        job.kits.append(given)
    if job.kit is not None and layer_uuids(tree, table, set()) and job.kit.facts.layers:
        here = set(layer_uuids(tree, table, set()).values())
        if not here & set(job.kit.facts.layers.values()):
            job.note("nothing on the disk's other partitions is what the kit knows of them")
    job.record = own


def foreign(kit: Kit, tree: Tree, table: Table, own: Record | None) -> str:
    """Say why a kit must not be used on this disk, "" where it may."""
    if not same_disk(kit, tree, table):
        return "it is the kit of another disk"
    if kit.facts.sector_size != table.volume.sector_size:
        return f"it is for sectors of {kit.facts.sector_size} bytes"
    if kit.facts.table != table.kind:
        return f"it is for a disk with {kit.facts.table}, and this one has {table.kind} now"
    if own is not None and kit.facts.boot_disk and own.boot_disk != kit.facts.boot_disk:
        return "it is of another fold of this disk"
    return ""


def own_record(job: Job, tree: Tree, table: Table) -> Record | None:
    """Return the record of the fold from a partition, else from a FAT that still stands in a gap."""
    for part in table.partitions:
        record = None if part.is_extended else read_record(tree.on(part.volume))
        if record is not None and record.home is not None and record.home.start == part.start:
            return record
    disk = job.view
    for gap in table.gaps():
        start = gap.aligned().start
        for at in range(start, min(gap.end, start + SCAN * MIB), MIB):
            if disk.read(at + 510, 2) != b"\x55\xaa":
                continue
            fat = probe_fat(Span(f"{disk.name} at {at:#x}", disk, at, disk.size - at))
            record = read_record(fat)
            if isinstance(fat, Fat) and record and record.home and record.home.start == at:
                return record
    return None


def wanted(job: Job, table: Table) -> tuple[list[KitPart], str]:
    """Return the boot partitions that should be there, and what tells so."""
    if job.kit is not None:
        return list(job.kit.facts.partitions), job.kit.name
    if job.record is not None:
        return from_record(job.record, table), "the record of the fold on the disk itself"
    return [], ""


def from_record(record: Record, table: Table) -> list[KitPart]:
    """Return the entries as the fold made them; what the record does not say follows from identities."""
    gpt = isinstance(table, GptTable)
    identities = Identities(table.identity, record.boot_disk, "partition")
    found: list[KitPart] = []
    for index, part in enumerate(record.parts, 1):
        fat = len(part.uuid) == len("0000-0000")
        if gpt:
            other = kinds.BASIC_DATA if fat else kinds.LINUX_FILE_SYSTEM
            kind, unique = (kinds.ESP if part.home else other), identities.guid(f"onebay_{index}").upper()
        else:
            kind, unique = (MBR_ESP if part.home else MBR_FAT), ""
        name = "onebay boot" if part.home else f"boot disk {index}"
        fs = "fat" if fat else "ext" if part.uuid else "raw"
        entry = (part.number, part.start, part.size, kind, unique, name)
        found.append(KitPart(*entry, active=False, fs=fs, fs_uuid=part.uuid, home=part.home))
    if gpt and record.core is not None:
        found += core_part(record, table, found, identities)
    return found


def core_part(record: Record, table: Table, parts: list[KitPart], names: Identities) -> list[KitPart]:
    """Return the BIOS boot partition of a fold."""
    assert record.core is not None
    at = record.core.at
    holder = next((part for part in table.partitions if part.start == at), None)
    starts = [part.start for part in table.partitions] + [part.start for part in parts]
    end = min([at + CORE_ROOM, *(start for start in starts if start > at)])
    size = holder.size if holder else (end - at) // table.volume.sector_size * table.volume.sector_size
    if size < record.core.size:
        return []
    taken = {part.number for part in table.partitions} | {part.number for part in parts}
    number = holder.number if holder else next_number(taken, first=NEXT_NUMBER)
    unique = names.guid("BIOS boot").upper()
    place = (number, at, size, kinds.BIOS_BOOT, unique, "onebay BIOS boot")
    return [KitPart(*place, active=False, fs="core", fs_uuid="", home=False)]


def kit_record(job: Job) -> Record | None:
    """Return the record of the fold as a kit's own FAT has it."""
    for kit in job.kits:
        for part in kit.facts.partitions:
            region = kit.region(f"p{part.number}")
            if part.home and region is not None and region.size == part.size:
                record = read_record(probe_fat(job.unpacked(kit, region)))
                if record is not None:
                    return record
    return None
