"""grow: a power cut after any sector leaves a disk that is whole, or becomes whole when grow runs again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from onebay.base.extent import ExtentSet
from onebay.block import Volume
from onebay.ops.grow import grow
from onebay.ops.journal import Journal
from onebay.sample.build import Sample
from tests.crash.disks import MIB, Judge, soiled
from tests.crash.recording import GRAIN, Content, Log, Recorder, Writable
from tests.crash.replay import Memo, digest
from tests.crash.shape import Shape, mattering, shape

GROWTH = 96 * MIB


@dataclass
class Grown:
    """A recorded run, what the disk was and is, and who judges."""

    log: Log
    old: Shape
    new: Shape
    final: Content
    judge: Judge
    matter: ExtentSet


@pytest.fixture(scope="module")
def grown(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    base = soiled(sample, GROWTH)
    disk = Recorder(base)
    plan = grow(disk)
    assert plan.steps
    assert not plan.notes, plan.notes
    log = disk.log()
    final = log.final()
    old, new = shape(base), shape(log.volume(final))
    assert old.layers != new.layers
    assert not new.damage
    assert not old.pending
    assert not new.pending
    judge = Judge(sample, base, tmp_path_factory.mktemp("judge"))
    yield Grown(log, old, new, final, judge, mattering(log.volume(final)))
    judge.close()


def again(volume: Volume) -> Log:
    """Run the command again, and return what it wrote."""
    disk = Recorder(volume)
    grow(disk)
    return disk.log()


def completed(grown: Grown, content: Content, rerun: Log) -> Content:
    """Return the state after the second run; all that matters of it must be as after a run without a cut.

    What does not matter: free space, and where the journal was.
    """
    whole = dict(content)
    for epoch in rerun.epochs:
        for sector, data in epoch:
            whole[sector] = data
    wrong = [
        sector
        for sector in {*grown.log.universe, *whole}
        if whole.get(sector, grown.log.before.get(sector)) != expected(grown, sector)
        and grown.matter.overlaps(sector * GRAIN, (sector + 1) * GRAIN)
    ]
    assert not wrong, [hex(sector * GRAIN) for sector in wrong[:8]]
    return whole


def expected(grown: Grown, sector: int) -> bytes:
    """Content of a sector after a run without a cut."""
    data = grown.final.get(sector, grown.log.before.get(sector))
    return data if data is not None else grown.log.base.read(sector * GRAIN, GRAIN)


def states(log: Log, thorough: bool) -> Iterator[Content]:
    """Every prefix, and random parts of what was written between two flushes; quickly: some of them."""
    rng = random.Random(7)
    for content in log.prefixes():
        if thorough or rng.random() < 0.15:
            yield content
    yield from log.subsets(rng, 120 if thorough else 12)


def test_every_cut_is_old_or_new_and_completes(grown: Grown, thorough: bool, tally: Counter[str]) -> None:
    looks = Memo(grown.log, shape)
    seen: set[bytes] = set()
    for number, content in enumerate(states(grown.log, thorough)):
        tally["states"] += 1
        found = looks.ask(content)
        assert (why := found.between(grown.old, grown.new)) is None, why
        tally["with a journal"] += found.pending
        if number % (3 if thorough else 7) == 0 and (name := digest(content)) not in seen:
            seen.add(name)
            completed(grown, content, again(grown.log.volume(content)))
    tally["completed by a second run"] += len(seen)
    tally["looks at layers"] += looks.looks


def test_tools_agree(grown: Grown, thorough: bool, tally: Counter[str]) -> None:
    """e2fsck or btrfs check, sfdisk and sgdisk, and the data themselves, on a sample of states."""
    rng = random.Random(11)
    picked = grown.log.sample(rng, *((60, 40) if thorough else (4, 2)))
    for number, content in enumerate(picked):
        cut = Writable(grown.log.volume(content))
        journal = Journal(cut)
        if redo := journal.pending():
            journal.replay(redo)
        grown.judge.file_system(cut)
        if number % 5 == 0:
            grown.judge.files(cut)
        disk = Writable(grown.log.volume(content))
        grow(disk)
        grown.judge.file_system(disk)
        grown.judge.table(disk)
        if number % 5 == 0:
            grown.judge.files(disk)
        tally["states judged by tools"] += 1


def test_no_write_comes_near_a_file(grown: Grown) -> None:
    """No sector that the run changes is in a block with the content of a file."""
    touched = {sector * GRAIN // 4096 for sector in grown.final}
    touched |= {start // 4096 for start, _ in grown.log.touched()}
    assert not touched & grown.judge.data_blocks


def test_a_cut_in_the_second_run(grown: Grown, thorough: bool, tally: Counter[str]) -> None:
    """Power fails again while the same command completes what the first cut left, the journal included."""
    rng = random.Random(13)
    cuts = [dict(content) for content in grown.log.prefixes()]
    pending = [content for content in cuts if shape(grown.log.volume(content)).pending]
    picked = rng.sample(cuts, 8 if thorough else 1)
    picked += rng.sample(pending, min(len(pending), 8 if thorough else 1))
    for content in picked:
        second = again(grown.log.volume(content))
        for after in second.sample(rng, *((40, 20) if thorough else (4, 2))):
            state = content | {s: second.before[s] for s in second.universe} | after
            found = shape(grown.log.volume(state))
            assert (why := found.between(grown.old, grown.new)) is None, why
            completed(grown, state, again(grown.log.volume(state)))
            tally["states"] += 1
            tally["cut twice"] += 1
