"""grow: make the last data partition and everything on it fill the disk, bottom-up.

Each layer is asked in turn and the disk is looked at again after each answer, on an overlay; so a layer only
ever sees what stands below it as it will be. The appliance's system partitions are never asked.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from onebay.base.error import Refused, ToolFailed, ToolMissing, Unsupported
from onebay.base.event import Noted, silent
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, Write, Zero
from onebay.block import Span
from onebay.ops.journal import MAX_BODY, Journal, body_size, no_mark
from onebay.ops.kit import each_copy, plan_carry
from onebay.ops.need import needed
from onebay.ops.run import Plan, Planner, execute, is_critical
from onebay.stack.md import MdArray
from onebay.table import Table
from onebay.tree import discover

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.layer import Layer
    from onebay.table import Partition
    from onebay.tree import Tree

ALONE = "let the appliance run with this disk alone once, so that its array knows, then grow"
ROUNDS = 32  # table, md, pv and lv, file system, and room to spare; a layer that never ends is a bug


def plan_grow(disk: Volume) -> Plan:
    """Return the steps that grow `disk`; an empty plan where it is full already.

    Raises Refused where the disk's table is damaged or missing. A layer that cannot grow ends the walk with a
    note: what stands below it has grown, what stands on it is as it was.
    """
    planner = Planner("grow", disk)
    finished: set[str] = set()
    for _ in range(ROUNDS):
        tree = discover([planner.view])
        refuse_damage(tree)
        for layer in chain(tree):
            name = f"{layer.kind} on {layer.below[0].name}"
            if name in finished:
                continue
            try:
                steps = steps_of(planner, tree, layer)
            except ToolMissing:
                raise
            except (Unsupported, ToolFailed) as error:  # tools work on scratch files: nothing was touched
                hint = f" ({error.hint})" if error.hint else ""
                planner.plan.notes.append(f"{name} stays as it is: {error}{hint}")
                finished.add(name)
                steps = []
            if steps:
                # nobody has to see what a file system's steps do, and they may zero many gigabytes
                planner.add(steps, rehearse=bool(layer.above))
                if not layer.above:
                    finished.add(name)
                break
            finished.add(name)
        else:
            planner.plan.after = planner.view
            return planner.plan
    raise AssertionError(f"{disk.name}: growing does not end")


def steps_of(planner: Planner, tree: Tree, layer: Layer) -> list[Step]:
    """Return the steps of one layer; raises Unsupported where it stays as it is."""
    if isinstance(layer, Table):
        return carry_kit(planner, layer, with_moved_end(tree, layer))
    if isinstance(layer, MdArray) and (reason := layer.divided) and layer.version != "0.90":
        raise Unsupported(reason, volume=layer.below[0].name, hint=ALONE)
    return layer.plan_grow()


def grow(
    disk: Volume, *, plan: Plan | None = None, store: Volume | None = None, report: Report = silent
) -> Plan:
    """Grow `disk`, first completing a run that was interrupted; return the plan that was carried out.

    `plan` is what `plan_grow` said of the same disk just now; `store` takes the journal instead of the end of
    the disk. Raises Refused where the journal has no room.
    """
    journal = Journal(disk, store)
    if complete(journal, report=report) or plan is None:
        plan = plan_grow(disk)
    execute(plan, journal=journal if has_room(plan, journal) else None, report=report)
    return plan


def complete(journal: Journal, *, report: Report = silent) -> bool:
    """Complete an interrupted change, and return whether there was one."""
    redo = journal.pending()
    if redo is None:
        journal.tidy()
        return False
    journal.replay(redo)
    report(Noted("completed a change that was interrupted", journal.disk.name))
    return True


def has_room(plan: Plan, journal: Journal) -> bool:
    """Whether the plan needs a journal; raises Refused where somebody uses the journal's place.

    What counts is the disk at the moment of the commit, when partition, array and group have grown: an
    array that a cut left smaller than its partition keeps what lies behind its data for itself.
    """
    critical = [step for step in plan.steps if isinstance(step, Write) and is_critical(step)]
    if not critical:
        return False
    size = body_size(critical, len(plan.steps))
    if size > MAX_BODY:
        raise Refused(
            "more has to change at once than a journal holds",
            volume=plan.disk.name,
            expected=f"at most {MAX_BODY} bytes",
            found=size,
        )
    written = ExtentSet.of(
        (step.at, step.at + step.size) for step in plan.steps if not isinstance(step, Flush)
    )
    if journal.store is not plan.disk:
        # where the table itself is the change, the mark must be found under the old and the new one
        if Journal(plan.disk).mark_place(written, plan.after) is None:
            raise no_mark(plan.disk)
        journal.refuse_foreign()
        return True
    room = journal.room(size)
    disk = plan.after or plan.disk
    tree = discover([disk])
    taken = needed(tree)
    table = tree.on(disk)
    if isinstance(table, Table):  # what no partition holds is free, save the table itself and our kits
        found = each_copy(disk, table)
        places = ExtentSet.of((copy.at, copy.at + len(copy.kit.raw)) for copy in found if copy.kit)
        taken = (taken - table.outside()) | table.metadata() | places
    if room.start < 0 or (taken | written).overlaps(*room):
        raise Refused(
            "no free space for the journal at the end of the disk",
            volume=plan.disk.name,
            at=max(0, room.start),
            hint="name a file on another disk with --journal",
        )
    return True


def refuse_damage(tree: Tree) -> None:
    """Raise Refused where the partition table is not fit to be written."""
    disk = tree.disks[0]
    for suspect in tree.suspects:
        if suspect.volume is disk:
            raise Refused(
                f"{suspect.kind} is damaged: {suspect.evidence}", volume=disk.name, hint="onebay repair"
            )
    table = tree.on(disk)
    if table is None:
        raise Refused("nothing that could grow was found", volume=disk.name)
    damage = [finding for finding in table.check() if finding.severity == "damage"]
    if damage:
        raise Refused(damage[0].text, volume=disk.name, at=damage[0].at)


def chain(tree: Tree) -> list[Layer]:
    """Return the layers to grow, bottom-up: the table, then what stands on its last data partition.

    What stands on an array with data in several places is not asked: its steps would reach one of them only.
    """
    table = tree.on(tree.disks[0])
    assert table is not None
    found: list[Layer] = []
    standing = {id(tree.disks[0])}
    if isinstance(table, Table):
        found = [table]
        standing = {id(table.data_partition.volume)} if table.data_partition else set()
    for layer in tree.layers:
        if any(id(below) in standing for below in layer.below):
            found.append(layer)
            if not (isinstance(layer, MdArray) and layer.divided):
                standing.update(id(above) for above in layer.above)
    return found


def carry_kit(planner: Planner, table: Table, steps: list[Step]) -> list[Step]:
    """Return the table's steps with those before them that take the tail's copy of the boot kit along."""
    data = table.data_partition
    if not steps or data is None:
        return steps
    carry, note = plan_carry(planner.view, table, table.grown_end(data))
    if note:
        planner.plan.notes.append(note)
    return [*carry, *steps]


def with_moved_end(tree: Tree, table: Table) -> list[Step]:
    """Return the table's steps; an md 1.0 superblock, which stands at the end, moves before they count.

    Raises Unsupported where a superblock that cannot move would not be found any more.
    """
    steps = table.plan_grow()
    data = table.data_partition
    end = table.grown_end(data) if data is not None else 0
    if not steps or data is None or end == data.end:
        return steps
    refuse_lost_end(tree, data)
    array = tree.on(data.volume)
    if not isinstance(array, MdArray) or array.version != "1.0":
        return steps
    grown = Span(data.volume.name, tree.disks[0], data.start, end - data.start)
    # tables clear the end of the new room first, before any of their own writes
    cleared = sum(1 for _ in takewhile(lambda step: isinstance(step, Zero), steps))
    return [*steps[:cleared], *array.plan_move([grown]), Flush(grown), *steps[cleared:]]


def refuse_lost_end(tree: Tree, data: Partition) -> None:
    """Raise Unsupported where the end of the last partition is what its content is found by, and stays."""
    name = data.volume.name
    if any(suspect.kind == "md" and suspect.volume is data.volume for suspect in tree.suspects):
        raise Unsupported("the last partition holds a damaged array, which its end may lead to", volume=name)
    array = tree.on(data.volume)
    if not isinstance(array, MdArray):
        return
    if array.version == "0.90":
        raise Unsupported("md metadata 0.90 stands at the end of the last partition", volume=name)
    if array.version == "1.0" and (reason := array.divided):
        raise Unsupported(reason, volume=name)
