"""restore: a cut never leaves a disk that boots half-written, and the same command goes on to the end.

The target had a life before: a GPT with a system partition at its start, its backup at the end, and random
bytes everywhere else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Volume, open_disk
from onebay.image import Image, Stream
from onebay.ops.capture import capture, look
from onebay.ops.restore import restore
from onebay.ops.target import MARK
from onebay.sample.build import build_mini
from onebay.source import open_source
from onebay.table import Table
from onebay.tree import discover
from tests.crash.conftest import CASES, wanted
from tests.crash.disks import MIB, Bench, tool
from tests.crash.recording import GRAIN, Content, Log, Recorder, Soiled, Writable
from tests.crash.replay import Memo

GROWTH = 24 * MIB


class Seen(NamedTuple):
    """What a firmware and a kernel go by: the first sector, and partitions where a table is visible."""

    first: bytes
    table: tuple[tuple[int, int, str], ...] | None


@dataclass
class Restored:
    """A recorded restore of the image at `path` and the states it went from and to."""

    path: Path
    log: Log
    final: Content
    keep: ExtentSet
    early: ExtentSet
    old: Seen
    new: Seen
    bench: Bench


def write(path: Path, disk: Volume, *, stream: bool = False, verify: bool = False) -> None:
    """Run the command, from a file or as from a pipe."""
    with closing(open_source(str(path))) as source:
        image = Stream.open(source) if stream else Image.open(source)
        restore(image, disk, verify=verify)


def seen(volume: Volume) -> Seen:
    """Look at a disk as a machine does that starts."""
    table = discover([volume]).on(volume)
    parts = None
    if isinstance(table, Table):
        parts = tuple((part.start, part.end, part.type) for part in table.partitions)
    return Seen(volume.read(0, GRAIN), parts)


def tiny(folder: Path) -> Path:
    """Make a GPT disk of 9 MiB with one ext4 of some files."""
    disk, part, tree = folder / "tiny.img", folder / "part.img", folder / "tree"
    tree.mkdir()
    for number in range(12):
        (tree / f"file {number}").write_bytes(random.Random(number).randbytes(9000 * number))
    tool("mke2fs", "-q", "-t", "ext4", "-b", 1024, "-O", "^has_journal", "-d", tree, part, "4m")
    disk.write_bytes(bytes(9 * MIB))
    tool("sgdisk", "--clear", "--new=1:4096:12287", "--typecode=1:8300", disk)
    tool("dd", f"if={part}", f"of={disk}", "bs=1M", "seek=2", "conv=notrunc", "status=none")
    return disk


def old_disk(folder: Path, size: int, sector_size: int) -> Volume:
    """Make a disk with a GPT and a FAT on it, dirty everywhere else."""
    path, part = folder / "old.img", folder / "esp.img"
    with part.open("wb") as file:
        file.truncate(4 * MIB)
    tool("mkfs.fat", "-S", sector_size, "-n", "OLDSYSTEM", part)
    with path.open("wb") as file:
        file.truncate(size)
    if sector_size == 512:
        tool("sgdisk", "--clear", "--new=1:2048:+4M", "--typecode=1:EF00", path)
    tool("dd", f"if={part}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc", "status=none")
    dirt = ExtentSet.single(6 * MIB, size - MIB)
    return Soiled(FileVolume(path, sector_size=sector_size), size, dirt, seed=2)


@pytest.fixture(scope="module", params=[*CASES, ("tiny", 512)], ids=lambda case: f"{case[0]}-{case[1]}")
def restored(
    request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Restored]:
    name, sector_size = wanted(request)
    folder = tmp_path_factory.mktemp("restore")
    data = tiny(folder) if name == "tiny" else build_mini(name, cache=cache, sector_size=sector_size).data
    path = folder / "image.raw.zst"
    disk = open_disk(data, sector_size=sector_size)
    capture(look(disk), path)
    base = old_disk(folder, disk.size + GROWTH, sector_size)
    target = Recorder(base)
    write(path, target)
    log = target.log()
    final = log.final()
    with closing(open_source(str(path))) as source:
        image = Image.open(source)
        keep = image.keep
        late = ExtentSet.of((int(a), int(b)) for a, b in image.facts.other["late"])
    done = log.volume(final)
    for start, end in keep:
        assert done.read(start, end - start) == disk.read(start, end - start)
    bench = Bench(folder / "bench.img", base, 0)
    early = keep - late - ExtentSet.single(0, MIB)
    yield Restored(path, log, final, keep, early, seen(base), seen(done), bench)
    disk.close()
    for file in (bench.path, path, folder / "old.img"):
        file.unlink()


def whole(restored: Restored, content: Content, extents: ExtentSet) -> bool:
    """Whether all of `extents` is as it will be."""
    return all(
        content.get(sector) == restored.final.get(sector)
        for sector in restored.log.universe
        if extents.overlaps(sector * GRAIN, (sector + 1) * GRAIN)
    )


def judge(restored: Restored, found: Seen, content: Content) -> str:
    """Return what stage a state is in; fails where it could boot half-written."""
    sector = restored.log.base.sector_size // GRAIN
    if all(0 < number < sector for number in content):  # a torn marker on a disk of larger sectors
        assert found == restored.old
        return "untouched"
    if found.first == restored.new.first:
        assert found == restored.new
        assert whole(restored, content, restored.keep)
        return "whole"
    assert found.first.startswith(MARK), "neither the old nor the new boot sector, nor the marker"
    assert found.first[-2:] == bytes(2), "a marker with a boot signature"
    if found.table is not None and found.table == restored.new.table:
        assert found.table != restored.old.table
        assert whole(restored, content, restored.early), "a table is visible before the data are there"
        return "whole but for the boot sector"
    if found.table is not None:
        assert found.table == restored.old.table
        assert untouched(restored, content)
        return "marked"
    return "incomplete"


def untouched(restored: Restored, content: Content) -> bool:
    """Whether only the ends of the disk were cleared, so that the old table says nothing wrong."""
    end = restored.log.base.size - 4 * MIB
    return all(sector * GRAIN < MIB or sector * GRAIN >= end for sector in content)


def test_no_cut_boots_half_written(restored: Restored, thorough: bool, tally: Counter[str]) -> None:
    rng = random.Random(3)
    looks = Memo(restored.log, seen)
    stages: Counter[str] = Counter()
    skip = 1 if thorough or len(restored.log.universe) < 20000 else 16
    for number, content in enumerate(restored.log.prefixes()):
        if number % skip and number > 12000:
            continue
        stages[judge(restored, looks.ask(content), content)] += 1
    for content in restored.log.subsets(rng, 200 if thorough else 8):
        stages[judge(restored, looks.ask(content), content)] += 1
    assert stages["incomplete"]
    assert stages["untouched"]
    assert stages["whole"]
    tally["states"] += sum(stages.values())
    tally["looks at layers"] += looks.looks
    for stage, count in stages.items():
        tally[stage] += count


def check_completed(restored: Restored, state: Volume, number: int) -> Recorder:
    """Restore again, by one way or another; all that the image keeps must be there."""
    disk = Recorder(state)
    write(restored.path, disk, stream=number % 3 == 1, verify=number % 4 == 2)
    done = restored.log.volume(restored.final)
    for start, end in restored.keep:
        assert disk.read(start, end - start) == done.read(start, end - start), (start, end)
    assert seen(disk) == restored.new
    return disk


def test_the_same_command_goes_on(restored: Restored, thorough: bool, tally: Counter[str]) -> None:
    small = len(restored.log.universe) < 20000
    count = (800 if small else 30) if thorough else (40 if small else 2)
    rng = random.Random(19)
    for number, content in enumerate(restored.log.sample(rng, count, count // 2)):
        disk = check_completed(restored, restored.log.volume(content), number)
        tally["completed by a second run"] += 1
        if number % 10 == 0:
            again = disk.log()
            inner = rng.choice([dict(c) for c in again.subsets(rng, 3)])
            check_completed(restored, again.volume(inner), number + 1)
            tally["states"] += 1
            tally["cut twice"] += 1


def test_tools_see_no_table(restored: Restored, thorough: bool, tally: Counter[str]) -> None:
    """blkid, which knows tables as kernels do, sees none while the marker is there."""
    rng = random.Random(23)
    states = restored.log.sample(rng, *((20, 10) if thorough else (2, 1)))
    for content in [*states, dict(restored.final)]:
        state = Writable(restored.log.volume(content))
        with restored.bench.showing(state) as path:
            found = tool("blkid", "-p", "-s", "PTTYPE", "-o", "value", path, ok=(0, 2)).strip()
        if state.read(0, len(MARK)) == MARK:
            assert not found, found
        else:
            assert found in ("gpt", "dos", "PMBR")  # PMBR: blkid takes a file's sectors to have 512 bytes
        tally["states judged by tools"] += 1
