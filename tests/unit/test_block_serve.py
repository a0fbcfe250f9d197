"""What we serve over NBD is what qemu-img and our own client read, holes and all."""

from __future__ import annotations

import json
import random
import socket
import subprocess
from pathlib import Path

import pytest

from onebay.base.error import Damaged, ToolFailed, Truncated
from onebay.block import FileVolume, create_disk, serving
from onebay.block.nbd import NbdVolume, connect

KIB, MIB = 1 << 10, 1 << 20
SIZE = 160 * MIB + 512
PIECES = 1200  # more than one answer tells of


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse file of many pieces, the last sector among them."""
    path = tmp_path_factory.mktemp("serve") / "disk.raw"
    volume = create_disk(path, SIZE)
    rng = random.Random(5)
    for number in range(PIECES):
        volume.write(number * 128 * KIB, rng.randbytes(64 * KIB))
    volume.write(SIZE - 512, rng.randbytes(512))
    volume.close()
    return path


def test_qemu_reads_it(disk: Path, tmp_path: Path) -> None:
    where, out = tmp_path / "nbd", tmp_path / "out.qcow2"
    node = {"driver": "nbd", "server": {"type": "unix", "path": str(where)}}
    source = f"json:{json.dumps({'driver': 'raw', 'file': node})}"
    moved: list[int] = []
    with serving(FileVolume(disk), where, moved.append):
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", source, out], check=True)
        told = subprocess.run(
            ["qemu-img", "map", "--output=json", source], stdout=subprocess.PIPE, check=True
        )
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", disk, out], check=True)
    assert sum(entry["data"] for entry in json.loads(told.stdout)) == PIECES + 1
    assert max(moved) == SIZE


def test_our_client_reads_it(disk: Path, tmp_path: Path) -> None:
    own = FileVolume(disk)
    with serving(FileVolume(disk), tmp_path / "nbd", lambda _: None):
        volume = NbdVolume("disk", connect(str(tmp_path / "nbd")))
        assert volume.size == SIZE
        assert list(volume.data(0, SIZE)) == list(own.data(0, SIZE))
        assert list(volume.data(5 * KIB, 300 * KIB)) == list(own.data(5 * KIB, 300 * KIB))
        assert volume.read(0, SIZE) == own.read(0, SIZE)
        rng = random.Random(6)
        for _ in range(50):
            at = rng.randrange(SIZE)
            size = rng.randrange(min(9 * MIB, SIZE - at) + 1)
            assert volume.read(at, size) == own.read(at, size)
        with pytest.raises(Truncated):
            volume.read(SIZE - 1, 2)
        volume.close()


def test_a_disk_that_fails(disk: Path, tmp_path: Path) -> None:
    """The client hears of an error, and the server raises its cause at the end."""
    broken = FileVolume(disk)
    broken.size += MIB  # as if the file had become shorter
    with (  # noqa: PT012 - it is raised at the end of the inner block
        pytest.raises(Truncated, match="became shorter"),
        serving(broken, tmp_path / "nbd", lambda _: None),
    ):
        volume = NbdVolume("disk", connect(str(tmp_path / "nbd")))
        with pytest.raises(Damaged, match="input/output error"):
            volume.read(SIZE, 512)
        assert volume.read(0, 512) == FileVolume(disk).read(0, 512)
        volume.close()


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 200 OK", b"NBDMAGIC" * 4, b"NBDMAGICIHAVEOPT\0\3" + b"x" * 99]
)
def test_what_is_no_server(greeting: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(greeting)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ToolFailed, match="the program that serves the disk"):
        NbdVolume("disk", ours)
    ours.close()
    theirs.close()
