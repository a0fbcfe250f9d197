"""A journal on a device of its own, against what dumpe2fs says, judged by e2fsck and the kernel."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from onebay.base.error import ToolFailed, Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.step import apply
from onebay.base.tool import find, run
from onebay.block import FileVolume, open_disk
from onebay.boot.extimage import ExtImage
from onebay.fs.ext import ExtFs, ExtJournal, probe
from onebay.fs.ext.journal import JOURNAL
from onebay.ops.need import needed
from onebay.tree import discover
from tests.story import onebay

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "journal" / "expected.json").read_text())
MIB = 1 << 20
NAMES = ("device", "fs", "mounted-device", "mounted-fs")
needs_tools = pytest.mark.skipif(find("e2fsck") is None, reason="e2fsprogs is not installed")


def why_not() -> str | None:
    """Say why this machine cannot mount an ext4 with loop devices, or None where it can."""
    if os.geteuid() != 0:
        return "needs root to mount"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    return None if "ext4" in Path("/proc/filesystems").read_text() else "this kernel has no ext4"


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """The golden images, for writing."""
    found = {}
    for name in NAMES:
        packed = (HERE / "journal" / f"{name}.img.zst").read_bytes()
        found[name] = tmp_path / f"{name}.img"
        found[name].write_bytes(
            zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj().decompress(packed)
        )
    return found


def file_system(path: Path) -> ExtFs:
    layer = probe(FileVolume(path, writable=True))
    assert isinstance(layer, ExtFs)
    return layer


def journal(path: Path) -> ExtJournal:
    layer = probe(FileVolume(path, writable=True))
    assert isinstance(layer, ExtJournal)
    return layer


def text(image: Path) -> bytes:
    """Return a file's content as debugfs reads it."""
    return run(["debugfs", "-R", "cat /file-60", image]).stdout


WANT = "".join(f"{number}\n" for number in range(1, 5001)).encode()[:42_000]


def disk_of(path: Path, contents: list[Path], tail: int = 4 * MIB) -> list[tuple[int, int]]:
    """Make a GPT disk with an image in each partition; returns (byte, size) of these."""
    parts, at = [], MIB
    for image in contents:
        parts.append((at, image.stat().st_size))
        at += image.stat().st_size
    with path.open("xb") as file:
        file.truncate(at + tail)
    lines = ["label: gpt", *(f"start={start // 512}, size={size // 512}" for start, size in parts)]
    run(["sfdisk", "--quiet", path], stdin="\n".join(lines).encode())
    with path.open("r+b") as file:
        for (start, _), image in zip(parts, contents, strict=True):
            file.seek(start)
            file.write(image.read_bytes())
    return parts


def test_the_record_is_the_kernels() -> None:
    """As the comments of struct journal_superblock_s have it."""
    for field, at in {"s_blocksize": 0x0C, "s_start": 0x1C, "s_uuid": 0x30, "s_nr_users": 0x40}.items():
        assert JOURNAL.offset(field) == at, field
    assert JOURNAL.offset("s_users") == 0x100


@pytest.mark.parametrize("name", ["device", "mounted-device"])
def test_the_journal_is_named_with_its_users(name: str, images: dict[str, Path]) -> None:
    layer, want = journal(images[name]), EXPECTED["device"]
    facts = layer.facts()
    assert (facts["uuid"], facts["label"], facts["users"]) == (want["uuid"], want["label"], want["users"])
    assert facts["size"] == want["blocks"] * 4096
    assert facts["needs_recovery"] is (name == "mounted-device")
    assert layer.title == "ext journal"
    assert layer.used() == (ExtentSet.single(0, layer.below[0].size),)
    assert layer.check() == []


