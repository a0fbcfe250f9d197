"""Which bytes of a disk matter: used bytes of every layer, mapped down; whatever is not understood, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.event import Noted, silent
from onebay.base.extent import ExtentSet
from onebay.block import lower
from onebay.stack.luks import Luks
from onebay.stack.md import MdArray
from onebay.table import Table
from onebay.table.model import STALE

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.layer import Layer
    from onebay.tree import Tree

TAIL = 256 << 20  # bytes behind the last partition that a capture keeps: boot kits live there
# Where a former owner of the target may have left superblocks that outrank what is restored: md 1.1 and 1.2,
# LVM and btrfs at the start of a volume; md 0.90 and 1.0, DDF and DRBD at its end.
HEAD = 68 << 10


def needed(tree: Tree, *, everything: bool = False, ends: bool = False, report: Report = silent) -> ExtentSet:
    """Return the bytes of the disk that matter.

    `everything` keeps the whole tail too, `ends` both ends of every volume: an image must hold them lest
    what was on its target counts again. Volumes that nobody recognised, damaged ones, and layers that do
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
        for below in layer.below if ends else ():
            want(below, ExtentSet.of([(0, min(HEAD, below.size)), (max(0, below.size - STALE), below.size)]))
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
    if everything:
        return extents
    # a table that was made for a smaller disk does not count all of the tail as its own
    tail = max((part.end for part in table.partitions), default=table.usable.start)
    return extents - ExtentSet.single(tail + TAIL, table.volume.size)


def standing(layer: Layer) -> list[tuple[Volume, Volume]]:
    """Return (volume above, volume that maps it down): each replica of a mirror maps the array once.

    What is inside LUKS maps nothing itself; its encrypted bytes lie where the layer says.
    """
    if isinstance(layer, MdArray):
        return [(array, replica) for array in layer.above for replica in layer.replicas]
    if isinstance(layer, Luks) and layer.inside is not None:
        return [(above, layer.inside) for above in layer.above]
    return [(above, above) for above in layer.above]
