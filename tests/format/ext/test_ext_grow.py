"""Growing ext2/3/4: resize2fs on a scratch copy, steps on the volume, e2fsck and debugfs as judges."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from onebay.base.error import Refused
from onebay.base.step import Flush, Step, Write, Zero, apply
from onebay.base.tool import find, run
from onebay.block import FileVolume
from onebay.fs.ext import ExtFs, probe, scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.base.extent import ExtentSet

pytestmark = pytest.mark.skipif(
    find("resize2fs") is None or find("debugfs") is None, reason="e2fsprogs is not installed"
)
MB = 1 << 20


class Case(NamedTuple):
    """Sizes in bytes before and after, arguments of mke2fs; `whole`: the scratch file needs all data."""

    before: int
    after: int
    argv: str
    whole: bool = False


CASES = {
    "debian": Case(96 * MB, 1500 * MB + 12345 * 512, "-t ext4 -b 4096"),
    "whole-groups": Case(128 * MB, 256 * MB, "-t ext4 -b 4096"),
    "last-group-only": Case(96 * MB, 97 * MB + 1000, "-t ext4 -b 4096"),
    "1k": Case(40 * MB, 300 * MB + 512, "-t ext4 -b 1024"),
    "2k": Case(40 * MB, 300 * MB + 3 * 512, "-t ext4 -b 2048"),
    "no-resize-inode": Case(64 * MB, 900 * MB, "-t ext4 -b 4096 -O ^resize_inode"),
    "no-resize-inode-1k": Case(40 * MB, 700 * MB, "-t ext4 -b 1024 -O ^resize_inode", whole=True),
    "past-the-reserve": Case(40 * MB, 500 * MB, "-t ext4 -b 1024 -E resize=200000", whole=True),
    "past-the-reserve-ext3": Case(40 * MB, 800 * MB, "-t ext3 -b 1024 -E resize=400000", whole=True),
    "meta-bg-1k": Case(40 * MB, 700 * MB, "-t ext4 -b 1024 -O ^resize_inode,meta_bg"),
    "meta-bg": Case(64 * MB, 900 * MB, "-t ext4 -b 4096 -O ^resize_inode,meta_bg"),
    "bigalloc": Case(96 * MB, 700 * MB, "-t ext4 -b 4096 -O bigalloc -C 16384", whole=True),
    "bigalloc-1k": Case(96 * MB, 300 * MB, "-t ext4 -b 1024 -O bigalloc -C 8192", whole=True),
    "32-bit": Case(64 * MB, 700 * MB, "-t ext4 -b 4096 -O ^64bit"),
    "no-flex": Case(64 * MB, 700 * MB, "-t ext4 -b 4096 -O ^flex_bg"),
    "crc16": Case(64 * MB, 700 * MB, "-t ext4 -b 4096 -O ^metadata_csum,uninit_bg"),
    "ext3": Case(64 * MB, 400 * MB, "-t ext3 -b 4096"),
    "ext3-1k": Case(40 * MB, 200 * MB, "-t ext3 -b 1024"),
    "ext2": Case(64 * MB, 400 * MB, "-t ext2 -b 4096"),
    "ext2-revision-0": Case(40 * MB, 200 * MB, "-t ext2 -r 0 -b 1024"),
    "sparse-super2": Case(96 * MB, 700 * MB, "-t ext4 -b 4096 -O sparse_super2,^resize_inode"),
    "mmp-and-more": Case(64 * MB, 700 * MB, "-t ext4 -b 4096 -O mmp,orphan_file,metadata_csum_seed"),
}  # fmt: skip

# One of each kind of critical step: a test of all would take minutes and see nothing new.
ORDERED = ("debian", "last-group-only", "no-resize-inode-1k", "past-the-reserve", "meta-bg-1k", "bigalloc",
           "crc16", "ext3-1k", "sparse-super2")  # fmt: skip


def content(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lost+found" not in path.parts
    }


def dumped(image: Path, folder: Path) -> dict[str, str]:
    """Digest of every file that debugfs reads from an image."""
    folder.mkdir()
    run(["debugfs", "-R", f"rdump / {folder}", image])
    return content(folder)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for the images: random content, several sizes, 14 MB."""
    folder, noise = tmp_path_factory.mktemp("tree"), random.Random(7)
    for number in range(60):
        place = folder / f"folder {number % 7}"
        place.mkdir(exist_ok=True)
        size = noise.choice([0, 10, 3000, 70_000, 700_000])
        (place / f"file {number}").write_bytes(noise.randbytes(size))
    return folder


