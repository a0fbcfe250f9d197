"""grow --table gpt: after every cut the disk has one table or the other, and boots under both firmwares."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.block import FileVolume, Overlay, Volume
from onebay.ops.bootpaths import boot_paths
from onebay.ops.fold import plan_fold
from onebay.ops.foldrecord import read_record
from onebay.ops.grow import complete, grow
from onebay.ops.journal import FILE_SIZE, Journal
from onebay.ops.journalmark import PLACES
from onebay.ops.kit import find_copies
from onebay.ops.run import execute
from onebay.ops.togpt import plan_to_gpt
from onebay.sample.build import Sample
from onebay.table import GptTable, Table
from onebay.tree import discover
from tests.crash.disks import MIB, Judge, soiled
from tests.crash.recording import Content, Log, Recorder, Writable
from tests.crash.replay import Memo
from tests.crash.shape import settled
from tests.crash.test_crash_journal import Nothing, waits
from tests.grubdisk import with_grub

GROWTH = 96 * MIB  # room for two copies of the boot kit and the journal


@dataclass(frozen=True)
class Look:
    """What counts of a state: `bios` and `uefi` say where the boot goes on, with the disk left as it is.

    Everything else is seen once a journal that waits has been written out.
    """

    pending: bool
    bios: str
    uefi: str
    table: str
    partitions: tuple[object, ...]
    layers: tuple[object, ...]
    core_at: int
    damage: tuple[str, ...]


@dataclass
class Converted:
    """A recorded run, what the disk was and is, and who judges."""

    folded: Writable
    log: Log
    old: Look
    new: Look
    judge: Judge


def look(volume: Volume) -> Look:
    """Look at a state of the disk."""
    bios, uefi = boot_paths(discover([volume]))
    pending, tree = settled(volume)
    table = tree.on(tree.disks[0])
    assert isinstance(table, Table)
    record = next(found for layer in tree.layers if (found := read_record(layer)))
    assert record.core
    return Look(
        pending,
        bios.why if bios.works else f"no: {bios.why}",
        uefi.why if uefi.works else f"no: {uefi.why}",
        table.kind,
        tuple((part.number, part.start, part.size, part.type_name) for part in table.partitions),
        tuple((layer.title, str(layer.facts().get("uuid"))) for layer in tree.layers if layer is not table),
        record.core.at,
        tuple(finding.kind for finding in tree.all_findings() if finding.severity == "damage"),
    )


@pytest.fixture(scope="module")
def converted(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    if sample.layout.table != "mbr":
        pytest.skip("has a GPT already")
    base = Writable(soiled(sample, GROWTH))
    boot = FileVolume(sample.boot)
    with tempfile.TemporaryDirectory() as scratch:
        execute(plan_fold(boot, base, scratch=Path(scratch)))
    boot.close()
    disk = Recorder(base)
    again(disk)
    log = disk.log()
    old, new = look(base), look(log.volume(log.final()))
    assert (old.table, new.table) == ("mbr", "gpt")
    assert old.core_at < new.core_at
    assert not old.damage
    assert not new.damage
    judge = Judge(sample, base, tmp_path_factory.mktemp("judge"))
    yield Converted(base, log, old, new, judge)
    judge.close()


def again(disk: Writable, store: Volume | None = None) -> None:
    """Run the command, without the growth that follows."""
    complete(Journal(disk, store))
    plan = plan_to_gpt(disk)
    if plan.steps:
        grow(disk, plan=plan, store=store)


def test_every_cut_boots(converted: Converted, thorough: bool, tally: Counter[str]) -> None:
    """Nothing is between the tables, and what firmware and GRUB look for is there in every state."""
    looks = Memo(converted.log, look)
    rng = random.Random(3)

    def states() -> Iterator[dict[int, bytes]]:
        for content in converted.log.prefixes():
            if thorough or rng.random() < 0.2:
                yield content
        yield from converted.log.subsets(rng, 120 if thorough else 24)

    for content in states():
        tally["states"] += 1
        found = looks.ask(content)
        tally["with a journal"] += found.pending
        assert not found.damage
        assert (found.bios, found.uefi) == (converted.old.bios, converted.old.uefi)
        what = (found.table, found.partitions, found.layers, found.core_at)
        assert what in [
            (each.table, each.partitions, each.layers, each.core_at)
            for each in (converted.old, converted.new)
        ]


def consistent(converted: Converted, disk: Volume) -> bool:
    """Whether everything is as before or as after: table, partitions, and where the fold's record points."""
    found = look(disk)
    return not found.damage and (found.table, found.partitions, found.core_at) in [
        (each.table, each.partitions, each.core_at) for each in (converted.old, converted.new)
    ]


