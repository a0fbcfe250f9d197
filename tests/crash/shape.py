"""What counts of a disk: its layers with their identities and sizes; and what is wrong with it."""

from __future__ import annotations

from typing import NamedTuple

from onebay.base.extent import ExtentSet
from onebay.block import Volume
from onebay.layer import Layer
from onebay.ops.journal import Journal
from onebay.ops.need import needed
from onebay.table import Table
from onebay.tree import Tree, discover
from tests.crash.recording import Writable

Part = tuple[object, ...]


class Shape(NamedTuple):
    """`pending`: a journal waits, and the rest is what is there once it has been written out."""

    pending: bool
    layers: tuple[Part, ...]
    damage: tuple[str, ...]

    def between(self, old: Shape, new: Shape) -> str | None:
        """Say what is neither as it was nor as it will be; None where every layer is one of both."""
        if fresh := [text for text in self.damage if text not in old.damage]:
            return f"damage: {fresh}"
        for one in self.layers:
            if one not in old.layers and one not in new.layers:
                return f"layer: {one}"
        missing = [one[:2] for one in old.layers if not any(one[:2] == have[:2] for have in self.layers)]
        return f"lost: {missing}" if missing else None


def shape(volume: Volume) -> Shape:
    """Look at a disk as the next run will find it."""
    pending, tree = settled(volume)
    parts = [part for layer in tree.layers for part in describe(layer)]
    damage = [f"{suspect.kind}: {suspect.evidence}" for suspect in tree.suspects]
    damage += [finding.kind for finding in tree.all_findings() if finding.severity == "damage"]
    return Shape(pending, tuple(parts), tuple(damage))


def settled(volume: Volume) -> tuple[bool, Tree]:
    """Return whether a journal waits, and what is on the disk once it has been written out."""
    view = Writable(volume)
    journal = Journal(view)
    redo = journal.pending()
    if redo is not None:
        journal.replay(redo)
    return redo is not None, discover([view])


def describe(layer: Layer) -> list[Part]:
    """Return the parts of a layer that are old or new each by itself: (kind, identity, bytes)."""
    facts = layer.facts()
    identity = str(facts.get("uuid") or facts.get("identity"))
    if isinstance(layer, Table):
        found: list[Part] = [(layer.kind, identity)]
        found += [
            (f"p{part.number}", part.uuid, part.start, part.end, part.type) for part in layer.partitions
        ]
        return found
    found = [(layer.kind, identity, facts.get("size"))]
    return found + [(f"{layer.kind} volume", above.name, above.size) for above in layer.above]


def mattering(volume: Volume) -> ExtentSet:
    """Return the bytes of a finished disk that somebody needs; the tail, where journals are, is free."""
    tree = discover([volume])
    table = tree.on(tree.disks[0])
    assert isinstance(table, Table)
    last = max(part.end for part in table.partitions)
    return needed(tree) - (table.outside().clip(last, volume.size) - table.metadata())
