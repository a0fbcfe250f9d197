"""fold --in-place: after a cut the disk is what it was, or folded; folding again completes it."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Volume
from onebay.ops.fold import plan_fold
from onebay.ops.run import execute
from onebay.sample.build import Sample
from onebay.table import Table
from onebay.tree import discover
from tests.crash.disks import MIB, Judge, soiled
from tests.crash.recording import GRAIN, Content, Log, Recorder, Writable
from tests.crash.replay import Memo, digest
from tests.crash.shape import Part, Shape, mattering, shape

TAIL = 48 * MIB  # room for the copy of the boot kit, on an MBR, where the tail needs no table to be moved


@dataclass
class Folded:
    """A recorded fold, what the disk was and is, and who judges."""

    sample: Sample
    table: str | None
    log: Log
    old: Shape
    new: Shape
    final: Content
    judge: Judge
    matter: ExtentSet


def fold(sample: Sample, disk: Volume, table: str | None) -> None:
    """Run the command."""
    boot = FileVolume(sample.boot)
    with tempfile.TemporaryDirectory() as scratch:
        plan = plan_fold(boot, disk, scratch=Path(scratch), table=table)
        execute(plan)
    boot.close()


@pytest.fixture(scope="module", params=[None, "gpt"], ids=["", "to-gpt"])
def folded(
    request: pytest.FixtureRequest, sample: Sample, thorough: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Folded]:
    """Fold, and turn the table into a GPT with it where it is none."""
    if request.param and (sample.layout.table == "gpt" or not thorough):
        pytest.skip("only with make crash, and only where the table is an MBR")
    clean = soiled(sample, 0)
    table = discover([clean]).on(clean)
    assert isinstance(table, Table)
    gaps = ExtentSet.of((gap.start, gap.end) for gap in table.gaps() if gap.inside is None)
    base = soiled(sample, TAIL if table.kind == "mbr" else 0, gaps)
    disk = Recorder(base)
    fold(sample, disk, request.param)
    log = disk.log()
    final = log.final()
    old, new = shape(base), shape(log.volume(final))
    assert len(new.layers) > len(old.layers)
    assert not new.damage
    judge = Judge(sample, base, tmp_path_factory.mktemp("judge"))
    yield Folded(sample, request.param, log, old, new, final, judge, mattering(log.volume(final)))
    judge.close()


def is_partition(part: Part) -> bool:
    """Whether a part of a shape is an entry of a partition table."""
    return len(part) == 5 and str(part[0])[1:].isdigit()


def anonymous(found: Shape) -> list[Part]:
    """Return the parts of a shape without the GUIDs of the table."""
    named = [
        (part[0], *part[2:]) if part[0] == "gpt" or is_partition(part) else part for part in found.layers
    ]
    return [*named, found.damage]


def check_completed(folded: Folded, content: Content) -> Writable:
    """Fold again; what matters must be as after a fold without a cut. Return the disk."""
    log = folded.log
    disk = Writable(log.volume(content))
    fold(folded.sample, disk, folded.table)
    after = log.volume(folded.final)
    matter = folded.matter
    if folded.table:  # its GUIDs are made anew, so that it is compared by what it says
        table = discover([disk]).on(disk)
        assert isinstance(table, Table)
        matter -= table.metadata()
        assert anonymous(shape(disk)) == anonymous(folded.new)
    sectors = {*log.universe, *(number * 8 + skip for number in disk.pages for skip in range(8))}
    wrong = [
        hex(sector * GRAIN)
        for sector in sorted(sectors)
        if matter.overlaps(sector * GRAIN, (sector + 1) * GRAIN)
        and disk.read(sector * GRAIN, GRAIN) != after.read(sector * GRAIN, GRAIN)
    ]
    assert not wrong, wrong[:8]
    return disk


def test_every_cut_is_the_old_disk_or_folded(folded: Folded, thorough: bool, tally: Counter[str]) -> None:
    rng = random.Random(5)
    looks = Memo(folded.log, shape)
    seen: set[bytes] = set()
    added = {part for part in folded.new.layers if part not in folded.old.layers and is_partition(part)}
    places = ExtentSet.of((int(str(part[2])), int(str(part[3]))) for part in added)
    inside = [
        sector for sector in folded.log.universe if places.overlaps(sector * GRAIN, (sector + 1) * GRAIN)
    ]
    assert len(inside) > 5000

    def judge(content: Content) -> None:
        tally["states"] += 1
        found = looks.ask(content)
        assert not found.pending
        if folded.table:  # another table: nothing is half this and half that
            assert found.layers in (folded.old.layers, folded.new.layers)
            assert not found.damage
        else:
            assert (why := found.between(folded.old, folded.new)) is None, why
        if added.intersection(found.layers):
            tally["with the new partitions"] += 1
            assert all(content.get(sector) == folded.final.get(sector) for sector in inside)

    for content in folded.log.prefixes():
        judge(content)
    for content in folded.log.subsets(rng, 300 if thorough else 20):
        judge(content)
        seen.add(digest(content))
    tally["random ones that differ"] += len(seen)
    tally["looks at layers"] += looks.looks


def test_folding_again_completes(folded: Folded, thorough: bool, tally: Counter[str]) -> None:
    """On random prefixes, random parts, and every state behind the content: core, table, boot code."""
    rng = random.Random(17)
    states = folded.log.sample(rng, *((12, 8) if thorough else (1, 1)))
    total = sum(1 for _ in folded.log.prefixes())
    behind = [dict(c) for number, c in enumerate(folded.log.prefixes()) if number >= total - 40]
    states += behind if thorough else behind[-4:-1]
    for number, content in enumerate(states):
        disk = check_completed(folded, content)
        tally["completed by a second run"] += 1
        if number % 10 == 0:
            folded.judge.file_system(disk)
            folded.judge.table(disk)
            tally["states judged by tools"] += 1


def test_no_write_comes_near_a_partition(folded: Folded) -> None:
    """Not a sector of the appliance's partitions is changed at any time."""
    touched = folded.log.touched()
    for part in folded.old.layers:
        if str(part[0]).startswith("p"):
            _, _, start, end, kind = part
            if kind not in ("0x0f", "0x05"):
                assert not touched.overlaps(start, end), part