def test_a_damaged_journal_is_told_and_kept(images: dict[str, Path]) -> None:
    layer = journal(images["device"])
    layer.below[0].write(4096, b"\0")
    layer = journal(images["device"])
    (finding,) = layer.check()
    assert (finding.kind, finding.severity, finding.at) == ("journal-damaged", "damage", 4096)
    assert layer.used() == (ExtentSet.single(0, layer.below[0].size),)
    with images["device"].open("r+b") as file:
        file.truncate(4096)
    assert [finding.kind for finding in journal(images["device"]).check()] == ["journal-damaged"]


def test_more_users_than_there_is_room_for(images: dict[str, Path]) -> None:
    layer = journal(images["device"])
    layer.below[0].write(4096 + JOURNAL.offset("s_nr_users"), b"\xff" * 4)
    users = journal(images["device"]).facts()["users"]
    assert isinstance(users, list)
    assert len(users) == 48


def test_a_clean_file_system_is_mapped(images: dict[str, Path]) -> None:
    fs, want = file_system(images["fs"]), EXPECTED["fs"]
    facts = fs.facts()
    assert (facts["journal"], facts["journal_uuid"]) == ("external", want["journal_uuid"])
    assert facts["journal_uuid"] == EXPECTED["device"]["uuid"]
    assert [facts["uuid"]] == EXPECTED["device"]["users"]
    size = want["block_size"]
    free = [part.partition("-") for part in want["free"]]
    taken = ExtentSet.single(0, want["blocks"] * size) - ExtentSet.of(
        (int(first) * size, (int(last or first) + 1) * size) for first, _, last in free
    )
    assert fs.keep_whole() is None
    assert fs.scan.allocated == taken
    assert fs.check() == []
    assert fs.used()[0].size < fs.volume.size // 2


def test_one_that_needs_its_journal_is_kept_whole(images: dict[str, Path]) -> None:
    fs = file_system(images["mounted-fs"])
    assert fs.keep_whole() == "the journal needs recovery"
    assert fs.used() == (ExtentSet.single(0, fs.volume.size),)
    with pytest.raises(Unsupported):
        fs.plan_grow()


@needs_tools
def test_what_is_not_used_may_become_anything(images: dict[str, Path]) -> None:
    fs = file_system(images["fs"])
    for start, end in ExtentSet.single(0, fs.volume.size) - fs.used()[0]:
        fs.volume.write(start, b"\xee" * (end - start))
    run(["e2fsck", "-fn", "-j", images["device"], images["fs"]])
    assert text(images["fs"]) == WANT


@needs_tools
def test_growing_needs_no_journal(images: dict[str, Path]) -> None:
    with images["fs"].open("r+b") as file:
        file.seek(0, 2)
        file.write(b"\xa5" * (160 * MIB))
    before = hashlib.sha256(images["device"].read_bytes()).digest()
    for step in file_system(images["fs"]).plan_grow():
        apply(step)
    run(["e2fsck", "-fn", "-j", images["device"], images["fs"]])
    fs = file_system(images["fs"])
    assert fs.facts()["size"] == 200 * MIB
    assert fs.plan_grow() == []
    assert (fs.keep_whole(), text(images["fs"])) == (None, WANT)
    assert hashlib.sha256(images["device"].read_bytes()).digest() == before


@needs_tools
def test_growing_that_moves_data_is_refused(tmp_path: Path) -> None:
    """e2fsck would look for the journal among the devices of this machine, and write to it."""
    path = tmp_path / "bigalloc.img"
    with path.open("xb") as file:
        file.truncate(48 * MIB)
    run(["mke2fs", "-q", "-t", "ext4", "-O", "bigalloc", "-J", "size=4", path])
    for change in (
        "ssv journal_inum 0",
        "ssv journal_dev 0x801",
        f"ssv journal_uuid {EXPECTED['device']['uuid']}",
    ):
        run(["debugfs", "-w", "-R", change, path])
    with path.open("r+b") as file:
        file.truncate(200 * MIB)
    fs = file_system(path)
    assert fs.keep_whole() is None
    with pytest.raises(Unsupported, match="the journal is on another device"):
        fs.plan_grow()
    assert fs.floor() == 48 * MIB


