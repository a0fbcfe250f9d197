"""Whole disks with a btrfs on several partitions: captured, restored, and mounted from each of them alone."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import btrfs_lab as lab
import pytest

from onebay.base import tool
from onebay.base.extent import ExtentSet
from onebay.block import create_disk, open_disk
from onebay.fs.btrfs import BtrfsPool
from onebay.ops.identity import signs_in, signs_of
from onebay.ops.need import needed
from onebay.ops.partuuid import References
from onebay.table import Table
from onebay.tree import discover
from tests.story import onebay

if TYPE_CHECKING:
    from pathlib import Path

MIB = lab.MIB
Files = dict[str, tuple[int, int, str]]
PARTS = [(1 * MIB, 160 * MIB), (161 * MIB, 288 * MIB)]  # (byte, size)
DISK = 456 * MIB
NOISE = b"\xee" * MIB


def make_disk(path: Path, parts: list[tuple[int, int]], size: int, kind: str = "gpt") -> None:
    """Make a disk with these partitions and nothing in them."""
    with path.open("xb") as file:
        file.truncate(size)
    lines = [f"label: {kind}", *(f"start={start // 512}, size={length // 512}" for start, length in parts)]
    tool.run(["sfdisk", "--quiet", path], stdin="\n".join(lines).encode())


def put(disk: Path, parts: list[tuple[int, int]], cases: list[str], folder: Path) -> None:
    """Fill partitions with golden images."""
    for (start, _), case in zip(parts, cases, strict=True):
        image = folder / f"{case}.img"
        if not image.exists():
            lab.unpack(case, folder)
        with disk.open("r+b") as out, image.open("rb") as source:
            out.seek(start)
            shutil.copyfileobj(source, out, MIB)


def kept(disk: Path) -> ExtentSet:
    """Return what a capture of the disk holds."""
    return needed(discover([open_disk(disk)]), ends=True)


def pool_of(disk: Path) -> BtrfsPool:
    (fs,) = discover([open_disk(disk)]).of_kind("btrfs")
    assert isinstance(fs, BtrfsPool)
    return fs


def node_on(document: dict[str, Any], number: int) -> dict[str, Any]:
    """Return what inspect says of a partition."""
    parts = document["tree"]["parts"]
    return next(dict(part["node"]) for part in parts if part["label"] == f"p{number}")


@pytest.fixture
def mirrored(tmp_path: Path) -> tuple[Path, Files]:
    """A disk with a used RAID1, where all is noise that a capture does not keep; its files."""
    used, disk = tmp_path / "used.img", tmp_path / "disk.img"
    make_disk(used, PARTS, DISK)
    with lab.loops(used, PARTS) as devices:
        tool.run(["mkfs.btrfs", "-q", "-f", "-d", "raid1", "-m", "raid1", *devices])
        with lab.mounted_devices(devices, tmp_path / "mnt") as root:
            lab.fill(root)
            lab.dirty(root)
            files = lab.manifest(root)
        want = {devid: ExtentSet.of(found) for devid, found in lab.used_on_devices(*devices).items()}
    assert dict(zip((1, 2), pool_of(used).used(), strict=True)) == want
    keep = kept(used)
    base = open_disk(used)
    target = create_disk(disk, DISK)
    for at in range(0, DISK, MIB):
        block = bytearray(NOISE)
        for start, end in keep.clip(at, at + MIB):
            block[start - at : end - at] = base.read(start, end - start)
        target.write(at, block)
    target.close()
    used.unlink()
    return disk, files


def judge(disk: Path, parts: list[tuple[int, int]], where: Path, files: Files) -> None:
    """Let btrfs check and the kernel look at both devices, and the kernel at each of them alone."""
    with lab.loops(disk, parts) as devices:
        text = tool.run(["btrfs", "check", "--readonly", "--check-data-csum", devices[0]])
        said = (text.stdout + text.stderr).decode()
        assert "no error found" in said, said
        assert "ERROR" not in said, said
        with lab.mounted_devices(devices, where) as root:
            assert lab.manifest(root) == files
            lab.scrub(root)
    for part in parts:
        with lab.loops(disk, [part]) as devices:
            with pytest.raises(tool.ToolFailed), lab.mounted_devices(devices, where, "ro"):
                pass
            with lab.mounted_devices(devices, where, "ro,degraded") as root:
                assert lab.manifest(root) == files


@lab.needs_root
@lab.needs_tools
def test_capture_keeps_what_each_device_needs(mirrored: tuple[Path, Files], tmp_path: Path) -> None:
    disk, files = mirrored
    judge(disk, PARTS, tmp_path / "mnt", files)
    used = sum(extents.size for extents in pool_of(disk).used())
    inside = sum(kept(disk).clip(start, start + size).size for start, size in PARTS)
    # and both ends of each partition, where superblocks of a former owner of the target might be
    assert used <= inside <= used + len(PARTS) * MIB < sum(size for _, size in PARTS) // 2

    image, same = tmp_path / "disk.raw.zst", tmp_path / "same.img"
    onebay("capture", disk, image)
    same.write_bytes(NOISE * (DISK // MIB))
    onebay("restore", image, same, "--no-grow", "--yes")
    judge(same, PARTS, tmp_path / "mnt", files)
    same.unlink()

    larger = tmp_path / "larger.img"
    done = onebay("restore", image, larger, "--size", str(DISK + 200 * MIB))
    assert "btrfs filesystem resize 2:max" in done.stdout + done.stderr
    fs = pool_of(larger)
    assert [volume.size for volume in fs.below] >= [160 * MIB, 488 * MIB]
    assert [fs.item(device).total_bytes for device in fs.devices] == [size for _, size in PARTS]
    onebay("verify", image, "--against", larger)
    judge(larger, [PARTS[0], (PARTS[1][0], fs.below[1].size)], tmp_path / "mnt", files)
    larger.unlink()

    smaller = tmp_path / "smaller.img"
    onebay("shrink", disk, "--output", smaller)
    assert PARTS[1][0] + PARTS[1][1] < smaller.stat().st_size < DISK
    judge(smaller, PARTS, tmp_path / "mnt", files)


GOLDEN = [(MIB, 160 * MIB), (161 * MIB, 224 * MIB), (385 * MIB, 160 * MIB)]


def test_inspect_shows_the_devices(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    make_disk(disk, GOLDEN[:2], 386 * MIB)
    put(disk, GOLDEN[:2], ["mirror.1", "mirror.3"], tmp_path)
    document = json.loads(onebay("inspect", disk, "--json").stdout)
    first, second = node_on(document, 1), node_on(document, 2)
    assert (first["state"], second["state"]) == ("known", "member")
    assert first["title"] == second["title"] == "btrfs of 2 devices"
    assert [each["devid"] for each in first["facts"]["members"]] == [1, 3]
    assert document["findings"] == []
    signs = signs_in(document)
    assert sorted(sign.value for sign in signs if sign.what == "btrfs device UUID") == sorted(
        each["device_uuid"] for each in first["facts"]["members"]
    )
    assert signs == signs_of(discover([open_disk(disk)]))


@pytest.mark.parametrize(
    ("cases", "kind", "text"),
    [
        (["mirror.1"], "kept-whole", "1 of 2 devices on this disk: devid 1"),
        (["mirror.1", "mirror.3", "mirror.1"], "btrfs-damaged", "both claim to be device 1"),
    ],
    ids=["missing", "twice"],
)
def test_what_does_not_fit_together_is_all_kept(
    cases: list[str], kind: str, text: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    parts = GOLDEN[: len(cases)]
    make_disk(disk, parts, 550 * MIB)
    put(disk, parts, cases, tmp_path)
    tree = discover([open_disk(disk)])
    found = [finding for finding in tree.all_findings() if finding.kind == kind]
    assert len(found) == 1
    assert text in found[0].text
    keep = kept(disk)
    assert all(keep.covers(start, start + size) for start, size in parts)


def test_growing_stops_at_the_partition(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    make_disk(disk, GOLDEN[:2], 386 * MIB)
    put(disk, GOLDEN[:2], ["mirror.1", "mirror.3"], tmp_path)
    before = [*pool_of(disk).used()]
    with disk.open("r+b") as file:
        file.truncate(600 * MIB)
    done = onebay("grow", disk)
    assert "a btrfs of 2 devices keeps its sizes" in done.stdout + done.stderr
    assert "btrfs filesystem resize 3:max" in done.stdout + done.stderr
    disk_now = open_disk(disk)
    table = discover([disk_now]).on(disk_now)
    assert isinstance(table, Table)
    assert table.data_partition is not None
    assert table.data_partition.end > 590 * MIB
    assert [*pool_of(disk).used()] == before


@pytest.mark.parametrize("last", [0, 1], ids=["the smaller one last", "the larger one last"])
def test_shrinking_leaves_the_devices_as_they_are(last: int, tmp_path: Path) -> None:
    cases = ["mirror.1", "mirror.3"] if last else ["mirror.3", "mirror.1"]
    parts = [(MIB, 224 * MIB), (225 * MIB, 160 * MIB)]
    if last:
        parts = GOLDEN[:2]
    disk, smaller = tmp_path / "disk.img", tmp_path / "smaller.img"
    make_disk(disk, parts, 600 * MIB)
    put(disk, parts, cases, tmp_path)
    onebay("shrink", disk, "--output", smaller)
    assert 385 * MIB < smaller.stat().st_size < 390 * MIB
    fs = pool_of(smaller)
    assert [finding for finding in fs.check() if finding.severity != "note"] == []
    sizes = {str(volume.name).removeprefix(str(smaller)): volume.size for volume in fs.below}
    assert sizes == {":p1": parts[0][1], ":p2": parts[1][1]}
    assert fs.used() == pool_of(disk).used()


@lab.needs_root
@lab.needs_tools
def test_devices_that_were_used_apart(tmp_path: Path) -> None:
    """Each holds what the other has not, and the kernel let both commit as often."""
    disk = tmp_path / "disk.img"
    make_disk(disk, GOLDEN[:2], 386 * MIB)
    put(disk, GOLDEN[:2], ["mirror.1", "mirror.3"], tmp_path)
    reasons = []
    for number, part in enumerate(GOLDEN[:2]):
        with (
            lab.loops(disk, [part]) as devices,
            lab.mounted_devices(devices, tmp_path / "mnt", "degraded") as root,
        ):
            (root / f"only-{number}").write_bytes(b"x" * (number + 1) * 10_000)
        fs = pool_of(disk)
        reasons.append(fs.keep_whole() or "")
        assert fs.used() == tuple(ExtentSet.single(0, size) for _, size in GOLDEN[:2])
        keep = kept(disk)
        assert all(keep.covers(start, start + size) for start, size in GOLDEN[:2])
    assert "different generations" in reasons[0]
    assert "differ" in reasons[1]


@pytest.mark.parametrize("which", [0, 1])
def test_a_name_of_a_partition_is_found_on_any_device(which: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    make_disk(disk, GOLDEN[:2], 386 * MIB, "dos")
    put(disk, GOLDEN[:2], ["mirror.1", "mirror.3"], tmp_path)
    volume = open_disk(disk, writable=True)
    tree = discover([volume])
    table = tree.on(volume)
    assert isinstance(table, Table)
    assert References(tree, table).found == []
    fs = pool_of(disk)
    at = max(fs.used()[which], key=lambda extent: extent.size).start + 100  # data, which has other checksums
    volume.write(GOLDEN[which][0] + at, f"root=PARTUUID={table.identity.lower()}-02".encode())
    found = References(tree, table).found
    assert [each.name for each, _ in found] == [fs.below[which].name]
