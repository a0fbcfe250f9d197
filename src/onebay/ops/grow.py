"""grow: make the last data partition and everything on it fill the disk, bottom-up.

Each layer is asked in turn and the disk is looked at again after each answer, on an overlay; so a layer only
ever sees what stands below it as it will be. The appliance's system partitions are never asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Refused, ToolFailed, ToolMissing, Unsupported
from onebay.ops.run import Plan, Planner
from onebay.table import Table
from onebay.tree import discover

if TYPE_CHECKING:
    from onebay.block import Volume
    from onebay.layer import Layer
    from onebay.tree import Tree

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
                steps = layer.plan_grow()
            except ToolMissing:
                raise
            except (Unsupported, ToolFailed) as error:  # tools work on scratch files: nothing was touched
                planner.plan.notes.append(f"{name} stays as it is: {error}")
                finished.add(name)
                steps = []
            if steps:
                planner.add(steps)
                break
            finished.add(name)
        else:
            return planner.plan
    raise AssertionError(f"{disk.name}: growing does not end")


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
    """Return the layers to grow, bottom-up: the table, then what stands on its last data partition."""
    table = tree.on(tree.disks[0])
    assert table is not None
    if not isinstance(table, Table):
        return tree.layers
    data = table.data_partition
    if data is None:
        return [table]
    standing: set[int] = {id(data.volume)}
    found: list[Layer] = [table]
    for layer in tree.layers:
        if any(id(below) in standing for below in layer.below):
            found.append(layer)
            standing.update(id(above) for above in layer.above)
    return found
