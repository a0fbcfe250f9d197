"""Targets in use, disks that fill up, and being stopped: nothing is lost, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import foldkit
import pytest
from badkit import (
    MIB,
    ONEBAY,
    Done,
    attached,
    blank,
    checked,
    digest,
    fails,
    failure,
    make_disk,
    onebay,
    patch,
    root,
    tool,
    untouched,
)

MARK = b"onebay: this restore is not complete"
INCOMPLETE = "is incomplete and cannot boot; the same command run again goes on"
REMOVED = "^nothing was written to the disk; the unfinished image was removed"
SIZE, CONTENT = 64 * MIB, 50 * MIB


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sound disk and its image, which no test may change."""
    folder = tmp_path_factory.mktemp("sound")
    disk = make_disk(folder, size=SIZE, random=CONTENT)
    onebay("capture", disk, folder / "image.raw.zst")
    with untouched(folder):
        yield folder


@contextmanager
def mounted(what: str | Path, point: Path, *options: str) -> Iterator[Path]:
    """Something mounted on a new folder."""
    point.mkdir()
    tool("mount", *options, what, point)
    try:
        yield point
    finally:
        tool("umount", point)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A loop device over a sparse file that is large enough for the image."""
    with attached(blank(tmp_path / "backing", 320 * MIB), "--partscan") as device:
        yield device


def refused_everywhere(device: Path, sound: Path, folder: Path, match: str) -> None:
    """Check that nobody writes to the device, nor reads what changes meanwhile."""
    with device.open("rb") as disk:
        before = disk.read(100)  # where a restore begins; the rest may change by the mount alone
    image = sound / "image.raw.zst"
    fails(3, "restore", image, device, "--yes", match=match)
    fails(3, "restore", image, device, "--yes", "--dry-run", match=match)
    fails(3, "grow", device, "--yes", match=match)
    fails(3, "fold", "--boot", sound / "disk.img", "--data", device, "--in-place", "--yes", match=match)
    for boot, data in ((sound / "disk.img", device), (device, sound / "disk.img")):
        fails(3, "fold", "--boot", boot, "--data", data, "--output", folder / "x.img", match=match)
    fails(3, "capture", device, folder / "x.raw.zst", match=match)
    fails(3, "kit", device, folder / "x.kit", match=match)
    assert not (folder / "x.kit").exists()
    assert not [*folder.glob("*x.raw.zst*"), *folder.glob("x.img")]
    with device.open("rb") as disk:
        assert disk.read(100) == before


# In use


@root
@pytest.mark.parametrize("kind", ["ext4", "btrfs", "xfs"])
def test_mounted(kind: str, loop: Path, sound: Path, tmp_path: Path) -> None:
    """A btrfs is mounted under a device number of its own."""
    tool(f"mkfs.{kind}", "-q", loop)
    with mounted(loop, tmp_path / "mnt"):
        refused_everywhere(loop, sound, tmp_path, "mounted")
    onebay("capture", loop, tmp_path / "x.raw.zst")


@root
@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_partition_of_it_is_mounted(kind: str, loop: Path, sound: Path, tmp_path: Path) -> None:
    tool("sfdisk", "-q", loop, stdin="label: gpt\nsize=300MiB\n")
    tool("partx", "--update", loop)
    part = Path(f"{loop}p1")
    if not part.exists():
        pytest.skip("no device nodes for partitions of loop devices here")
    tool(f"mkfs.{kind}", "-q", part)
    with mounted(part, tmp_path / "mnt"):
        refused_everywhere(loop, sound, tmp_path, "mounted")


@root
def test_mounted_where_we_cannot_see_it(loop: Path, sound: Path, tmp_path: Path) -> None:
    """In the mount namespace of another process."""
    tool("mke2fs", "-q", "-t", "ext4", loop)
    point = tmp_path / "mnt"
    point.mkdir()
    script = f"mount '{loop}' '{point}' && echo ready && read -r end"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert "ext4" not in tool("findmnt", "--noheadings", loop, ok=(0, 1))
        refused_everywhere(loop, sound, tmp_path, "mounted")
        other.communicate("\n")


@root
def test_file_behind_a_mounted_loop_device(loop: Path, sound: Path, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    tool("mkfs.btrfs", "-q", loop)
    fails(3, "restore", sound / "image.raw.zst", backing, "--yes", match=f"attached to {loop}")
    with mounted(loop, tmp_path / "mnt"):
        fails(3, "restore", sound / "image.raw.zst", backing, "--yes", match=f"attached to {loop}")
        fails(3, "capture", backing, tmp_path / "x.raw.zst", match=f"attached to {loop}, mounted")
    onebay("capture", backing, tmp_path / "x.raw.zst")


@root
def test_used_as_swap(loop: Path, sound: Path, tmp_path: Path) -> None:
    loop.chmod(0o600)
    tool("mkswap", loop)
    tool("swapon", loop)
    try:
        refused_everywhere(loop, sound, tmp_path, "swap")
    finally:
        tool("swapoff", loop)


@root
def test_swap_file(sound: Path, tmp_path: Path) -> None:
    swap = tmp_path / "swapfile"
    swap.write_bytes(bytes(80 * MIB))
    swap.chmod(0o600)
    tool("mkswap", swap)
    try:
        tool("swapon", swap)
    except AssertionError:
        pytest.skip("no swap files on this file system")
    try:
        with untouched(swap):
            fails(3, "restore", sound / "image.raw.zst", swap, "--yes", match="swap")
            fails(3, "grow", swap, match="swap")
    finally:
        tool("swapoff", swap)


@root
def test_held_by_another_loop_device(loop: Path, sound: Path, tmp_path: Path) -> None:
    with attached(loop) as upper:
        fails(3, "restore", sound / "image.raw.zst", loop, "--yes", match=f"attached to {upper}")
        onebay("capture", loop, tmp_path / "idle.raw.zst")
        tool("mkfs.btrfs", "-q", upper)
        with mounted(upper, tmp_path / "mnt"):
            refused_everywhere(loop, sound, tmp_path, f"attached to {upper}")


@root
def test_held_by_device_mapper(loop: Path, sound: Path, tmp_path: Path) -> None:
    if not Path("/dev/mapper/control").exists() or "linear" not in tool("dmsetup", "targets", ok=(0, 1)):
        pytest.skip("this kernel has no device-mapper")
    tool("dmsetup", "create", "onebay-test", "--table", f"0 2048 linear {loop} 0")
    try:
        refused_everywhere(loop, sound, tmp_path, "held by dm-")
    finally:
        tool("dmsetup", "remove", "onebay-test")


@root
def test_device_needs_a_word(loop: Path, sound: Path, tmp_path: Path) -> None:
    with untouched(tmp_path / "backing"):
        fails(3, "restore", sound / "image.raw.zst", loop, match="needs --yes or its name typed")
        fails(3, "restore", "-", loop, stdin=sound / "image.raw.zst", match="needs --yes")
        argv = ("restore", sound / "image.raw.zst", loop, "--yes", "--size")
        fails(3, *argv, "400M", match="cannot be resized")
        fails(3, *argv, "64M", match="larger than --size")
    onebay("restore", sound / "image.raw.zst", loop, "--yes", "--verify")


# No space left


@root
def test_no_space_for_a_restore(sound: Path, tmp_path: Path) -> None:
    """Told with the state; with more space, the same command completes."""
    image = sound / "image.raw.zst"
    with mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=10m") as small:
        target = small / "disk.img"
        done = fails(3, "restore", image, target, "--no-grow", state=INCOMPLETE, match="no space left")
        assert str(target) in done.stderr
        unbootable(target)
        tool("mount", "-o", "remount,size=96m", small)
        assert onebay("restore", image, target, "--no-grow", "--json").document["resumed"]
        assert digest(target) == digest(sound / "disk.img")


@root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_no_space_for_a_capture(kind: str, sound: Path, tmp_path: Path) -> None:
    if kind == "tmpfs":
        place = mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=4m")
    else:
        backing = blank(tmp_path / "backing", 12 * MIB)
        tool("mke2fs", "-q", "-t", "ext4", backing)
        place = mounted(backing, tmp_path / "small", "-o", "loop")
    with place as small:
        old = small / "image.raw.zst"
        old.write_bytes(b"the only image so far")
        with untouched(old):
            fails(3, "capture", sound / "disk.img", old, "--yes", match="no space left", state=REMOVED)
        assert {path.name for path in small.iterdir()} <= {"image.raw.zst", "lost+found"}


@root
def test_a_disk_that_takes_no_more(sound: Path, tmp_path: Path) -> None:
    """A loop device over a file that has no room: writes fail late, at a flush."""
    with (
        mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=10m") as small,
        attached(blank(small / "backing", 64 * MIB)) as device,
    ):
        argv = ("restore", sound / "image.raw.zst", device, "--yes", "--verify")
        fails(3, *argv, match="write failed|no space left", state=INCOMPLETE)
        unbootable(device)


@root
def test_no_space_for_a_fold(tmp_path: Path) -> None:
    """Neither for the copy nor for the scratch files."""
    boot = foldkit.boot_disk(tmp_path, foldkit.files())
    data = foldkit.data_disk(tmp_path, "v8-mbr")
    with mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=3m") as small, untouched(boot):
        argv = ("fold", "--boot", str(boot), "--data", str(data))
        before = data.stat()
        fails(3, *argv, "--output", small / "out.img", match="no space left", state="^nothing was written")
        environment = {**os.environ, "TMPDIR": str(small)}
        ended = subprocess.run(
            [*ONEBAY, *argv, "--in-place"], capture_output=True, text=True, check=False, env=environment
        )
        assert ended.returncode in (3, 8), ended
        failure(checked(Done(argv, ended.returncode, ended.stdout, ended.stderr), ended.returncode))
        assert not list(small.iterdir())
        assert data.stat().st_mtime_ns == before.st_mtime_ns
        assert data.stat().st_size == before.st_size


def test_a_fold_that_is_cut_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    """Killed while it copies: a hidden file stays; the same command makes the whole one beside it."""
    boot = foldkit.boot_disk(tmp_path, foldkit.files())
    data = foldkit.data_disk(tmp_path, "v8-mbr")
    out = tmp_path / "out" / "folded.img"
    out.parent.mkdir()
    argv = ("fold", "--boot", str(boot), "--data", str(data), "--output", str(out))
    with subprocess.Popen([*ONEBAY, *argv], stderr=subprocess.DEVNULL) as process:
        while not (made := list(out.parent.iterdir())):
            assert process.poll() is None, "it ended before it began"
            time.sleep(0.002)
        process.kill()
    assert [path.name for path in made] != [out.name]
    assert not out.exists()
    onebay(*argv)
    left = [path.name for path in out.parent.iterdir() if path != out]
    assert all(name.startswith(".folded.img.") and name.endswith(".part") for name in left)
    assert len(left) == 1
    fails(3, *argv, match="exists already")


def test_file_larger_than_files_can_be(sound: Path, tmp_path: Path) -> None:
    image, target = sound / "image.raw.zst", tmp_path / "target"
    fails(3, "restore", image, target, "--size", "8388607T")
    assert not target.exists()
    blank(target, 80 * MIB)
    with untouched(target):
        fails(3, "restore", image, target, "--size", "8388607T")


# Stopped


def unbootable(disk: Path) -> None:
    """Check that neither a firmware nor the field's tools take the disk for a whole one."""
    with disk.open("rb") as file:
        head = file.read(512)
    assert head.startswith(MARK)
    assert head[510:] != b"\x55\xaa"
    assert "does not contain" in tool("sfdisk", "--dump", disk, ok=(0, 1))
    assert tool("blkid", "--probe", disk, ok=(0, 2)) == ""


