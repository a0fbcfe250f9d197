"""What keeps a disk from getting smaller, what it would lose, and that a failure leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from badkit import FORMATS, MIB, fails, make_disk, onebay, patch, root, tool, untouched
from shrinkkit import carve, larger, partitions

from onebay.base.error import Refused
from onebay.block import locate, open_disk
from onebay.ops.shrink import cut_to, find_route
from onebay.sample.build import Sample, build_mini
from tests.story import onebay as plain


def mini(name: str, cache: Path) -> Sample:
    """A miniature of the sample appliance."""
    return build_mini(name, cache=cache)


def golden(name: str) -> bytes:
    """A golden image."""
    packed = FORMATS / f"{name}.img.zst"
    return subprocess.run(["zstd", "-dc", packed], check=True, capture_output=True).stdout


def test_a_btrfs_gets_no_smaller_than_kernels_take(cache: Path, tmp_path: Path) -> None:
    sample = mini("v8-mbr-btrfs", cache)
    out = tmp_path / "out.img"
    done = onebay("shrink", sample.data, "--output", out)
    assert "no smaller, because btrfs" in done.stderr
    size = sample.data.stat().st_size
    assert size - 5 * MIB < out.stat().st_size < size  # only the tail went
    fails(3, "shrink", sample.data, "--output", tmp_path / "no", "--to", "150M", match="cannot be so small")


def test_below_the_floor_the_layer_is_named(cache: Path, tmp_path: Path) -> None:
    data, out = mini("shr-mbr-lvm-btrfs", cache).data, tmp_path / "out.img"
    done = fails(3, "shrink", data, "--output", out, "--to", "180M", match="cannot be so small")
    assert "btrfs on vg1000/lv needs" in done.stderr
    fails(3, "shrink", data, "--output", out, "--to", "4G", match="larger than the disk")
    fails(2, "shrink", data, match="in place")
    assert not out.exists()


def test_another_volume_at_the_end_stays(cache: Path) -> None:
    """The appliance's reserved area lies before the volume: nothing may reach into it."""
    route = find_route(open_disk(mini("v9-gpt-lvm-ext4", cache).data))
    array = route.links[1].below
    sizes = [route.links[1].layer.fit(array, size) for size in range(array.size, 17 * MIB, -MIB)]
    assert all(one is not None and one[1] >= 4 * MIB for one in sizes)
    with pytest.raises(
        Refused, match=r"syno_vg_reserved_area reaches to|nothing would be left of vg1/volume_1"
    ):
        route.links[1].layer.fit(array, 12 * MIB)
    with pytest.raises(Refused, match="p3"):
        cut_to(route, 84 * MIB, 0)