def test_the_disk_became_larger(converted: Converted, tally: Counter[str]) -> None:
    """After a cut, as an image file does: what has to change together is found all the same."""
    for content in converted.log.sample(random.Random(6), 12, 12) + together(converted.log):
        disk = Writable(Overlay(converted.log.volume(content), size=converted.log.base.size + 64 * MIB))
        assert consistent(converted, disk)
        tally["states"] += 1


def together(log: Log) -> list[Content]:
    """The states between the first and the last of the writes that belong together."""
    return [dict(content) for content in log.prefixes() if waits(log.volume(content))]


def test_the_file_was_not_given(converted: Converted, tally: Counter[str]) -> None:
    """Cut between LBA 0 and the fold's record, and run again without the journal: refused, not half done."""
    disk, store = Recorder(converted.folded), Recorder(Nothing(FILE_SIZE))
    again(disk, store)
    log, held = disk.log(), store.log()
    kept: Content = {}
    for epoch in held.epochs[:-1]:
        for sector, data in epoch:
            held.put(kept, sector, data)
    between = together(log)
    assert len(between) > 2
    for content in between:
        cut = Writable(log.volume(content))
        with pytest.raises(Refused, match="its journal is in a file"):
            again(cut)
        assert not cut.pages
        again(cut, Writable(held.volume(kept)))
        assert consistent(converted, cut)
        tally["without the journal's file"] += 1
    for content in log.sample(random.Random(7), 12, 12):
        assert waits(log.volume(content)) or consistent(converted, log.volume(content))
        tally["states"] += 1


def test_no_file_without_a_place_for_the_mark(converted: Converted) -> None:
    """Under the new table too; nothing is written."""
    disk = Recorder(Writable(converted.folded))
    table = discover([disk]).on(disk)
    assert isinstance(table, Table)
    first = min(part.start for part in table.partitions)
    disk.write(first - PLACES * 512, b"somebody's" * 400)
    before = disk.writes
    with pytest.raises(Refused, match="no free sector before the first partition"):
        again(disk, Writable(Nothing(FILE_SIZE)))
    assert disk.writes == before


def test_again_completes(converted: Converted, thorough: bool, tally: Counter[str]) -> None:
    """The same command leaves the GPT that it would have left, with one copy of the boot kit, its own."""
    rng = random.Random(4)
    states = converted.log.sample(rng, *((40, 40) if thorough else (3, 3)))
    late = [dict(content) for content in converted.log.prefixes() if len(content) > 4]
    states += late[-12:] if thorough else late[-4:]
    for number, content in enumerate(states):
        disk = Writable(converted.log.volume(content))
        again(disk)
        found = look(disk)
        assert (found.pending, found.table) == (False, "gpt")
        assert (found.bios, found.uefi) == (converted.old.bios, converted.old.uefi)
        assert found.layers == converted.new.layers
        bios_boot = [part for part in found.partitions if "BIOS boot" in str(part)]
        assert len(bios_boot) == 1
        table = discover([disk]).on(disk)
        assert isinstance(table, Table)
        kits = [copy.kit for copy in find_copies(disk, table) if copy.kit]
        assert [kit.facts.table for kit in kits] == ["gpt"]
        tally["completed by a second run"] += 1
        if number % 4 == 0:
            converted.judge.table(disk)
            converted.judge.file_system(disk)
            tally["states judged by tools"] += 1


def test_a_grub_of_a_distribution(tmp_path: Path, thorough: bool, tally: Counter[str]) -> None:
    """At every cut BIOS finds a GRUB that works, and what the first run left is not in the way."""
    base = FileVolume(with_grub(tmp_path / "disk.img"))
    disk = Recorder(base)
    again(disk)
    log = disk.log()
    rng = random.Random(5)
    states = log.sample(rng, *((60, 60) if thorough else (6, 6)))
    for content in states:
        cut = Writable(log.volume(content))
        assert boot_paths(discover([cut]))[0].works
        again(cut)
        tree = discover([cut])
        table = tree.on(cut)
        assert isinstance(table, GptTable)
        assert [part.number for part in table.partitions] == [1, 11]
        assert not [one for one in tree.all_findings() if one.severity == "damage"]
        assert boot_paths(tree)[0].works
        tally["states"] += 1
        tally["completed by a second run"] += 1
    base.close()
