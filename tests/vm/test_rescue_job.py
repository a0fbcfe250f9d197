"""The rescue system from the network: by iPXE, by UEFI with shim and GRUB; a restore with nobody there."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from onebay.base import tool
from onebay.machine import qemu
from onebay.machine.boot import firmware_files
from onebay.machine.worker import accel
from onebay.rescue.build import Rescue

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("only_with_matrix")]
ONEBAY = (sys.executable, "-m", "onebay")
UP = "press Enter for a shell"
HOST = "10.0.2.2"  # how a guest calls the host's loopback
OVMF = Path("/usr/share/OVMF")
MIB = 1 << 20
SIZE, LARGER = 96 * MIB, 160 * MIB


def onebay(*argv: str | Path) -> str:
    done = subprocess.run(
        [*ONEBAY, *map(str, argv)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def serving(rescue: Rescue, *more: str | Path) -> Iterator[int]:
    """Run `rescue serve` on a port that is free."""
    argv = [*ONEBAY, "rescue", "serve", rescue.folder, "--listen", "127.0.0.1:0", *more]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.search(r":(\d+)/boot\.ipxe", process.stdout.readline())
        assert match
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield int(match[1])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


class Hook(ThreadingHTTPServer):
    """Takes what a webhook sends."""

    daemon_threads = True

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        told = self.told

        class Taking(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

        super().__init__(("127.0.0.1", 0), Taking)
        self.url = f"http://{HOST}:{self.server_port}/hook"
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


@dataclass
class Disk:
    """A disk with a table and an ext4 on it, its image, its digest, and what a restore of it makes."""

    image: Path
    digest: str
    restored: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    folder = tmp_path_factory.mktemp("made")
    disk, files, part = folder / "disk.img", folder / "files", folder / "part.img"
    files.mkdir()
    (files / "photo").write_bytes(random.Random(5).randbytes(30 * MIB))
    with part.open("wb") as file:
        file.truncate(SIZE - 4 * MIB)
    tool.run(["mke2fs", "-q", "-t", "ext4", "-d", files, part])
    with disk.open("wb") as file:
        file.truncate(SIZE)
    tool.run(["sfdisk", "--quiet", disk], stdin=b"label: gpt\nstart=2M, size=92M\n")
    with disk.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(part.read_bytes())
    done = json.loads(onebay("capture", disk, folder / "nas.raw.zst", "--json"))
    onebay("restore", folder / "nas.raw.zst", folder / "restored.img", "--size", f"{LARGER // MIB}M")
    return Disk(folder / "nas.raw.zst", f"sha256:{done['root']}", folder / "restored.img")


def full_disk(path: Path) -> Path:
    """A disk full of what was there before."""
    path.write_bytes(b"\xa5" * LARGER)
    return path


def unattended(
    rescue: Rescue, cache: Path, scratch: Path, disks: list[Path], *more: str | Path
) -> list[dict[str, Any]]:
    """Boot by iPXE, with a job for whoever boots; returns what the webhook was told.

    The last of it gets "off", whether the machine went off by itself within a minute.
    """
    with Hook() as hook, serving(rescue, *more, "--then", "poweroff", "--webhook", hook.url) as port:
        wanted = qemu.Machine(
            tuple(qemu.Drive(disk) for disk in disks),
            accel=accel(cache),
            memory_mb=256,
            online=True,
            offers=f"http://{HOST}:{port}/boot.ipxe",
        )
        with qemu.running(wanted, scratch=scratch, serial=scratch / "serial.log") as guest:
            assert guest.wait("onebay: checking", 300, ("Kernel panic",)), guest.output()[-3000:]
            deadline = time.monotonic() + 600
            while not hook.told or hook.told[-1]["phase"] not in ("done", "failed"):
                assert time.monotonic() < deadline, guest.output()[-3000:]
                time.sleep(0.5)
            hook.told[-1]["off"] = guest.off(60)
        return hook.told


def phases(told: list[dict[str, Any]]) -> list[str]:
    """Return what the webhook was told, less how far it was: a slow machine has time to say that."""
    return [each["phase"] for each in told if each["phase"] != "progress"]


def test_unattended_by_ipxe(rescue: Rescue, made: Disk, cache: Path, tmp_path: Path) -> None:
    """An image goes to a larger disk that was full of something, and the machine goes off."""
    disk = full_disk(tmp_path / "target.img")
    job = ["--images", made.image.parent, "--restore", made.image.name, "--target", "only"]
    told = unattended(rescue, cache, tmp_path, [disk], *job)
    assert phases(told) == ["started", "done"]
    assert told[-1]["off"]
    assert told[-1]["job"]["digest"] == made.digest
    same_as_on_the_host(disk, made, tmp_path)


def same_as_on_the_host(disk: Path, made: Disk, scratch: Path) -> None:
    """By the field's own tools: table, file system, size and files are those of a restore on the host.

    To the byte they are not: resize2fs leaves the time of day, and flags that another release does not.
    """
    found, wanted = (looked_at(path, scratch) for path in (disk, made.restored))
    assert found == wanted
    assert int(found.partition("Block count:")[2].split()[0]) > SIZE // 1024


def looked_at(disk: Path, scratch: Path) -> str:
    """Return what sfdisk, dumpe2fs and a digest of the file say of a disk."""
    tool.run(["sgdisk", "--verify", disk])
    table = tool.run(["sfdisk", "--dump", disk]).text.replace(str(disk), "")
    size = int(table.partition("size=")[2].partition(",")[0]) * 512
    part = scratch / "looked-at.img"
    with disk.open("rb") as file:
        file.seek(2 * MIB)
        part.write_bytes(file.read(size))
    tool.run(["e2fsck", "-fn", part])
    tool.run(["debugfs", "-R", f"dump photo {scratch / 'photo'}", part])
    kept = ("UUID", "Block count", "Free blocks", "Inode count", "features")
    lines = tool.run(["dumpe2fs", "-h", part]).text.splitlines()
    told = [line for line in lines if any(word in line.partition(":")[0] for word in kept)]
    digest = hashlib.sha256((scratch / "photo").read_bytes()).hexdigest()
    return "\n".join([table, *told, digest])


def test_a_wrong_digest_writes_nothing(rescue: Rescue, made: Disk, cache: Path, tmp_path: Path) -> None:
    disk = full_disk(tmp_path / "target.img")
    with serving(rescue, "--images", made.image.parent) as port:
        image = f"http://{HOST}:{port}/images/{made.image.name}"
        job = ["--restore", image, "--target", "only", "--digest", f"sha256:{1:064x}"]
        told = unattended(rescue, cache, tmp_path, [disk], *job)
    assert phases(told) == ["started", "failed"]
    assert "is not the image that was asked for" in told[-1]["error"]
    assert told[-1]["error"].endswith("nothing was written")
    assert not told[-1]["off"]
    assert disk.read_bytes() == b"\xa5" * LARGER


def test_two_disks_stop_it(rescue: Rescue, made: Disk, cache: Path, tmp_path: Path) -> None:
    disks = [full_disk(tmp_path / name) for name in ("one.img", "two.img")]
    job = ["--images", made.image.parent, "--restore", made.image.name, "--target", "size:100M-1G"]
    told = unattended(rescue, cache, tmp_path, disks, *job)
    assert phases(told) == ["failed"]
    assert all(name in told[-1]["error"] for name in ("/dev/vda", "/dev/vdb"))
    assert not told[-1]["off"]
    for disk in disks:
        assert disk.read_bytes() == b"\xa5" * LARGER


@pytest.mark.parametrize("kind", ["uefi", "secure"])
def test_uefi_by_shim_and_grub(rescue: Rescue, cache: Path, tmp_path: Path, kind: str) -> None:
    """The firmware's own PXE: the folder of a build is the root of a TFTP server."""
    firmware = firmware_files(tmp_path)
    if kind == "secure":
        shutil.copyfile(OVMF / "OVMF_VARS_4M.ms.fd", firmware[1])
        firmware = (OVMF / "OVMF_CODE_4M.secboot.fd", firmware[1])
    wanted = qemu.Machine(
        (),
        accel=accel(cache),
        memory_mb=512,
        online=True,
        firmware=firmware,
        offers="shimx64.efi",
        tftp=rescue.folder,
    )
    with qemu.running(wanted, scratch=tmp_path, serial=tmp_path / "serial.log") as guest:
        assert guest.wait(UP, 900, ("Kernel panic",)), guest.output()[-3000:]
