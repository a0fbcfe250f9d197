"""A disk as it would be were it smaller: a volume for reading; the disk itself is never written.

The file system's used blocks are copied into a scratch file and shrunk there; where it stood, the new disk
shows that file, elsewhere the old disk. On an overlay over both the metadata below follow, LVM to table. What
comes out is looked at like any disk before anybody gets it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent, Refused, ToolFailed
from onebay.base.event import Began, Ended, Moved, Noted, Warned, silent
from onebay.base.step import Write, apply
from onebay.block import Concat, FileVolume, Overlay, Piece, Span, create_disk, locate
from onebay.fs.btrfs import BtrfsFs
from onebay.fs.ext import ExtFs
from onebay.fs.ext.shrink import shrink_copy
from onebay.ops.journal import MIB, ROOM, Journal
from onebay.ops.shrink import ShrinkPlan, plan_shrink, too_small
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onebay.base.event import Report
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.layer import Layer
    from onebay.ops.shrink import Route
    from onebay.tree import Tree

OP = "copy file system"
CHUNK = 1 << 20
# Shrinks the btrfs in a file to so many bytes, 0 for as few as possible, and returns what it has then.
Kernel = Callable[[Path, int], int]


@dataclass(frozen=True)
class Shrunk:
    """The disk as it is at `plan.cut`: `disk` to read it, `tree` what is on it."""

    disk: Volume
    tree: Tree
    plan: ShrinkPlan


def warn_losses(plan: ShrinkPlan, report: Report) -> None:
    """Say what the smaller disk would lack; for callers, before they ask anybody or write anything."""
    for loss in plan.losses:
        report(Warned(loss, plan.route.disk.name))


@contextmanager
def shrunk(
    plan: ShrinkPlan, *, folder: Path, kernel: Kernel, to: int | None, report: Report = silent
) -> Iterator[Shrunk]:
    """Give the smaller disk; scratch files are in `folder` and gone afterwards. `to` is what was asked for.

    Raises Refused (errors in the file system, no scratch space, a btrfs that does not get so small),
    Inconsistent where the result is not what it should be, ToolMissing, ToolFailed.
    """
    with ExitStack() as stack:
        scratch = None
        if plan.fs_shrinks:
            refuse_shortage(folder, plan)
            report(
                Noted(f"needs up to {plan.scratch()} bytes of scratch space in {folder}", plan.route.top.name)
            )
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix=".onebay-shrink-", dir=folder))
            path = Path(name) / "filesystem"
            copy_used(plan.route, path, report)
            plan = shrink_scratch(plan, path, kernel, to)
            scratch = stack.enter_context(closing(FileVolume(path, writable=True)))
            scratch.resize(plan.cut.sizes[-1])
            scratch.sector_size = plan.route.top.sector_size
        yield assemble(plan, scratch)


def refuse_shortage(folder: Path, plan: ShrinkPlan) -> None:
    """Raise Refused where the scratch file would not fit."""
    need, free = plan.scratch(), shutil.disk_usage(folder).free
    if free < need:
        raise Refused(
            f"shrinking needs scratch space in {folder}",
            volume=plan.route.disk.name,
            expected=f"{need} bytes",
            found=free,
            hint="name a folder with more space: --scratch DIR",
        )


def copy_used(route: Route, path: Path, report: Report) -> None:
    """Copy what the file system uses into a sparse file of its size."""
    assert route.fs is not None
    used = route.fs.used()[0].clip(0, route.fs_size)
    report(Began(OP, route.top.name, used.size))
    done = 0
    with closing(create_disk(path, route.fs_size)) as scratch:
        for start, end in used:
            for first, last in route.top.data(start, end):
                for at in range(first, last, CHUNK):
                    scratch.write(at, route.top.read(at, min(CHUNK, last - at)))
                    report(Moved(OP, done + at - start))
            done += end - start
    report(Ended(OP, 0.0, f"{used.size} bytes"))


def shrink_scratch(plan: ShrinkPlan, path: Path, kernel: Kernel, to: int | None) -> ShrinkPlan:
    """Shrink the copy, and return the plan with what came out."""
    route = plan.route
    if isinstance(route.fs, ExtFs):
        geometry = route.fs.geometry
        shrink_copy(path, route.top.name, geometry, plan.fs_size // geometry.block_size)
        return plan
    assert isinstance(route.fs, BtrfsFs), route.name
    try:
        got = kernel(path, 0 if to is None else plan.fs_size)
    except ToolFailed as error:
        error.volume = route.top.name
        raise
    found = plan_shrink(route, None, least=got)
    if to is None:
        return found
    if got > plan.fs_size:
        raise too_small(route.disk.name, found.floor, to, found.reason)
    return plan


def assemble(plan: ShrinkPlan, scratch: FileVolume | None) -> Shrunk:
    """Put the smaller disk together, and look at it."""
    route, cut = plan.route, plan.cut
    if plan.same and scratch is None:
        return Shrunk(route.disk, route.tree, plan)
    shorter = route.part is not None and cut.end < route.part.end
    # with a shorter partition, what stood behind its new end is old data of its file system
    base = Concat(
        route.disk.name, base_parts(route, cut.end if shorter else cut.size, scratch), route.disk.sector_size
    )
    disk = Overlay(base, size=cut.size, name=route.disk.name)
    sizes = {id(volume): size for volume, size in zip(route.volumes, cut.sizes, strict=True)}
    for layer, _ in route.links if not plan.same else ():
        rehearse(layer.plan_shrink([rebased(below, route.disk, disk, sizes) for below in layer.below]))
    if route.table is not None and not plan.same:
        rehearse(carried(plan, disk))
        rehearse(route.table.plan_end(disk, cut.end))
    tree = discover([disk])
    if scratch is not None:  # what rounding to whole MiB and extents has left
        for fs in tree.layers:
            if isinstance(fs, BtrfsFs) and isinstance(route.fs, BtrfsFs) and fs.sb.fsid == route.fs.sb.fsid:
                rehearse(fs.plan_grow())
        tree = discover([disk])
    refuse_different(route, tree)
    return Shrunk(disk, tree, plan)


def rehearse(steps: list[Step]) -> None:
    """Carry out steps that stand on an overlay."""
    for step in steps:
        apply(step)


def base_parts(route: Route, end: int, scratch: FileVolume | None) -> list[Piece]:
    """Return bytes 0 up to `end` of the disk, with the scratch file where the file system is."""
    places: list[tuple[int, int, int]] = []
    done = 0
    for piece in locate(route.top, 0, scratch.size) if scratch else ():
        assert piece.volume is route.disk, piece
        places.append((piece.at, piece.size, done))
        done += piece.size
    parts: list[Piece] = []
    at = 0
    for start, size, inside in sorted(places):
        assert scratch is not None
        assert at <= start
        assert start + size <= end, "what is kept ends before the cut"
        if start > at:
            parts.append(Piece(route.disk, at, start - at))
        parts.append(Piece(scratch, inside, size))
        at = start + size
    if end > at:
        parts.append(Piece(route.disk, at, end - at))
    return parts


def rebased(volume: Volume, old: Volume, new: Volume, sizes: Mapping[int, int]) -> Volume:
    """Return `volume`, which stands on the disk `old`, on the disk `new`; `sizes` has new sizes."""
    size = sizes.get(id(volume), volume.size)
    if volume is old:
        return new
    if isinstance(volume, Span):
        return Span(volume.name, rebased(volume.parent, old, new, sizes), volume.start, size)
    parts = [
        Piece(rebased(part.volume, old, new, sizes), part.at, part.size) for part in volume.pieces(0, size)
    ]
    return Concat(volume.name, parts, volume.sector_size)


def carried(plan: ShrinkPlan, disk: Volume) -> list[Step]:
    """Return the steps that take the copy of the boot kit to the new tail, where it is not there already."""
    copy = plan.route.kit
    if copy is None or copy.kit is None:
        return []
    raw = copy.kit.raw
    limit = Journal(disk).room(ROOM).start
    part = plan.route.part
    if (part is None or plan.cut.end == part.end) and copy.at + len(raw) <= limit:
        return []
    start = -(-plan.cut.end // MIB) * MIB
    assert start + len(raw) <= limit, "the floor counts the kit"
    return [Write(disk, start, raw, "take the copy of the boot kit to the new tail")]


def refuse_different(route: Route, tree: Tree) -> None:
    """Raise Inconsistent where the new disk has damage that the old one has not, or other layers."""
    known = {(one.kind, one.text) for one in route.tree.all_findings()}
    for found in tree.all_findings():
        if found.severity == "damage" and (found.kind, found.text) not in known:
            raise Inconsistent(
                f"the smaller disk is not whole: {found.text}", volume=found.volume, at=found.at
            )
    expected, found_layers = identities(route.tree), identities(tree)
    if expected != found_layers or len(tree.suspects) > len(route.tree.suspects):
        raise Inconsistent(
            "the smaller disk has other layers", volume=route.disk.name, expected=expected, found=found_layers
        )


def identities(tree: Tree) -> list[tuple[str, str, str]]:
    """Return kind, place and UUID of every layer."""

    def told(layer: Layer) -> str:
        facts = layer.facts()
        return str(facts.get("uuid") or facts.get("identity") or "")

    return [(layer.kind, layer.below[0].name, told(layer)) for layer in tree.layers]
