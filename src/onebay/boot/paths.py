"""What a BIOS and what UEFI would run from a disk, and whether it would work.

Sources: boot code signatures read from grub 2.06 boot.S, syslinux 6.03 mbr/mbr.S and core/ldlinux.asm, the
strings of Windows' own MBR; UEFI 2.10, 3.5.1.1 (removable media boot path) and 13.3 (ESP).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from onebay.base.error import Error
from onebay.boot.core import Core, bios_core, pe_machine, read_bios_core, read_efi_core

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.block import Volume

SECTOR = 512
CODE_SIZE = 440
EFI_FILE = "/EFI/BOOT/BOOTX64.EFI"
EFI_AMD64 = 0x8664
MAX_EFI = 64 << 20
ESP_TYPES = frozenset(("0xef", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"))
# text in LBA 0 -> whose boot code it is; the first that fits
MASTER_CODES = (
    (b"GRUB ", "grub"),
    (b"isolinux.bin missing", "isolinux hybrid"),
    (b"Operating system load error", "syslinux mbr.bin"),
    (b"Missing operating system", "standard MBR code"),
    (b"Loading boot sector", "FreeDOS MBR code"),
)
# what parted writes with every new table (libparted 3.5, labels/dos.c): SHA-256 of all of its code, textless
PARTED_CODE = "0d0087a55200f3b6b52f32bcb39c0a267c014c4f50e90fcb95ea0039373c9d59"
PARTED = "parted's MBR code"
STARTERS = ("syslinux mbr.bin", "standard MBR code", PARTED)  # what only starts the active partition
# text in a partition's first sector -> whose boot code it is
PARTITION_CODES = (
    (b"SYSLINUX", "syslinux"),
    (b"EXTLINUX", "extlinux"),
    (b"GRUB ", "GRUB"),
    (b"BOOTMGR", "Windows"),
    (b"NTLDR", "Windows"),
)
NOT_BOOTABLE = (b"This is not a bootable disk", b"non-system disk", b"Non-System disk")


class Reader(Protocol):
    """A file system that can be looked into."""

    def read_file(self, path: str, *, limit: int = ...) -> bytes | None:
        """Return the content of a file, or None."""


class Entry(Protocol):
    """A partition as the tables describe it; `start` and `size` are bytes."""

    @property
    def number(self) -> int:
        """Number of the partition."""

    @property
    def start(self) -> int:
        """First byte."""

    @property
    def type(self) -> str:
        """0x.. or a GUID in upper case."""

    @property
    def active(self) -> bool:
        """Boot flag."""

    @property
    def is_extended(self) -> bool:
        """Whether it only holds others."""


@dataclass(frozen=True, slots=True)
class BootPath:
    """What a `firmware` ("bios" or "uefi") would run, and whether that works; `why` says why (not)."""

    firmware: str
    works: bool
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class BootPart:
    """A partition with its file system: `uuid` is the file system's, `fat` reads it where it is a FAT."""

    entry: Entry
    uuid: str = ""
    fat: Reader | None = None


def boot_paths(disk: Volume, parts: Sequence[BootPart]) -> list[BootPath]:
    """Return one answer for BIOS and one for UEFI; damage becomes a reason, not an exception."""
    out: list[BootPath] = []
    for firmware, look in (("bios", bios_path), ("uefi", uefi_path)):
        try:
            out.append(look(disk, parts))
        except Error as error:
            out.append(BootPath(firmware, False, "unreadable", str(error)))
    return out


def bios_path(disk: Volume, parts: Sequence[BootPart]) -> BootPath:
    """Say what a BIOS would run; raises the errors of reading."""
    code = disk.read(0, min(SECTOR, disk.size))
    wrong = ""
    if code[510:] != b"\x55\xaa":
        wrong = "no boot signature in LBA 0"
    elif not any(code[:CODE_SIZE]):
        wrong = "no boot code in LBA 0"
    elif disk.sector_size != SECTOR:
        wrong = f"BIOS cannot boot from sectors of {disk.sector_size} bytes"
    if wrong:
        return BootPath("bios", False, "nothing", wrong)
    whose = next((name for text, name in MASTER_CODES if text in code[:CODE_SIZE]), "")
    if whose == "grub":
        return grub_path(disk, code, parts)
    if sha256(code[:CODE_SIZE]).hexdigest() == PARTED_CODE:
        whose = PARTED
    if whose in STARTERS:
        return chain_path(disk, whose, parts)
    if whose:
        return BootPath("bios", True, whose, "")
    return BootPath("bios", False, "unknown boot code", "cannot tell what it loads")


