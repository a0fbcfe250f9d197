"""Which bytes of a disk matter: used bytes of every layer, mapped down; whatever is not understood, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.event import Noted, silent
from onebay.base.extent import ExtentSet
from onebay.block import lower
from onebay.stack.md import MdArray
from onebay.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.layer import Layer
    from onebay.tree import Tree

TAIL = 256 << 20  # bytes behind the last partition that a capture keeps (DESIGN.md: where boot kits live)


def needed(tree: Tree, *, everything: bool = False, report: Report = silent) -> ExtentSet:
    """Return the bytes of the disk that an image must hold.

    `everything` keeps the whole tail too. Volumes that nobody recognised, damaged ones, and layers that do
    not trust their own allocation records are kept whole; each of these is reported.
    """
    disk = tree.disks[0]
    wanted: dict[int, ExtentSet] = {}

    def want(volume: Volume, extents: ExtentSet) -> None:
        wanted[id(volume)] = wanted.get(id(volume), ExtentSet()) | extents

    for volume in tree.unknown:
        report(Noted("not recognised, kept whole", volume.name))
        want(volume, ExtentSet.single(0, volume.size))
    for suspect in tree.suspects:
        report(Noted(f"{suspect.kind} is damaged ({suspect.evidence}), kept whole", suspect.volume.name))
        want(suspect.volume, ExtentSet.single(0, suspect.volume.size))
    for layer in reversed(tree.layers):
        own(layer, want, everything=everything, report=report)
        for above, mapping in standing(layer):
            for below, extents in lower(mapping, wanted.get(id(above), ExtentSet())):
                want(below, extents)
    return wanted.get(id(disk), ExtentSet()).clip(0, disk.size)


def own(layer: Layer, want: Callable[[Volume, ExtentSet], None], *, everything: bool, report: Report) -> None:
    """Add what the layer itself needs of the volumes below it."""
    used = layer.used() if layer.keep_whole() is None else ()
    reason = layer.keep_whole()  # asked again: the walk through `used` may have met damage
    if reason:
        report(Noted(f"{layer.title} is kept whole: {reason}", layer.below[0].name))
        for below in layer.below:
            want(below, ExtentSet.single(0, below.size))
        return
    for below, extents in zip(layer.below, used, strict=True):
        want(below, extents)
    if isinstance(layer, Table):
        want(layer.below[0], outside(layer, everything=everything))


def outside(table: Table, *, everything: bool) -> ExtentSet:
    """Return what lies in no partition; of the tail only its first 256 MiB unless `everything`."""
    extents = table.outside()
    tails = [gap for gap in table.gaps() if gap.kind == "tail" and gap.inside is None]
    if everything or not tails:
        return extents
    cut = ExtentSet.single(tails[-1].start + TAIL, tails[-1].end)
    return extents - cut


def standing(layer: Layer) -> list[tuple[Volume, Volume]]:
    """Return (volume above, volume that maps it down): each replica of a mirror maps the array once."""
    if isinstance(layer, MdArray):
        return [(array, replica) for array in layer.above for replica in layer.replicas]
    return [(above, above) for above in layer.above]