def prepare(path: Path, tree: Path, case: Case) -> FileVolume:
    """Make the old file system on a volume of the new size whose other bytes are not zero."""
    with path.open("wb") as image:
        image.truncate(case.before)
    run(["mke2fs", "-q", "-F", *case.argv.split(), "-d", tree, path])
    commands = "".join(f'rm "/folder {n % 7}/file {n}"\n' for n in range(0, 60, 4))
    (path.parent / "commands").write_text(commands)
    run(["debugfs", "-w", "-f", path.parent / "commands", path])
    run(["e2fsck", "-fn", path])
    volume = FileVolume(path, writable=True)
    volume.resize(case.after)
    noise = random.Random(8).randbytes(8192)
    for at in range(case.before, case.after - 8192, 1 * MB):
        volume.write(at, noise)
    # New groups' metadata comes first, so the noise is thicker there.
    for at in range(case.before, min(case.before + 2 * MB, case.after - 8192), 8192):
        volume.write(at, noise)
    return volume


def layer_on(volume: FileVolume) -> ExtFs:
    layer = probe(volume)
    assert isinstance(layer, ExtFs)
    return layer


def is_critical(step: Step) -> bool:
    return isinstance(step, Write | Zero) and step.why.startswith("critical:")


def moved_onto(steps: Sequence[Step], volume: FileVolume) -> None:
    """Apply steps that were planned for another volume of the same content."""
    for step in steps:
        if isinstance(step, Write):
            volume.write(step.at, step.data)
        elif isinstance(step, Zero):
            apply(Zero(volume, step.at, step.size, step.why))


@pytest.mark.parametrize("name", CASES)
def test_grows_and_keeps_every_file(
    name: str, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    given: list[int] = []
    genuine = scratch.refuse_shortage

    def note(folder: Path, extents: ExtentSet, label: str) -> None:
        given.append(extents.size)
        genuine(folder, extents, label)

    monkeypatch.setattr(scratch, "refuse_shortage", note)
    volume = prepare(tmp_path / "image", tree, case)
    before = dumped(tmp_path / "image", tmp_path / "before")
    assert len(before) == 45
    fs = layer_on(volume)
    steps = fs.plan_grow()
    # All data goes into the scratch file exactly where descriptors outgrow their reserve, or with bigalloc.
    assert [size >= fs.scan.needed.size for size in given] == [case.whole]
    for step in steps:
        apply(step)
    run(["e2fsck", "-fn", volume.name])
    grown = layer_on(volume)
    assert case.after - grown.geometry.size < 8 * MB, "all but a last group without room for its own metadata"
    assert volume.size == case.after
    assert dumped(tmp_path / "image", tmp_path / "after") == before
    assert grown.plan_grow() == []
    assert grown.keep_whole() is None
    assert grown.check() == []
    assert grown.superblock.s_uuid == fs.superblock.s_uuid
    volume.close()


@pytest.mark.parametrize("name", ORDERED)
def test_order_of_steps(name: str, tmp_path: Path, tree: Path) -> None:
    """Until the first critical step the old file system stays whole; the critical ones may run twice."""
    volume = prepare(tmp_path / "image", tree, CASES[name])
    steps = layer_on(volume).plan_grow()
    first = next(number for number, step in enumerate(steps) if is_critical(step))
    assert isinstance(steps[first - 1], Flush)
    assert all(is_critical(step) or isinstance(step, Flush) for step in steps[first:])
    assert isinstance(steps[-1], Flush)
    last = steps[-2]
    assert isinstance(last, Write)
    assert (last.at, last.size) == (1024, 1024)
    assert isinstance(steps[-3], Flush)

    noise = random.Random(name)
    for cut in (noise.randrange(first + 1), first):
        moved_onto(steps[:cut], volume)
        run(["e2fsck", "-fn", volume.name])
        assert layer_on(volume).keep_whole() is None
    # A plan made from here completes it: what is left is the critical part, and the time of writing in the
    # backups of the superblock.
    again = layer_on(volume).plan_grow()
    left = [step for step in again if isinstance(step, Write | Zero) and not is_critical(step)]
    assert all(step.size == layer_on(volume).geometry.block_size for step in left)
    critical = [step for step in steps if is_critical(step)]
    moved_onto(noise.sample(critical, len(critical) // 2), volume)
    moved_onto(critical, volume)
    run(["e2fsck", "-fn", volume.name])
    assert layer_on(volume).plan_grow() == []
    volume.close()


def test_planning_writes_nothing(tmp_path: Path, tree: Path) -> None:
    volume = prepare(tmp_path / "image", tree, CASES["debian"])
    before = hashlib.sha256(volume.read(0, 200 * MB)).digest()
    layer_on(FileVolume(tmp_path / "image")).plan_grow()
    assert hashlib.sha256(volume.read(0, 200 * MB)).digest() == before
    volume.close()


def test_too_little_scratch_space_is_refused_with_the_number(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = prepare(tmp_path / "image", tree, CASES["past-the-reserve"])
    monkeypatch.setattr(scratch, "MARGIN", 1 << 60)
    with pytest.raises(Refused, match=r"scratch space in .*: expected \d+ bytes, found \d+"):
        layer_on(volume).plan_grow()
    volume.close()
