"""repair: the appliance's layers are never touched, and repairing again completes what was cut.

What is being healed was damaged before; so a boot partition may be damaged in between, in another way, but
never anything else.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from onebay.base.extent import ExtentSet
from onebay.base.step import apply
from onebay.block import FileVolume, Volume
from onebay.ops.bootpaths import boot_paths
from onebay.ops.fold import plan_fold
from onebay.ops.journal import MAGIC, Journal
from onebay.ops.kit import Kit, make_kit, parse_kit
from onebay.ops.repair import plan_repair, repair
from onebay.ops.repair.plan import complete_interrupted
from onebay.ops.run import execute
from onebay.sample.build import Sample, build_mini
from onebay.table import MbrTable, Table, plan_remove
from onebay.tree import discover
from tests.crash.conftest import wanted_damage
from tests.crash.disks import MIB, Judge, soiled
from tests.crash.recording import GRAIN, Content, Log, Recorder, Writable
from tests.crash.replay import Memo
from tests.crash.shape import Part, mattering, shape

DAMAGES = [
    ("v8-mbr-btrfs", 512, "manager"),
    ("v8-mbr-btrfs", 512, "fats"),
    ("shr-mbr-lvm-btrfs", 512, "manager"),
    ("v9-gpt-lvm-ext4", 512, "manager"),
    ("v9-gpt-lvm-ext4", 512, "fats"),
    ("v9-gpt-lvm-ext4", 512, "primary"),
    ("v9-gpt-lvm-ext4", 512, "backup"),
    ("v9-gpt-lvm-ext4", 4096, "manager"),
]
TAIL = 48 * MIB


@dataclass
class Repaired:
    """A recorded repair of a damaged disk; `ours` are the appliance's layers, which stay as they are."""

    log: Log
    kit: Kit | None
    ours: set[Part]
    final: Content
    matter: ExtentSet
    judge: Judge


def run(disk: Volume, kit: Kit | None) -> None:
    """Run the command."""
    complete_interrupted(disk)
    with tempfile.TemporaryDirectory() as scratch:
        repair(plan_repair(disk, scratch=Path(scratch), kit=kit))


def folded_disk(sample: Sample) -> Writable:
    """Fold the sample; on an MBR with room for the kit's copy in the tail."""
    disk = Writable(soiled(sample, TAIL if sample.layout.table == "mbr" else 0))
    boot = FileVolume(sample.boot)
    with tempfile.TemporaryDirectory() as scratch:
        execute(plan_fold(boot, disk, scratch=Path(scratch)))
    boot.close()
    return disk


def table_of(disk: Volume) -> Table:
    table = discover([disk]).on(disk)
    assert isinstance(table, Table)
    return table


def damage(disk: Volume, what: str, numbers: list[int]) -> None:
    """Do what befalls folded disks; `numbers` are the partitions that fold added."""
    table = table_of(disk)
    match what:
        case "manager":  # rewrites the table without entries that it does not know, and the boot code
            if isinstance(table, MbrTable):
                for number in numbers:
                    disk.write(446 + 16 * (number - 1), bytes(16))
            else:
                for step in plan_remove(table, numbers):
                    apply(step)
            disk.write(0, bytes(440))
        case "fats":
            home = next(part for part in table.partitions if part.number == numbers[0])
            disk.write(home.start + 512 * 4, bytes(64 << 10))
        case "primary":
            disk.write(disk.sector_size, bytes(disk.sector_size))
        case "backup":
            disk.write(disk.size - disk.sector_size, bytes(disk.sector_size))


@pytest.fixture(scope="module", params=DAMAGES, ids=lambda case: "-".join(map(str, case)))
def repaired(
    request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repaired]:
    name, sector_size, what = wanted_damage(request)
    sample = build_mini(name, cache=cache, sector_size=sector_size)
    disk = folded_disk(sample)
    before = {part.number for part in table_of(disk.base).partitions}
    numbers = [part.number for part in table_of(disk).partitions if part.number not in before]
    whole = boot_paths(discover([disk]))
    kit = None
    if sample.layout.table == "gpt":
        out = io.BytesIO()
        make_kit(discover([disk]), out)
        kit = parse_kit(out.getvalue(), "kit")
    ours = set(shape(disk.base).layers)
    assert ours < set(shape(disk).layers)
    damage(disk, what, numbers)
    target = Recorder(disk)
    run(target, kit)
    log = target.log()
    final = log.final()
    assert [path.works for path in boot_paths(discover([target]))] == [path.works for path in whole]
    assert ours < set(shape(log.volume(final)).layers)
    judge = Judge(sample, disk, tmp_path_factory.mktemp("judge"))
    yield Repaired(log, kit, ours, final, mattering(log.volume(final)), judge)
    judge.close()


def test_the_appliance_is_whole_at_every_moment(
    repaired: Repaired, thorough: bool, tally: Counter[str]
) -> None:
    rng = random.Random(47)
    looks = Memo(repaired.log, shape)

    def judge(content: Content) -> None:
        tally["states"] += 1
        found = looks.ask(content)
        assert repaired.ours <= set(found.layers), repaired.ours - set(found.layers)
        tally["with a journal"] += found.pending

    # every state of a large log may cost a look that writes out megabytes of journal
    step = 1 if repaired.log.sectors < 4000 else repaired.log.sectors // (300 if thorough else 60)
    for number, content in enumerate(repaired.log.prefixes()):
        if number % step == 0:
            judge(content)
    for content in repaired.log.subsets(rng, 30 if thorough else 10):
        judge(content)
    tally["looks at layers"] += looks.looks


def test_repairing_again_completes(repaired: Repaired, thorough: bool, tally: Counter[str]) -> None:
    log = repaired.log
    rng = random.Random(53)
    states = log.sample(rng, *((6, 3) if thorough else (2, 1)))
    head = Journal(log.volume({})).head_at // GRAIN
    waiting = [n for n, c in enumerate(log.prefixes()) if c.get(head, b"").startswith(MAGIC)]
    waiting = rng.sample(waiting, min(len(waiting), 3 if thorough else 1))
    states += [dict(content) for number, content in enumerate(log.prefixes()) if number in waiting]
    after = log.volume(repaired.final)
    for number, content in enumerate(states):
        disk = Writable(log.volume(content))
        run(disk, repaired.kit)
        sectors = {*log.universe, *(page * 8 + skip for page in disk.pages for skip in range(8))}
        wrong = [
            hex(sector * GRAIN)
            for sector in sorted(sectors)
            if repaired.matter.overlaps(sector * GRAIN, (sector + 1) * GRAIN)
            and disk.read(sector * GRAIN, GRAIN) != after.read(sector * GRAIN, GRAIN)
        ]
        assert not wrong, wrong[:8]
        tally["completed by a second run"] += 1
        if number % 10 == 0:
            repaired.judge.file_system(disk)
            repaired.judge.table(disk)
            tally["states judged by tools"] += 1


def test_no_write_comes_near_a_partition(repaired: Repaired) -> None:
    """Not a sector of the appliance's partitions is changed at any time."""
    touched = repaired.log.touched()
    for part in repaired.ours:
        if str(part[0])[:1] == "p" and part[-1] not in ("0x0f", "0x05"):
            start, end = part[2], part[3]
            assert isinstance(start, int)
            assert isinstance(end, int)
            assert not touched.overlaps(start, end), part
