"""Disks in use are refused before anything is written: mounted, swap, attached to a loop device."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from onebay.base.error import Denied, Refused
from onebay.block import open_disk

root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and mounts need root")


def tool(*argv: str | Path) -> str:
    return subprocess.run(
        [str(arg) for arg in argv], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A loop device over a 16 MiB image."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    device = tool("losetup", "--show", "--find", image)
    yield Path(device)
    tool("losetup", "--detach", device)


@root
def test_mounted(loop: Path, tmp_path: Path) -> None:
    tool("mke2fs", "-q", "-t", "ext4", loop)
    point = tmp_path / "mnt"
    point.mkdir()
    tool("mount", loop, point)
    try:
        with pytest.raises(Refused, match=f"mounted on {point}"):
            open_disk(loop, writable=True)
        reading = open_disk(loop)
        assert reading.size == 16 << 20  # looking is allowed
        reading.close()
    finally:
        tool("umount", point)
    open_disk(loop, writable=True).close()


@root
def test_swap(loop: Path) -> None:
    loop.chmod(0o600)
    tool("mkswap", loop)
    tool("swapon", loop)
    try:
        with pytest.raises(Refused, match="used as swap"):
            open_disk(loop, writable=True)
    finally:
        tool("swapoff", loop)


@root
def test_file_behind_a_loop_device(loop: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"attached to {loop}"):
        open_disk(tmp_path / "disk.img", writable=True)


@root
def test_read_only_device(loop: Path) -> None:
    tool("blockdev", "--setro", loop)
    try:
        with pytest.raises(Refused, match="read-only"):
            open_disk(loop, writable=True)
        disk = open_disk(loop)  # the safest source there is, and no reason not to read it
        assert disk.busy() is None
        disk.close()
    finally:
        tool("blockdev", "--setrw", loop)  # a loop device remembers it for its next owner


@root
def test_somebody_else_has_it_exclusively(loop: Path) -> None:
    fd = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(Refused, match="in use"):
            open_disk(loop, writable=True)
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    path.chmod(0)
    with pytest.raises(Denied):
        open_disk(path)