@pytest.mark.parametrize(
    ("contents", "kinds"),
    [
        (["device", "fs"], []),
        (["fs", "device"], []),
        (["fs"], ["journal-elsewhere"]),
        (["device", "device", "fs"], ["journal-twice"]),
        (["mounted-device", "mounted-fs"], ["needs-recovery"]),
        (["device"], []),
    ],
    ids="+".join,
)
def test_the_journal_is_looked_for_on_the_disk(
    contents: list[str], kinds: list[str], images: dict[str, Path], tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    parts = disk_of(disk, [images[name] for name in contents])
    tree = discover([open_disk(disk)])
    found = [finding for finding in tree.all_findings() if finding.kind != "growth-blocked"]
    assert [finding.kind for finding in found] == kinds
    assert {finding.severity for finding in found} <= {"warning"}
    keep = needed(tree)
    for name, (start, size) in zip(contents, parts, strict=True):
        assert keep.covers(start, start + size) is (name != "fs"), name


def test_shrinking_leaves_its_size(images: dict[str, Path], tmp_path: Path) -> None:
    disk, smaller = tmp_path / "disk.img", tmp_path / "smaller.img"
    parts = disk_of(disk, [images["device"], images["fs"]], tail=100 * MIB)
    onebay("shrink", disk, "--output", smaller)
    end = parts[-1][0] + parts[-1][1]
    assert end < smaller.stat().st_size <= end + 2 * MIB
    (fs,) = discover([open_disk(smaller)]).of_kind("ext")
    assert fs.facts()["size"] == 40 * MIB


@contextlib.contextmanager
def loops(disk: Path, parts: list[tuple[int, int]]) -> Iterator[list[str]]:
    """Attach partitions as loop devices."""
    devices: list[str] = []
    try:
        for start, size in parts:
            argv = ["losetup", "--find", "--show", "--offset", str(start), "--sizelimit", str(size), disk]
            devices.append(run(argv).text.strip())
        yield devices
    finally:
        for device in devices:
            run(["losetup", "--detach", device])


@needs_tools
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_the_kernel_mounts_what_was_restored_and_grown(images: dict[str, Path], tmp_path: Path) -> None:
    disk, image, target, mnt = (tmp_path / name for name in ("disk.img", "i.raw.zst", "target.img", "mnt"))
    parts = disk_of(disk, [images["device"], images["fs"]])
    onebay("capture", disk, image)
    target.write_bytes(b"\xee" * (MIB * 300))
    onebay("restore", image, target, "--yes")
    (fs,) = discover([open_disk(target)]).of_kind("ext")
    size = fs.facts()["size"]
    assert isinstance(size, int)
    assert size > 200 * MIB
    mnt.mkdir()
    with loops(target, [parts[0], (parts[1][0], fs.below[0].size)]) as (device, grown):
        run(["e2fsck", "-fn", "-j", device, grown])
        # the number of the device in the superblock is that of another machine
        run(["mount", "-o", f"journal_path={device}", grown, mnt])
        try:
            assert (mnt / "file-60").read_bytes() == WANT
            (mnt / "new").write_bytes(b"\x5a" * (150 * MIB))
        finally:
            run(["umount", mnt])
        run(["e2fsck", "-fn", "-j", device, grown])
    onebay("verify", image)


@needs_tools
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_mending_never_finds_a_journal_of_this_machine(images: dict[str, Path], tmp_path: Path) -> None:
    """By its UUID e2fsck finds it, replays it, and marks it empty: of a disk that nobody named."""
    device = images["mounted-device"]
    before = device.read_bytes()
    with loops(device, [(0, device.stat().st_size)]):
        with pytest.raises(ToolFailed, match="status 12"):
            ExtImage(images["mounted-fs"], tmp_path).mend()
        with pytest.raises(ToolFailed, match="status 12"):
            ExtImage(images["fs"], tmp_path).verify()
    assert device.read_bytes() == before