@pytest.mark.parametrize("name", ["xfs/v5", "luks/luks2"])
def test_what_keeps_its_size_goes_to_exactly_its_floor(name: str, tmp_path: Path) -> None:
    """To the sector: an old disk takes back what was on it, and a disk seldom has whole MiB."""
    disk, image, back, out = (tmp_path / each for each in ("disk", "disk.raw.zst", "back", "out"))
    content = golden(name)
    sectors = len(content) // 512 + 13  # ends on no MiB
    with disk.open("xb") as file:
        file.truncate(len(content) + 300 * MIB)
    tool("sgdisk", f"--new=1:2048:{2047 + sectors}", disk)
    patch(disk, MIB, content)
    floor = (2048 + sectors + 33) * 512  # UEFI 2.10, 5.3: the backup array in 32 sectors, its header in one
    document = onebay("shrink", disk, "--dry-run", "--json").document
    assert (document["floor"], document["new_size"]) == (floor, -(-floor // MIB) * MIB)
    assert f"keeps its size of {sectors * 512} bytes" in document["floor_reason"]
    onebay("capture", disk, image)
    with untouched(tmp_path):
        for size in (floor - 512, floor - 1):
            fails(3, "restore", image, back, "--size", str(size), match=f"expected >= {floor} bytes")
            fails(3, "shrink", disk, "--output", out, "--to", str(size), match=f">= {floor} bytes")
    plain("restore", image, back, "--size", str(floor), "--verify")
    plain("shrink", disk, "--output", out)
    for smaller, size in ((back, floor), (out, document["new_size"])):
        assert smaller.stat().st_size == size
        assert "No problems found" in tool("sgdisk", "-v", smaller)
        assert partitions(smaller) == partitions(disk)
        assert "nothing to do" in onebay("grow", smaller, "--dry-run").stdout
        part = carve(smaller, tmp_path / "part")
        if name == "xfs/v5":
            tool("xfs_repair", "-n", "-f", part)
        else:
            assert part.read_bytes()[: len(content)] == content


def test_errors_in_the_file_system(tmp_path: Path) -> None:
    """Nothing is shrunk that e2fsck complains of; the disk can be captured whole all the same."""
    disk = make_disk(tmp_path / "a", size=96 * MIB)
    at = f"{disk}?offset={MIB}"
    tool("debugfs", "-w", "-R", "clri <12>", at)
    out = tmp_path / "out.img"
    with untouched(disk):
        done = fails(3, "shrink", disk, "--output", out, match="the file system has errors")
        assert "capture the disk whole" in done.stderr
        onebay("capture", disk, tmp_path / "whole.raw.zst")
        fails(3, "capture", disk, tmp_path / "no.raw.zst", "--minimize", match="has errors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "whole.raw.zst"]
    tool("debugfs", "-w", "-R", "set_super_value state 0", at)
    fails(
        3, "shrink", disk, "--output", out, match="ext4 cannot be shrunk: the file system was not unmounted"
    )


def test_what_lies_behind_a_file_system_is_not_dropped_in_silence(tmp_path: Path) -> None:
    """DRBD keeps its metadata there; a capture keeps the last 128 KiB of a partition."""
    disk, image = make_disk(tmp_path / "a", size=200 * MIB, label="gpt"), tmp_path / "disk.raw.zst"
    tool("resize2fs", carve(disk, tmp_path / "fs"), "150m")
    patch(disk, MIB, (tmp_path / "fs").read_bytes())
    end = MIB + partitions(disk)[1][1]
    patch(disk, end - 200 * 1024, b"not kept by a capture")
    assert not onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    patch(disk, end - 4096, b"\x83\x74\x02\x6b drbd")
    says = r"9 bytes in the last 128 KiB of .*p1, behind its ext4, which nothing speaks of, are left out"
    (note,) = onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    assert re.fullmatch(says, note)
    assert not onebay("shrink", disk, "--dry-run", "--to", "200M", "--json").document["notes"]
    onebay("capture", disk, image)
    with untouched(disk, image):
        for argv in (
            ("shrink", disk, "--output", tmp_path / "out.img"),
            ("capture", "--minimize", disk, tmp_path / "small.raw.zst"),
            ("restore", image, tmp_path / "target.img", "--size", "100M"),
        ):
            lines = onebay(*argv).stderr.splitlines()
            said = [number for number, line in enumerate(lines) if re.search(says, line)]
            began = [number for number, line in enumerate(lines) if line.startswith("copy file system")]
            assert said, argv
            assert said[0] < began[0], argv


def test_what_lies_behind_a_volume_group_is_not_dropped_in_silence(cache: Path, tmp_path: Path) -> None:
    """Ends of partition, array and logical volume; only behind the group's last extent is nobody's space."""
    sample = mini("v9-gpt-lvm-ext4", cache)
    assert not onebay("shrink", sample.data, "--dry-run", "--json").document["notes"]
    disk = tmp_path / "disk.img"
    shutil.copyfile(sample.data, disk)
    for volume in find_route(open_disk(disk)).volumes:
        (piece,) = locate(volume, volume.size - 512, volume.size)
        patch(disk, piece.at, b"somebody's")
    (note,) = onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    assert re.match(r"10 bytes in the last 128 KiB of .*, behind its lvm vg vg1, ", note)


@root
def test_a_full_btrfs_with_a_snapshot_stops_and_says_so(tmp_path: Path) -> None:
    """What its kernel cannot do is told with how far it came; no output is left."""
    raw, content = tmp_path / "raw.img", tmp_path / "content"
    content.mkdir()
    for number in range(30):
        (content / f"f{number}").write_bytes(os.urandom(9 * MIB))
    with raw.open("wb") as file:
        file.truncate(1024 * MIB)
    tool("mkfs.btrfs", "-q", "-r", content, raw)
    mount = tmp_path / "mount"
    mount.mkdir()
    tool("mount", "-o", "loop", raw, mount)
    try:
        tool("btrfs", "subvolume", "snapshot", "-r", mount, mount / "snapshot")
        for number in range(0, 30, 3):
            (mount / f"f{number}").write_bytes(os.urandom(9 * MIB))
    finally:
        tool("umount", mount)
    shutil.rmtree(content)
    out = tmp_path / "out.img"
    document = onebay("shrink", raw, "--dry-run", "--json").document
    assert not document["floor_exact"]
    with untouched(raw):
        done = fails(
            3, "shrink", raw, "--output", out, "--to", str(document["floor"]), match="cannot be so small"
        )
        reached = re.search(r"expected >= (\d+) bytes", done.stderr)
        assert reached
        assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]
    assert document["floor"] < int(reached[1]) < raw.stat().st_size


@root
def test_no_room_for_the_scratch_file(cache: Path, tmp_path: Path) -> None:
    small, out = tmp_path / "small", tmp_path / "out.img"
    small.mkdir()
    tool("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small)
    try:
        data = mini("v9-gpt-lvm-ext4", cache).data
        done = fails(3, "shrink", data, "--output", out, "--scratch", small, match="needs scratch space")
        assert "--scratch DIR" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        tool("umount", small)
    assert not out.exists()


def test_an_interruption_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    disk, out = larger(mini("v9-gpt-lvm-ext4", cache), tmp_path), tmp_path / "out" / "small.img"
    out.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "onebay", "shrink", disk, "--output", out],
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not list(out.parent.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "nothing was written" in told.splitlines()[-1]
    assert list(out.parent.iterdir()) == []
