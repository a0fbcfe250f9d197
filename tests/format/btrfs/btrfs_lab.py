"""A bench for btrfs: make file systems with the real tools, use them, copy used bytes, let the kernel judge.

Mounting needs root and a kernel with btrfs and loop devices; `needs_root` skips with the reason otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from onebay.base import tool
from onebay.block import FileVolume
from onebay.fs.btrfs import BtrfsFs, probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.extent import ExtentSet

MIB = 1 << 20
HERE = Path(__file__).parent


def unpack(case: str, folder: Path) -> Path:
    """Unpack a golden image, sparse."""
    path = folder / f"{case}.img"
    with path.open("xb") as out, (HERE / f"{case}.img.zst").open("rb") as packed:
        size = 0
        for chunk in zstandard.ZstdDecompressor().read_to_iter(packed, write_size=MIB):
            for at in range(0, len(chunk) if chunk.strip(b"\0") else 0, 4096):
                block = chunk[at : at + 4096]
                if block.strip(b"\0"):
                    out.seek(size + at)
                    out.write(block)
            size += len(chunk)
        out.truncate(size)
    return path


def why_not() -> str | None:
    """Say why this machine cannot mount a btrfs image, or None where it can."""
    if os.geteuid() != 0:
        return "needs root to mount"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    if "btrfs" not in Path("/proc/filesystems").read_text():
        return "this kernel has no btrfs"
    return None


needs_root = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
needs_tools = pytest.mark.skipif(tool.find("btrfs") is None, reason="btrfs-progs is not installed")


def mkfs(path: Path, size: int, *options: str) -> None:
    """Make a file system of `size` bytes in a new sparse file."""
    with path.open("xb") as file:
        file.truncate(size)
    tool.run(["mkfs.btrfs", "-q", *options, path])


@contextlib.contextmanager
def mounted(image: Path, where: Path, options: str = "") -> Iterator[Path]:
    """Mount an image for a while."""
    where.mkdir(exist_ok=True)
    tool.run(["mount", "-t", "btrfs", "-o", f"loop,{options}".rstrip(","), image, where])
    try:
        yield where
    finally:
        tool.run(["umount", where])


def fill(root: Path, seed: int = 1, scale: int = 1) -> None:
    """Use a mounted file system in every way that leaves another kind of extent."""
    rng = random.Random(seed)
    tool.run(["btrfs", "subvolume", "create", root / "sub"])
    for folder in (root / "a", root / "sub" / "b"):
        folder.mkdir()
        for number in range(60 * scale):
            (folder / f"{number}-{'long' * (number % 40)}").write_bytes(
                rng.randbytes(rng.choice((0, 3, 900, 5000, 70_000)))
            )
    zip_me = root / "sub" / "compressed"
    zip_me.touch()
    tool.run(["btrfs", "property", "set", zip_me, "compression", "zstd"])
    zip_me.write_bytes(b"compress me " * 200_000)
    with (root / "prealloc").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 3 * MIB)
        file.seek(MIB)
        file.write(rng.randbytes(10_000))
    with (root / "holes").open("wb") as file:
        for at in (0, 5 * MIB, 9 * MIB + 12345):
            file.seek(at)
            file.write(rng.randbytes(3000))
    (root / "big").write_bytes(rng.randbytes(8 * MIB))
    tool.run(["cp", "--reflink=always", root / "big", root / "clone"])
    with (root / "clone").open("r+b") as file:  # half of an extent shared, half not
        file.seek(3 * MIB + 4096)
        file.write(rng.randbytes(100_000))
    os.sync()
    tool.run(["btrfs", "subvolume", "snapshot", "-r", root / "sub", root / "snap"])
    for path in sorted((root / "sub" / "b").iterdir())[::3]:
        path.unlink()
    os.setxattr(root / "big", "user.note", b"x" * 300)
    (root / "hard").hardlink_to(root / "big")


def dirty(root: Path, count: int = 12) -> None:
    """Leave random bytes in free space: files written, synced, and deleted."""
    for number in range(count):
        (root / f"dirt{number}").write_bytes(os.urandom(MIB))
    os.sync()
    for number in range(count):
        if number % 4:
            (root / f"dirt{number}").unlink()
    os.sync()


def manifest(root: Path) -> dict[str, tuple[int, int, str]]:
    """Return mode, size and digest of everything below a folder, without following mounts of subvolumes."""
    found = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (stat.st_mode, stat.st_size if digest else 0, digest)
    return found


def load(image: Path, *, writable: bool = False) -> BtrfsFs:
    """Open and probe an image that must be a good btrfs."""
    found = probe(FileVolume(image, writable=writable))
    assert isinstance(found, BtrfsFs), found
    return found


def close(fs: BtrfsFs) -> None:
    """Close the file below."""
    volume = fs.below[0]
    assert isinstance(volume, FileVolume)
    volume.close()


def clone(source: Path, target: Path) -> None:
    """Copy an image, holes as holes."""
    tool.run(["cp", "--sparse=always", source, target])


def copy_used(source: Path, target: Path) -> ExtentSet:
    """Copy only the used bytes of a good btrfs into a file full of random bytes."""
    fs = load(source)
    assert fs.keep_whole() is None
    (used,) = fs.used()
    assert fs.keep_whole() is None, fs.keep_whole()
    noise = os.urandom(MIB)
    volume = fs.below[0]
    with target.open("xb") as out:
        for at in range(0, volume.size, MIB):
            out.write(noise[: min(MIB, volume.size - at)])
        for start, end in used:
            for at in range(start, end, 16 * MIB):
                out.seek(at)
                out.write(volume.read(at, min(16 * MIB, end - at)))
    close(fs)
    return used


def check(image: Path) -> str:
    """Run btrfs check with data checksums; raises ToolFailed where it finds anything."""
    result = tool.run(["btrfs", "check", "--readonly", "--check-data-csum", image])
    text = (result.stdout + result.stderr).decode()
    assert "no error found" in text, text
    assert "ERROR" not in text, text
    return text


def scrub(where: Path) -> None:
    """Let the kernel verify every copy of every block of a mounted file system."""
    text = tool.run(["btrfs", "scrub", "start", "-B", where]).text
    assert "no errors found" in text, text


def dump(tree: str, *images: Path) -> str:
    """Return a tree of the file system on these devices as btrfs-progs reads it."""
    return tool.run(["btrfs", "inspect-internal", "dump-tree", "--noscan", "-t", tree, *images]).text


def used_by_progs(image: Path) -> list[tuple[int, int]]:
    """Compute used bytes of a file system on one device."""
    (ranges,) = used_on_devices(image).values()
    return ranges


def used_on_devices(*images: Path) -> dict[int, list[tuple[int, int]]]:
    """Compute used bytes by devid from what btrfs-progs prints: extents through the stripes of their chunks.

    The devices are below 256 GiB, and those of one file system.
    """
    chunks: list[tuple[int, int, list[tuple[int, int]]]] = []
    found: dict[int, list[tuple[int, int]]] = {}
    for line in dump("chunk", *images).splitlines():
        if match := re.search(r"key \(FIRST_CHUNK_TREE CHUNK_ITEM (\d+)\)", line):
            chunks.append((int(match[1]), 0, []))
        elif match := re.search(r"^\s+length (\d+) owner", line):
            chunks[-1] = (chunks[-1][0], int(match[1]), chunks[-1][2])
        elif match := re.search(r"stripe \d+ devid (\d+) offset (\d+)", line):
            chunks[-1][2].append((int(match[1]), int(match[2])))
        elif match := re.search(r"^\s+devid (\d+) total_bytes (\d+)", line):
            mirror = [(64 * MIB, 64 * MIB + 4096)] if int(match[2]) > 64 * MIB + 4096 else []
            found[int(match[1])] = [(0, MIB), *mirror]
    text = tool.run(["btrfs", "inspect-internal", "dump-super", images[0]]).text
    sizes = re.search(r"^nodesize\s+(\d+)", text, re.MULTILINE)
    assert sizes is not None
    for match in re.finditer(r"key \((\d+) (EXTENT|METADATA)_ITEM (\d+)\)", dump("extent", *images)):
        start = int(match[1])
        size = int(match[3]) if match[2] == "EXTENT" else int(sizes[1])
        logical, _, places = next(chunk for chunk in chunks if chunk[0] <= start < chunk[0] + chunk[1])
        for devid, place in places:
            found[devid].append((place + start - logical, place + start - logical + size))
    return found


@contextlib.contextmanager
def loops(disk: Path, parts: list[tuple[int, int]]) -> Iterator[list[Path]]:
    """Attach parts (byte, size) of a disk as loop devices, which the kernel's btrfs forgets afterwards."""
    devices: list[Path] = []
    try:
        for start, size in parts:
            argv = ["losetup", "--find", "--show", "--offset", str(start), "--sizelimit", str(size), disk]
            devices.append(Path(tool.run(argv).text.strip()))
        yield devices
    finally:
        tool.run(["btrfs", "device", "scan", "--forget"], ok=(0, 1))
        for device in devices:
            tool.run(["losetup", "--detach", device])


@contextlib.contextmanager
def mounted_devices(devices: list[Path], where: Path, options: str = "") -> Iterator[Path]:
    """Mount the file system on these devices, and no others, for a while."""
    where.mkdir(exist_ok=True)
    tool.run(["btrfs", "device", "scan", "--forget"], ok=(0, 1))
    listed = ",".join([*(f"device={device}" for device in devices), *filter(None, [options])])
    tool.run(["mount", "-t", "btrfs", "-o", listed, devices[0], where])
    try:
        yield where
    finally:
        tool.run(["umount", where])
