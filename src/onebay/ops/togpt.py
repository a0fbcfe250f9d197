"""grow --table gpt: turn an MBR disk into a GPT disk in place, boot paths included.

The disk stays the MBR disk that it is until one sector, LBA 0, makes it the other. GRUB's core moves first,
out of the sectors that the GPT needs into those that become a BIOS boot partition, and the boot code follows
it: our core finds its file system by UUID under either table, so the disk boots after every write. What has
to change together with LBA 0, the record of the fold and the old copy of the boot kit, goes through the
journal with it.

A GPT has no place for the MBR's signature, by which Linux named the partitions (ops/partuuid.py): a disk that
refers to it is refused.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.base.step import Flush, Write
from onebay.boot import loader
from onebay.boot.core import BLOCK_LIST, KERNEL_SECTOR, bios_core
from onebay.boot.paths import STARTERS
from onebay.fs.fat import Fat
from onebay.ops.bootpaths import boot_paths
from onebay.ops.foldimage import RECORD, RECORD_SIZE
from onebay.ops.foldlayout import CORE_ROOM, NEXT_NUMBER, PAGE, next_number, usable_gaps
from onebay.ops.foldrecord import Record, read_record
from onebay.ops.grow import refuse_damage
from onebay.ops.grubmbr import rebuilt
from onebay.ops.journalmark import PLACES
from onebay.ops.kit import find_copies, make_kit, tail_room
from onebay.ops.kitformat import MAGIC
from onebay.ops.partuuid import References
from onebay.ops.run import CRITICAL, Plan, Planner
from onebay.ops.togptroom import free_piece, refuse_foreign, refuse_occupied
from onebay.table import MbrTable, NewPartition, Table, plan_convert
from onebay.table.kinds import BIOS_BOOT
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.ops.kit import Copy
    from onebay.tree import Tree

__all__ = ["TWO_TIB", "plan_to_gpt"]

WHAT = "convert to gpt"
TWO_TIB = 1 << 41  # what 32 bits of 512-byte sectors reach
GPT_START = 40 * 512  # behind header and entries, on a page
MIB = 1 << 20
NUMBER_AT = 439  # syslinux altmbr.bin starts the partition with this number instead
MARKS = PLACES * 512  # bytes before the first partition, in which a journal's mark may be under both tables


@dataclass(frozen=True, slots=True)
class Move:
    """GRUB's core and boot code at their new place; the BIOS boot partition is `start` .. `start + size`."""

    core: bytes
    code: bytes
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Home:
    """The FAT of a fold with its record."""

    fat: Fat
    record: Record


def plan_to_gpt(disk: Volume, *, unchecked: bool = False) -> Plan:
    """Return the steps that convert `disk`; an empty plan with a note where it has a GPT already.

    Raises Refused where there is no room, where the boot code works with an MBR only, or, unless `unchecked`,
    where something on the disk refers to partitions by the MBR's signature, or may do so where nobody looked;
    Unsupported for a type without counterpart.
    """
    planner = Planner("grow", disk)
    view = planner.view
    tree = discover([view])
    refuse_damage(tree)
    table = tree.on(view)
    if not isinstance(table, MbrTable):
        planner.plan.notes.append("the disk has a GPT already")
        return planner.plan
    home = next((Home(fat, record) for fat in fats(tree) if (record := read_record(fat))), None)
    move = plan_move(tree, table, home)
    refuse_occupied(view, table)
    planner.plan.notes += References(tree, table).notes(unchecked=unchecked)
    additions = []
    if move is not None:
        number = next_number({part.number for part in table.partitions}, first=NEXT_NUMBER)
        additions = [NewPartition(move.start, move.size, BIOS_BOOT, "onebay BIOS boot", number=number)]
        planner.add(move_steps(view, move))
    convert = plan_convert(table, additions=additions)
    old = find_copies(view, table)
    together = [replace(step, why=f"{WHAT}: {step.why}") for step in convert if isinstance(step, Write)]
    told = rewrite_record(home, move) if home is not None else []
    erase = [Write(view, copy.at, bytes(len(MAGIC)), "forget the old copy of the boot kit") for copy in old]
    planner.add(in_order(view, together, [*told, *erase]))
    if home is not None:
        add_kit(planner, old)
    planner.plan.after = view
    return planner.plan


