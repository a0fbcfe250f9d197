"""The sample is installed by its own installer: from a read-only boot disk, from an ISO, by a browser.

Quick: the installer itself, given a medium that cannot be written, and packages that it must not take. The
rest with --matrix, for unpacking a system takes minutes where the machine is emulated.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onebay.base.error import Damaged, ToolFailed
from onebay.machine import qemu
from onebay.machine.install import free_port
from onebay.machine.worker import accel
from onebay.sample.build import Sample, build
from onebay.sample.page import GUEST_PORT, INSTALLER, Page
from onebay.sample.payload import VERSION, payload
from tests.story import inspect, onebay
from tests.vm.bootiso import make_iso

pytestmark = pytest.mark.vm

LAYOUT = "v8-mbr-btrfs"
PATIENCE = 1800
VERDICT = "ONEBAY-MANIFEST OK"


@pytest.fixture(scope="module")
def sample(cache: Path) -> Sample:
    return build(LAYOUT, cache=cache)


@pytest.fixture(scope="module")
def iso(sample: Sample, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_iso(sample, tmp_path_factory.mktemp("iso"), cache)


def package(folder: Path, name: str, *, model: str = VERSION, damage: bool = False) -> Path:
    """Make a package that is whole and carries no system."""
    files = {"VERSION": model.encode(), "zImage": b"kernel\n", "rd.gz": b"ramdisk\n", "hda1.tgz": b"system\n"}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    files["SHA256SUMS"] = sums.encode()
    if damage:
        files["rd.gz"] = b"RAMDISK\n"
    with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name_, data in files.items():
            member = tarfile.TarInfo(name_)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return folder / name


@contextmanager
def given_directly(iso: Path, folder: Path, cache: Path) -> Iterator[Page]:
    """A machine that starts from the ISO itself and has an empty disk; its page, once that answers."""
    data = folder / "data.img"
    with data.open("wb") as file:
        file.truncate(12 << 30)
    port = free_port()
    machine = qemu.Machine(
        (qemu.Drive(iso, bus="usb", readonly=True, boot_index=1), qemu.Drive(data)),
        accel=accel(cache),
        forwards=((port, GUEST_PORT),),
    )
    with qemu.running(machine, scratch=folder, serial=folder / "serial.log") as guest:
        assert guest.wait("nas: the installer is ready", 300), guest.output()[-2000:]
        yield Page(port)


def test_installer_and_a_medium_that_cannot_be_written(iso: Path, tmp_path: Path, cache: Path) -> None:
    """Error 13, as the real one says; and packages that it must not take. Nothing reaches the data disk."""
    other = package(tmp_path, "other.pat", model=VERSION.replace("onebay_sample", "another"))
    bad = package(tmp_path, "bad.pat", damage=True)
    whole = package(tmp_path, "whole.pat")
    nothing = tmp_path / "nothing.pat"
    nothing.write_bytes(os.urandom(5000))
    with given_directly(iso, tmp_path, cache) as page:
        assert page.title() == INSTALLER
        for path, text in (
            (other, "another model: another_nas, not onebay_sample_nas"),
            (bad, "the checksum of rd.gz is wrong"),
            (nothing, "this is no package"),
        ):
            with pytest.raises(Damaged, match=text):
                page.upload(path)
        with pytest.raises(ToolFailed, match=r"the file is probably corrupt \(13\): .*cannot be written"):
            page.upload(whole)
    assert (tmp_path / "data.img").stat().st_blocks == 0


def matrix(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")


def installed(boot: Path, folder: Path, cache: Path, *options: str | Path) -> Path:
    """Install by one command, unattended; the disk boots alone under both firmwares, says the command."""
    disk = folder / "nas.img"
    before = boot.read_bytes()
    done = onebay(
        "install", "--boot", boot, "--size", "12G", "--output", disk, "--payload", payload(cache),
        "--volume", "basic-btrfs", "--expect", VERDICT, "--cache", cache, *options,
    )  # fmt: skip
    assert boot.read_bytes() == before
    assert not disk.with_name("nas.img.install").exists()
    assert done.stderr.count(f"boot: done {VERDICT}") == 2
    for line in ("MBR", "a system is installed", "p3:md: btrfs"):
        assert f"data disk: {line}" in done.stderr, done.stderr
    found = inspect(disk)
    assert {path["firmware"]: path["works"] for path in found["boot"]} == {"bios": True, "uefi": True}
    assert not [finding for finding in found["findings"] if finding["severity"] != "note"]
    return disk


def test_one_command(sample: Sample, tmp_path: Path, cache: Path, request: pytest.FixtureRequest) -> None:
    """From boot disk and package to an image of one disk that boots by itself."""
    matrix(request)
    boot, image = tmp_path / "boot.img", tmp_path / "nas.raw.zst"
    boot.write_bytes(sample.boot.read_bytes())
    boot.chmod(0o444)
    disk = installed(boot, tmp_path, cache, "--capture", image)
    onebay("verify", image, "--against", disk)


def test_read_only_iso(iso: Path, tmp_path: Path, cache: Path, request: pytest.FixtureRequest) -> None:
    """The ISO that gives error 13 when it is given directly."""
    matrix(request)
    installed(iso, tmp_path, cache, "--data-bus", "virtio")