def grub_path(disk: Volume, code: bytes, parts: Sequence[BootPart]) -> BootPath:
    """Follow GRUB's boot code to its core, and the core to what it looks for."""
    raw, wrong = bios_core(disk, code)
    if wrong:
        return BootPath("bios", False, "GRUB", wrong)
    core = read_bios_core(raw)
    if core is None:
        return BootPath("bios", False, "GRUB", "its core is damaged or of a make that cannot be looked into")
    why = lacking(core, parts, "i386-pc")
    return BootPath("bios", not why, "GRUB", why or finds(core, parts))


def lacking(core: Core, parts: Sequence[BootPart], platform: str) -> str:
    """Say what a core that searches by UUID will not find on this disk, "" for nothing.

    A core without an embedded search, or one for a file system that we cannot read, is believed.
    """
    if not core.uuid:
        return ""
    part = by_uuid(core.uuid, parts)
    if part is None:
        return f"it looks for the file system {core.uuid}, which is not on this disk"
    if part.fat is None or not core.prefix.startswith("/"):
        return ""
    for name in (f"{core.prefix}/{platform}/normal.mod", f"{core.prefix}/grub.cfg"):
        if part.fat.read_file(name, limit=MAX_EFI) is None:
            return f"{name} is missing on partition {part.entry.number}"
    return ""


def by_uuid(uuid: str, parts: Sequence[BootPart]) -> BootPart | None:
    """Find a file system by its UUID."""
    return next((part for part in parts if part.uuid and part.uuid.lower() == uuid.lower()), None)


def finds(core: Core, parts: Sequence[BootPart]) -> str:
    """Say where a core that works goes on."""
    part = by_uuid(core.uuid, parts) if core.uuid else None
    if part is not None:
        return f"it goes on from partition {part.entry.number} ({core.uuid})"
    return f"it goes on from {core.prefix}" if core.prefix else ""


def chain_path(disk: Volume, whose: str, parts: Sequence[BootPart]) -> BootPath:
    """Follow boot code that starts the active partition."""
    active = [part.entry for part in parts if part.entry.active and not part.entry.is_extended]
    if len(active) != 1:
        why = "no partition is active" if not active else "more than one partition is active"
        return BootPath("bios", False, whose, why)
    entry = active[0]
    sector = disk.read(entry.start, SECTOR)
    what = f"{whose}, then partition {entry.number}"
    if sector[510:] != b"\x55\xaa" or any(text in sector for text in NOT_BOOTABLE):
        return BootPath("bios", False, what, f"partition {entry.number} has no boot code")
    name = next((name for text, name in PARTITION_CODES if text in sector), "")
    if not name:
        return BootPath("bios", False, what, f"the boot code of partition {entry.number} is unknown")
    return BootPath("bios", True, f"{what} ({name})", "")


def uefi_path(disk: Volume, parts: Sequence[BootPart]) -> BootPath:  # noqa: ARG001
    """Say what UEFI would run from a disk that it has no entry for; raises the errors of reading.

    A FAT of another type than ESP comes after all ESPs: many firmwares take it, not all.
    """
    fats = [part for part in parts if part.fat is not None]
    ordered = sorted(fats, key=lambda part: part.entry.type not in ESP_TYPES)
    if not ordered:
        return BootPath("uefi", False, "nothing", "there is no FAT file system")
    for part in ordered:
        assert part.fat is not None
        data = part.fat.read_file(EFI_FILE, limit=MAX_EFI)
        if data is None:
            continue
        what = f"{EFI_FILE} on partition {part.entry.number}"
        if pe_machine(data) != EFI_AMD64:
            return BootPath("uefi", False, what, "it is no program for UEFI on x86-64")
        core = read_efi_core(data)
        note = (
            ""
            if part.entry.type in ESP_TYPES
            else "the partition is not of type ESP; not every UEFI looks there"
        )
        if core is None:
            return BootPath("uefi", True, what, note)
        why = lacking(core, parts, "x86_64-efi")
        return BootPath("uefi", not why, f"GRUB, {what}", why or note or finds(core, parts))
    return BootPath("uefi", False, "nothing", f"no FAT has {EFI_FILE}")