def fats(tree: Tree) -> Iterator[Fat]:
    """Yield the FAT file systems."""
    for layer in tree.of_kind("fat"):
        if isinstance(layer, Fat):
            yield layer


def in_order(view: Volume, convert: list[Write], more: list[Write]) -> Iterator[Step]:
    """Yield the table's writes with barriers; its last, LBA 0, is one change with `more`."""
    *copies, last = convert
    for step in copies:
        yield from (step, Flush(view))
    if not more:
        yield from (last, Flush(view))
        return
    for step in [last, *more]:
        yield replace(step, why=f"{CRITICAL} {WHAT}: {step.why.removeprefix(f'{WHAT}: ')}")
    yield Flush(view)


def plan_move(tree: Tree, table: MbrTable, home: Home | None) -> Move | None:
    """Return where GRUB's core goes; None where no BIOS boots the disk now either.

    Raises Refused for boot code that would find nothing under a GPT, or that nobody here knows.
    """
    disk = tree.disks[0]
    folded = home is not None and home.record.core is not None
    code = disk.read(0, loader.SECTOR)
    if not folded and not boots_by_grub(tree, table, code):
        return None
    core, wrong = bios_core(disk, code)
    at = struct.unpack_from("<Q", code, KERNEL_SECTOR)[0] * loader.SECTOR
    if home is None or home.record.core is None:
        made, image = rebuilt(tree, table.partitions, core)
        return place(disk, table, made, code=image, at=at, taken=len(core))
    if wrong or not ours(core, code, home.record):
        raise Refused(
            "GRUB's core for BIOS is not the one of the fold",
            volume=disk.name,
            at=at,
            hint="onebay repair",
        )
    return place(disk, table, core, code=code, at=at, taken=len(core))


def boots_by_grub(tree: Tree, table: MbrTable, code: bytes) -> bool:
    """Whether BIOS boots the disk by a GRUB that works; False where it cannot boot it at all.

    Raises Refused for all other boot code: what it loads would be gone, or not found any more.
    """
    path = next(path for path in boot_paths(tree) if path.firmware == "bios")
    if path.works and path.what == "GRUB":
        return True
    starter = any(path.what.startswith(name) for name in STARTERS) and not code[NUMBER_AT]
    if path.what == "nothing" or (starter and not any(part.active for part in table.partitions)):
        return False
    name = tree.disks[0].name
    if path.works:
        raise Refused(f"BIOS boots the disk by {path.what}, which looks for an MBR", volume=name)
    raise Refused(
        f"BIOS runs {path.what} from the disk: {path.why}; a GPT may overwrite what it needs",
        volume=name,
        hint="where BIOS need not boot the disk, overwrite its first 440 bytes with zeros (dd)",
    )


def ours(core: bytes, code: bytes, record: Record) -> bool:
    """Whether core and boot code are those that a fold recorded, wherever they point to."""
    assert record.core is not None
    if len(core) != record.core.size:
        return False
    lba = record.core.at // loader.SECTOR
    was = loader.embedded_core(core, lba, len(core))
    return (
        struct.unpack_from("<Q", core, BLOCK_LIST - 12)[0] == 0
        and loader.digest(was) == record.core.sha256
        and loader.digest(loader.boot_code(code, lba)) == record.code_sha256
    )


