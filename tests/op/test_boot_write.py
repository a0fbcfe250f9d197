"""`onebay boot --write`: a machine gets only a disk that nobody else has and that is whole."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from onebay.base.step import Write
from onebay.block import FileVolume
from onebay.ops.journal import Journal
from tests.story import onebay

SIZE = 8 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def refused(disk: Path, text: str, *options: str, status: int = 3) -> None:
    """Booting fails before any machine is made, and says that nothing was written."""
    before = disk.stat().st_mtime_ns
    said = onebay("boot", disk, "--write", *options, status=status).stderr
    assert text in said
    assert "nothing was written" in said
    assert disk.stat().st_mtime_ns == before


def test_an_interrupted_change_comes_first(disk: Path) -> None:
    with closing(FileVolume(disk, writable=True)) as volume:
        Journal(volume).commit([Write(volume, 0, bytes(range(256)) * 2, "critical: test")])
    refused(disk, "a change of the disk was interrupted")


def test_a_container_is_no_disk(disk: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"], check=True)
    refused(disk, "qcow2", status=4)


def test_another_program_of_ours_has_it(disk: Path) -> None:
    with disk.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(disk, "another program is writing to it")


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_a_file_behind_a_loop_device(disk: Path) -> None:
    argv = ["losetup", "--show", "--find", str(disk)]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        refused(disk, f"attached to {device}")
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("text", ["5000", "0:5000", "5000:65536", "a:b", "1:2:3", ":", "-1:5"])
def test_ports_that_are_none(disk: Path, text: str) -> None:
    assert "no pair of ports" in onebay("boot", disk, f"--forward={text}", status=2).stderr


@pytest.mark.parametrize("options", [(), ("--expect", "nothing", "--write")])
def test_a_port_that_is_taken(disk: Path, options: tuple[str, ...]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = onebay("boot", disk, "--forward", f"{port}:5000", *options, status=8).stderr
    assert "Could not set up host forwarding rule" in said
