"""What the fuzzer does with a disk: everything that inspect, capture, grow, kit and repair do with it.

Beside "only Error escapes" these are the oracles: answers lie inside the volume, facts are JSON, a plan of
growth stays inside its volumes, and what it leaves is found again as the same kind.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.disk import Disk
from onebay.base.error import Error
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, Step, apply
from onebay.block import Overlay, Span
from onebay.fs.fat import Fat
from onebay.layer import Layer, Member, Suspect
from onebay.ops.inspect import inspect
from onebay.ops.journal import Journal
from onebay.ops.kit import find_copies
from onebay.ops.need import needed
from onebay.ops.repair import plan_repair
from onebay.table import Table
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onebay.block import Volume

    Answer = Layer | Member | Suspect | None
    Probe = Callable[[Volume], Answer]
    Assemble = Callable[[Sequence[Member]], Layer | Suspect]

NO_TOOLS = ("ext",)  # growing ext runs e2fsprogs, a second a time; its own tests do that
MAX_FILE = 1 << 20


def volumes(disk: Disk) -> list[Volume]:
    """Return the volumes of a seed that has several, the last ones shorter where the disk was cut."""
    if len(disk.seed.parts) == 1:
        return [disk]
    found: list[Volume] = []
    at = 0
    for number, size in enumerate(disk.seed.parts):
        if at < disk.size:
            found.append(Span(f"disk{number}", disk, at, min(size, disk.size - at)))
        at += size
    return found


def one(probe: Probe, assemble: Assemble | None = None) -> Callable[[Disk], None]:
    """Make a target of a probe: ask it about every volume, join members, ask every layer."""

    def run(disk: Disk) -> None:
        views = [Overlay(volume) for volume in volumes(disk)]
        for layer in layers(probe, assemble, views):
            ask(layer)
            if layer.kind not in NO_TOOLS:
                grow(layer, probe, assemble)

    return run


def layers(probe: Probe, assemble: Assemble | None, views: Sequence[Volume]) -> Iterator[Layer]:
    """Yield the layers that a probe finds on volumes."""
    groups: dict[str, list[Member]] = {}
    for view in views:
        answer: Answer = None
        with suppress(Error):
            answer = probe(view)
        if isinstance(answer, Layer):
            yield answer
        elif isinstance(answer, Member):
            groups.setdefault(answer.key, []).append(answer)
        else:
            assert answer is None or isinstance(answer, Suspect)
    for members in groups.values():
        assert assemble is not None
        with suppress(Error):
            joined = assemble(members)
            if isinstance(joined, Layer):
                yield joined


def ask(layer: Layer) -> None:
    """Ask a layer everything, each question by itself, so that one that fails does not hide the next."""
    questions: list[Callable[[], object]] = [
        lambda: layer.title,
        lambda: json.dumps(layer.facts()),
        lambda: extents(layer),
        layer.keep_whole,
        layer.used_bytes,
        layer.check,
        lambda: ends(layer),
    ]
    if isinstance(layer, Fat):
        questions += [lambda: files(layer, "", 1), lambda: layer.read_file("/EFI/BOOT/BOOTX64.EFI")]
    if isinstance(layer, Table):
        questions += [lambda: gaps(layer)]
    for question in questions:
        with suppress(Error):
            question()


def extents(layer: Layer) -> None:
    """Used bytes are bytes of the volumes below, of each its own."""
    for used, below in zip(layer.used(), layer.below, strict=True):
        assert not used or used.bounds[-1] <= below.size, "used beyond the volume"


def ends(layer: Layer) -> None:
    """The volumes above can be read at both ends."""
    for above in layer.above[:64]:
        assert above.size >= 0
        if above.size:
            assert len(above.read(0, 1)) == len(above.read(above.size - 1, 1)) == 1


def gaps(table: Table) -> None:
    """Gaps and partitions lie on the disk, in order."""
    size = table.volume.size
    for gap in table.gaps():
        assert 0 <= gap.start < gap.end <= size, "gap outside the disk"
    for part in table.partitions:
        assert 0 <= part.start < part.end <= size, "partition outside the disk"
    assert not table.outside() or table.outside().bounds[-1] <= size


def files(fat: Fat, folder: str, depth: int) -> None:
    """List folders and read files, at most 4 in each."""
    for entry in (fat.listdir(folder or "/") or [])[:4]:
        with suppress(Error):
            if entry.is_dir and depth:
                files(fat, f"{folder}/{entry.name}", depth - 1)
            else:
                fat.read_file(f"{folder}/{entry.name}", limit=MAX_FILE)


def grow(layer: Layer, probe: Probe, assemble: Assemble | None) -> None:
    """A plan writes inside its volumes; when it was carried out, the same thing is there."""
    try:
        steps = layer.plan_grow()
    except Error:
        return
    for step in steps:
        if not isinstance(step, Flush):
            assert 0 <= step.at <= step.at + step.size <= step.volume.size, "step outside its volume"
    for step in steps:
        apply(step)
    if steps:
        found = [again.kind for again in layers(probe, assemble, layer.below)]
        assert layer.kind in found, f"{layer.kind} is gone after growing"


def whole(disk: Disk) -> None:
    """Look at a whole disk as the verbs do, without running a program."""
    view = Overlay(disk)
    with suppress(Error):
        json.dumps(inspect(view))
    tree = discover([view])
    tree.all_findings()
    with suppress(Error):
        kept = needed(tree)
        assert not kept or kept.bounds[-1] <= view.size, "keeps bytes beyond the disk"
    table = tree.on(view)
    if isinstance(table, Table):
        with suppress(Error):
            find_copies(view, table)
    assert not view.pages, "looking wrote"
    with suppress(Error):
        journal = Journal(view)
        if redo := journal.pending():
            journal.replay(redo)


def repair(disk: Disk) -> None:
    """Plan a repair and carry it out: what the appliance owns stays as it is, and nothing is left to heal."""
    view = Overlay(disk)
    steps = planned(view)
    assert not view.pages, "planning wrote"
    owned = appliance(disk)
    for step in steps:
        if not isinstance(step, Flush):
            assert 0 <= step.at <= step.at + step.size <= view.size, "step outside the disk"
            assert not owned.overlaps(step.at, step.at + step.size), "writes to the appliance's partitions"
    for step in steps:
        apply(step)
    assert not steps or not planned(view), "a second repair changes what the first one left"


def planned(view: Overlay) -> list[Step]:
    """Return the steps of a repair; none where it refuses."""
    with suppress(Error), tempfile.TemporaryDirectory(prefix="onebay-fuzz-") as scratch:
        return plan_repair(view, scratch=Path(scratch)).steps
    return []


def appliance(disk: Disk) -> ExtentSet:
    """Return where the appliance's partitions stand on the unchanged disk."""
    found = discover([Disk(disk.seed)])
    table = found.on(found.disks[0])
    assert isinstance(table, Table)
    return ExtentSet.of((part.start, part.end) for part in table.partitions if part.number <= 3)