def place(disk: Volume, table: MbrTable, core: bytes, *, code: bytes, at: int, taken: int) -> Move:
    """Choose the place of the core: where it is, behind the `taken` bytes there, or a gap.

    Raises Refused without room, or where somebody else's bytes stand there.
    """
    first = min(part.start for part in table.partitions)
    start = at if at >= GPT_START else -(-max(GPT_START, at + taken) // PAGE) * PAGE
    size = first - MARKS - start
    if size < len(core) or at > first:
        start, size = gap_for(disk, table, at), CORE_ROOM
    lba = start // loader.SECTOR
    core = loader.embedded_core(core, lba, size)
    refuse_foreign(disk, start, core)
    return Move(core, loader.boot_code(code, lba), start, size)


def gap_for(disk: Volume, table: MbrTable, at: int) -> int:
    """Return a free MiB of zeros between partitions or behind the last, or `at` where the core is in one.

    Raises Refused where there is none, or only behind a partition that could never grow then.
    """
    data = table.data_partition
    for gap in usable_gaps(table):
        start = free_piece(disk, gap, CORE_ROOM, keep=at)
        if start is None:
            continue
        if gap.kind == "tail" and data is not None:
            raise Refused(
                "the only room for a BIOS boot partition is behind the last partition, which could not grow "
                "any more",
                volume=disk.name,
                at=data.end,
                hint="make a gap of a MiB between two partitions; or, where UEFI boots the disk, overwrite "
                "its first 440 bytes with zeros (dd)",
            )
        return start
    raise Refused("no room for a BIOS boot partition", volume=disk.name, expected=CORE_ROOM)


def move_steps(view: Volume, move: Move) -> list[Step]:
    """Return the writes of core and boot code that are not there yet, the core first."""
    steps: list[Step] = []
    if view.read(move.start, len(move.core)) != move.core:
        steps += [Write(view, move.start, move.core, f"{WHAT}: move GRUB's core for BIOS"), Flush(view)]
    if view.read(0, len(move.code)) != move.code:
        steps += [Write(view, 0, move.code, "let the boot code find GRUB's core there"), Flush(view)]
    return steps


def rewrite_record(home: Home, move: Move | None) -> list[Write]:
    """Return the writes that tell the record of the fold where the core is; the file keeps its length."""
    if move is None:
        return []
    fat = home.fat
    entry = fat.find(RECORD)
    raw = fat.read_file(RECORD, limit=RECORD_SIZE)
    assert entry is not None
    assert raw is not None
    document = json.loads(raw)
    document["core"] |= {"at": move.start, "sha256": loader.digest(move.core)}
    document["code_sha256"] = loader.digest(move.code)
    text = json.dumps(document, separators=(",", ":")).encode()  # shorter than what a fold writes
    if len(text) > len(raw):
        raise Refused("the record of the fold has no room for the change", volume=fat.volume.name)
    text = text.ljust(len(raw) - 1) + b"\n"
    steps, done = [], 0
    for start, end in fat.file_extents(entry):
        steps.append(Write(fat.volume, start, text[done : done + end - start], "tell the fold's record"))
        done += end - start
    return steps


def add_kit(planner: Planner, old: list[Copy]) -> None:
    """Put a new copy of the boot kit into the tail, before everything else; a note where it has no room.

    It does not overwrite an old copy, which counts until the table changes.
    """
    tree = discover([planner.view])
    table = tree.on(planner.view)
    assert isinstance(table, Table)
    out = io.BytesIO()
    size = make_kit(tree, out)
    room = tail_room(planner.plan.disk, table)
    taken = [(copy.at, copy.at + (len(copy.kit.raw) if copy.kit else size)) for copy in old]
    ends = [-(-end // MIB) * MIB for _, end in taken]
    free = [
        at
        for at in sorted([room.start, *ends])
        if room.start <= at <= room.end - size and not any(at < end and low < at + size for low, end in taken)
    ]
    if not free:
        planner.plan.notes.append(
            "no room in the tail for a new copy of the boot kit; keep one in a file (onebay kit)"
        )
        return
    disk = planner.plan.disk
    copy = Write(disk, free[0], out.getvalue(), "copy of the boot kit in the tail")
    planner.plan.steps = [copy, Flush(disk), *planner.plan.steps]
