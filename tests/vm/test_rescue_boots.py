"""The rescue system boots as CD, as disk and by kernel and initramfs, with little memory, or says why not."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from onebay.base import tool
from onebay.base.error import Missing
from onebay.machine import qemu
from onebay.machine.boot import firmware_files
from onebay.machine.worker import accel
from onebay.rescue.build import Choice, Rescue, build, read_lock
from onebay.rescue.lock import format_lock
from tests.vm.rescueshell import ENTER, Shell, direct, shell

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("only_with_matrix")]
OVMF = Path("/usr/share/OVMF")
DISK_SIZE = 48 << 20


def firmware(name: str, scratch: Path) -> tuple[Path, Path] | None:
    """Return OVMF as it comes, or with Microsoft's keys enrolled and Secure Boot enforced."""
    if name == "bios":
        return None
    if name == "uefi":
        return firmware_files(scratch)
    variables = scratch / "vars.fd"
    shutil.copyfile(OVMF / "OVMF_VARS_4M.ms.fd", variables)
    return OVMF / "OVMF_CODE_4M.secboot.fd", variables


def disk_with_table(folder: Path) -> Path:
    """Make a disk whose table sfdisk wrote."""
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_SIZE)
    tool.run(["sfdisk", "--quiet", disk], stdin=b"label: gpt\nname=one, size=8M\nname=two\n")
    return disk


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def look(shell: Shell) -> None:
    """The disk that holds the two partitions is read, nothing is assembled or mounted, the tools run."""
    name = shell.ask(f"lsblk -bdnro NAME,SIZE | awk '$2 == {DISK_SIZE} {{print $1}}'").strip()
    document = json.loads(shell.ask(f"onebay inspect --json /dev/{name}"))
    assert all(text in json.dumps(document) for text in ('"gpt"', '"one"', '"two"'))
    assert "does not boot" in shell.ask(f"onebay inspect /dev/{name}")
    mounts = shell.ask("cat /proc/mounts")
    assert not [line for line in mounts.splitlines() if line.startswith("/dev/") and "loop" not in line]
    assert shell.ask("ls -d /dev/md* /dev/dm-* 2>/dev/null").strip() == ""
    for program in (
        "mdadm",
        "lvm",
        "btrfs",
        "mkfs.ext4",
        "xfs_repair",
        "mkfs.fat",
        "kexec",
        "efibootmgr",
        "dropbear",
    ):
        assert "/sbin/" in shell.ask(f"command -v {program}") + shell.ask(f"ls /usr/sbin/{program}"), program
    assert (
        int(shell.ask("free -m | awk '$1 == \"Mem:\" {print $7}'")) > 60
    )  # beside the page, under Secure Boot


@pytest.mark.parametrize(
    ("kind", "bus"),
    [
        ("bios", "cd"),
        ("bios", "usb"),
        ("uefi", "cd"),
        ("uefi", "virtio"),
        ("secure", "cd"),
        ("secure", "usb"),
    ],
)
def test_medium_boots(rescue: Rescue, cache: Path, tmp_path: Path, kind: str, bus: qemu.Bus) -> None:
    disk = disk_with_table(tmp_path)
    before = digest(disk)
    drives = (qemu.Drive(rescue.iso, bus=bus, readonly=True, boot_index=1), qemu.Drive(disk))
    machine = qemu.Machine(drives, accel=accel(cache), memory_mb=256, firmware=firmware(kind, tmp_path))
    with shell(machine, tmp_path) as asked:
        look(asked)
        # efivarfs: four bytes of attributes, then the value (UEFI 2.10, 3.3: SecureBoot)
        enforced = asked.ask("tail -c 1 /sys/firmware/efi/efivars/SecureBoot-* 2>/dev/null | xxd -p").strip()
        assert enforced == {"bios": "", "uefi": "00", "secure": "01"}[kind]
    assert digest(disk) == before


def test_kernel_and_initramfs_boot(rescue: Rescue, cache: Path, tmp_path: Path) -> None:
    disk = disk_with_table(tmp_path)
    machine = replace(direct(rescue, 192, cache), drives=(qemu.Drive(disk),))
    with shell(replace(machine, memory_mb=256), tmp_path) as asked:
        look(asked)
    with shell(machine, tmp_path) as asked:
        assert "little memory" in asked.guest.output()
        assert "does not boot" in asked.ask("onebay inspect /dev/vda")


@pytest.mark.parametrize("memory_mb", [160, 128])
def test_too_little_memory_is_said(rescue: Rescue, cache: Path, tmp_path: Path, memory_mb: int) -> None:
    machine = direct(rescue, memory_mb, cache)
    with qemu.running(machine, scratch=tmp_path, serial=tmp_path / "serial.log") as guest:
        assert guest.wait("the rescue system is not whole: too little memory", 120, (ENTER, "Kernel panic"))
        assert guest.wait("no disk was touched; the machine restarts", 150)
        assert ENTER not in guest.output()


def test_damage_is_said(rescue: Rescue, cache: Path, tmp_path: Path) -> None:
    data = bytearray(rescue.initrd.read_bytes())
    data[len(data) // 2] ^= 1
    initrd = tmp_path / "initrd"
    initrd.write_bytes(data)
    machine = replace(direct(rescue, 256, cache), initrd=initrd)
    with qemu.running(machine, scratch=tmp_path, serial=tmp_path / "serial.log") as guest:
        assert guest.wait("the rescue system has damage", 120, (ENTER, "Kernel panic"))


def test_the_same_bytes_again_and_no_larger_than_promised(
    rescue: Rescue, cache: Path, tmp_path: Path
) -> None:
    again = build(tmp_path / "again", Choice(), cache=cache)
    for one, other in ((rescue.kernel, again.kernel), (rescue.initrd, again.initrd), (rescue.iso, again.iso)):
        assert digest(one) == digest(other), one.name
    assert rescue.initrd.stat().st_size <= 45 << 20
    assert rescue.iso.stat().st_size <= 75 << 20


def test_what_the_archive_no_longer_has(cache: Path, tmp_path: Path) -> None:
    lock, _ = read_lock(Choice())
    gone = replace(lock.packages[0], version="0.0.1-1", sha256="0" * 64)
    path = tmp_path / "old.lock"
    path.write_text(format_lock(replace(lock, packages=(gone, *lock.packages[1:]))))
    with pytest.raises(Missing, match=f"no longer has {gone.name} 0.0.1-1") as caught:
        build(tmp_path / "out", Choice(lock=path), cache=cache)
    assert caught.value.volume == str(path)
    assert not (tmp_path / "out").exists()
