"""What BIOS and UEFI would run: every answer and its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebay.block import FileVolume, create_disk
from onebay.boot import loader
from onebay.boot.core import read_bios_core, read_efi_core, read_modules
from onebay.boot.paths import EFI_FILE, BootPart, boot_paths

GRUB = (loader.GRUB / loader.BIOS / "boot.img").is_file()
needs_grub = pytest.mark.skipif(not GRUB, reason="grub-pc-bin is not installed")


@dataclass
class Entry:
    number: int = 1
    start: int = 1 << 20
    type: str = "0x83"
    active: bool = False
    is_extended: bool = False


@dataclass
class Files:
    files: dict[str, bytes] = field(default_factory=dict)

    def read_file(self, path: str, *, limit: int = 0) -> bytes | None:
        return self.files.get(path)


@pytest.fixture
def disk(tmp_path: Path) -> FileVolume:
    return create_disk(tmp_path / "disk", 4 << 20)


def code(disk: FileVolume, text: bytes, at: int = 0) -> None:
    disk.write(at, text.ljust(510, b"\0") + b"\x55\xaa")


def bios(disk: FileVolume, *parts: BootPart) -> tuple[bool, str, str]:
    path = boot_paths(disk, parts)[0]
    assert path.firmware == "bios"
    return path.works, path.what, path.why


def uefi(disk: FileVolume, *parts: BootPart) -> tuple[bool, str, str]:
    path = boot_paths(disk, parts)[1]
    assert path.firmware == "uefi"
    return path.works, path.what, path.why


def test_zeros(disk: FileVolume) -> None:
    assert bios(disk) == (False, "nothing", "no boot signature in LBA 0")
    code(disk, b"")
    assert bios(disk) == (False, "nothing", "no boot code in LBA 0")


def test_sectors_of_4096_bytes(disk: FileVolume) -> None:
    code(disk, b"\xeb\x63GRUB ")
    disk.sector_size = 4096
    assert bios(disk) == (False, "nothing", "BIOS cannot boot from sectors of 4096 bytes")


def test_code_that_starts_the_active_partition(disk: FileVolume) -> None:
    code(disk, b"\x33\xc0Missing operating system")
    assert bios(disk, BootPart(Entry()))[2] == "no partition is active"
    active = BootPart(Entry(active=True))
    assert bios(disk, active)[2] == "partition 1 has no boot code"
    code(disk, b"This is not a bootable disk.", 1 << 20)
    assert bios(disk, active)[2] == "partition 1 has no boot code"
    code(disk, b"\xeb\x58\x90SYSLINUX", 1 << 20)
    assert bios(disk, active) == (True, "standard MBR code, then partition 1 (syslinux)", "")
    assert bios(disk, active, active)[2] == "more than one partition is active"


def test_unknown_code(disk: FileVolume) -> None:
    code(disk, b"\xfa\x31\xc0 something else")
    assert bios(disk) == (False, "unknown boot code", "cannot tell what it loads")


@needs_grub
def test_grub_that_points_nowhere(disk: FileVolume, tmp_path: Path) -> None:
    image = (loader.GRUB / loader.BIOS / "boot.img").read_bytes()
    code(disk, loader.boot_code(image, 1))
    assert bios(disk) == (False, "GRUB", "no GRUB core at sector 1, where the boot code points")
    code(disk, loader.boot_code(image, 1 << 40))
    assert bios(disk)[2] == f"boot code points at sector {1 << 40}, beyond the disk"


@needs_grub
def test_grub_follows_its_own_search(disk: FileVolume, tmp_path: Path) -> None:
    made = loader.make_loader("CAFE-1234", tmp_path)
    code(disk, loader.boot_code(made.code, 1))
    disk.write(512, loader.embedded_core(made.core, 1, 1 << 20))
    assert bios(disk)[2] == "it looks for the file system CAFE-1234, which is not on this disk"
    files = Files(dict(made.files))
    part = BootPart(Entry(4, type="0xef"), "cafe-1234", files)
    assert bios(disk, part)[2] == "/onebay/grub/grub.cfg is missing on partition 4"
    files.files["/onebay/grub/grub.cfg"] = b"#"
    assert bios(disk, part) == (True, "GRUB", "it goes on from partition 4 (CAFE-1234)")
    assert uefi(disk, part)[:2] == (True, f"GRUB, {EFI_FILE} on partition 4")
    del files.files["/onebay/grub/x86_64-efi/normal.mod"]
    assert uefi(disk, part)[0] is False
    assert bios(disk, part)[0] is True
    del files.files["/onebay/grub/i386-pc/normal.mod"]
    assert bios(disk, part)[2] == "/onebay/grub/i386-pc/normal.mod is missing on partition 4"


def pe(machine: int) -> bytes:
    head = b"MZ".ljust(60, b"\0") + (64).to_bytes(4, "little")
    return head + b"PE\0\0" + machine.to_bytes(2, "little") + bytes(200)


def test_uefi(disk: FileVolume) -> None:
    assert uefi(disk)[2] == "there is no FAT file system"
    empty = BootPart(Entry(1), fat=Files())
    assert uefi(disk, empty)[2] == f"no FAT has {EFI_FILE}"
    broken = BootPart(Entry(2), fat=Files({EFI_FILE: b"no program"}))
    assert uefi(disk, broken)[2] == "it is no program for UEFI on x86-64"
    arm = BootPart(Entry(2), fat=Files({EFI_FILE: pe(0xAA64)}))
    assert uefi(disk, arm)[0] is False
    other = BootPart(Entry(3, type="0x0c"), fat=Files({EFI_FILE: pe(0x8664)}))
    assert uefi(disk, other)[0] is True
    assert "not of type ESP" in uefi(disk, other)[2]
    esp = BootPart(Entry(4, type="0xef"), fat=Files({EFI_FILE: pe(0x8664)}))
    assert uefi(disk, other, esp) == (True, f"{EFI_FILE} on partition 4", "")


@given(st.binary(max_size=4096))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"MZ".ljust(60, b"\0") + (64).to_bytes(4, "little") + b"PE\0\0"):
        read_efi_core(start + data)
    read_bios_core(data)
    read_modules(b"mimg" + data)