every_signal = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)


class Half:
    """A restore from a pipe that got its first 32 MiB of disk, and waits for the rest."""

    def __init__(self, sound: Path, target: Path, *options: str) -> None:
        self.data = (sound / "image.raw.zst").read_bytes()
        self.argv = [*ONEBAY, "restore", "-", str(target), "--no-grow", "--events", *options]
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin is not None
        self.stdin: IO[bytes] = self.process.stdin
        assert self.process.stderr is not None
        self.stderr: IO[bytes] = self.process.stderr

    def feed(self) -> None:
        """Give it more than one group of frames, and wait until some of them are on the target."""
        self.stdin.write(self.data[: len(self.data) * 4 // 5])
        self.stdin.flush()
        for line in self.stderr:
            event = json.loads(line)
            if event["event"] == "moved" and event["done"] > 4 * MIB:
                return
        raise AssertionError("the restore ended early")

    def ended(self) -> Done:
        """Wait for its end."""
        _, rest = self.process.communicate(timeout=60)
        text = "\n".join(line for line in rest.decode().splitlines() if not line.startswith("{"))
        return Done(tuple(self.argv), self.process.returncode, "", text)


def test_killed_in_the_middle_of_a_restore(sound: Path, tmp_path: Path) -> None:
    """Over a disk that was whole before; the same command completes, and compares what is there."""
    target = tmp_path / "disk.img"
    target.write_bytes((sound / "disk.img").read_bytes())
    patch(target, 8 * MIB, b"\xaa" * (24 * MIB))
    half = Half(sound, target, "--yes")
    half.feed()
    half.process.kill()
    assert half.ended().status == -signal.SIGKILL
    unbootable(target)
    done = onebay("restore", "-", target, "--no-grow", "--json", stdin=sound / "image.raw.zst").document
    assert done["resumed"]
    assert 0 < done["written"] < CONTENT - 2 * MIB
    assert digest(target) == digest(sound / "disk.img")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_interrupted_restore(number: signal.Signals, sound: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk.img"
    half = Half(sound, target)
    half.feed()
    half.process.send_signal(number)
    half.process.send_signal(signal.SIGTERM)  # twice is once
    done = checked(half.ended(), 130)
    failure(done, "interrupted", INCOMPLETE)
    unbootable(target)
    assert onebay("restore", sound / "image.raw.zst", target, "--no-grow", "--json").document["resumed"]
    assert digest(target) == digest(sound / "disk.img")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_interrupted_capture(number: signal.Signals, sound: Path, tmp_path: Path) -> None:
    """No image is left, nor the file that would have become one."""
    argv = [
        *ONEBAY,
        "capture",
        str(sound / "disk.img"),
        str(tmp_path / "x.raw.zst"),
        "--level",
        "19",
        "--events",
    ]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["event"] == "moved":
                break
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    text = "\n".join(line for line in rest.decode().splitlines() if not line.startswith("{"))
    failure(checked(Done(tuple(argv), process.returncode, "", text), 130), "interrupted", REMOVED)
    assert not list(tmp_path.iterdir())


def test_interrupted_while_it_waits(tmp_path: Path) -> None:
    """For an image that does not come."""
    argv = [*ONEBAY, "restore", "-", str(tmp_path / "target")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"\x28\xb5\x2f\xfd")
        process.stdin.flush()
        wait_until(lambda: reading(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        text = process.stderr.read().decode()
    failure(checked(Done(tuple(argv), process.returncode, "", text), 130), "interrupted")
    assert not list(tmp_path.iterdir())


def reading(pid: int) -> bool:
    """Whether a process waits in a read of standard input, its signals handled already."""
    call = Path(f"/proc/{pid}/syscall").read_text().split()
    return call[:2] == ["0", "0x0"]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait at most half a minute."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to it")
