"""Partition types: their names, their MBR and GPT counterparts, and which are no data.

Sources: util-linux include/pt-mbr-partnames.h and include/pt-gpt-partnames.h (v2.38), UEFI 2.10 table 5.7,
https://uapi-group.org/specifications/specs/discoverable_partitions_specification.
"""

from __future__ import annotations

from types import MappingProxyType

ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
LINUX_FILE_SYSTEM = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
LINUX_SWAP = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
LINUX_LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
LINUX_RAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
MICROSOFT_RESERVED = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
PREP_BOOT = "9E1A2D38-C612-4316-AA26-8B49521E5A8B"

PROTECTIVE = 0xEE
EXTENDED = frozenset({0x05, 0x0F, 0x85})

NAMES = MappingProxyType(
    {
        "0x00": "empty",
        "0x01": "FAT12",
        "0x04": "FAT16 <32M",
        "0x05": "extended",
        "0x06": "FAT16",
        "0x07": "HPFS/NTFS/exFAT",
        "0x0b": "FAT32",
        "0x0c": "FAT32 (LBA)",
        "0x0e": "FAT16 (LBA)",
        "0x0f": "extended (LBA)",
        "0x27": "hidden NTFS",
        "0x82": "Linux swap",
        "0x83": "Linux",
        "0x85": "Linux extended",
        "0x8e": "Linux LVM",
        "0xa5": "FreeBSD",
        "0xda": "non-FS data",
        "0xee": "GPT",
        "0xef": "EFI System",
        "0xfd": "Linux RAID",
        ESP: "EFI System",
        BIOS_BOOT: "BIOS boot",
        LINUX_FILE_SYSTEM: "Linux filesystem",
        LINUX_SWAP: "Linux swap",
        LINUX_LVM: "Linux LVM",
        LINUX_RAID: "Linux RAID",
        BASIC_DATA: "Microsoft basic data",
        MICROSOFT_RESERVED: "Microsoft reserved",
        PREP_BOOT: "PowerPC PReP boot",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": "Linux root (x86-64)",
        "933AC7E1-2EB4-4F13-B844-0E14E2AEF915": "Linux home",
        "CA7D7CCB-63ED-4C53-861C-1742536059CC": "LUKS",
        "6A898CC3-1DD2-11B2-99A6-080020736631": "ZFS",
    }
)

# Partitions of these types never take the room behind them: their owner gave them their size.
NOT_DATA = frozenset({"0x82", "0xef", ESP, BIOS_BOOT, LINUX_SWAP, MICROSOFT_RESERVED, PREP_BOOT})

GPT_OF_MBR = MappingProxyType(
    {
        "0x01": BASIC_DATA,
        "0x04": BASIC_DATA,
        "0x06": BASIC_DATA,
        "0x07": BASIC_DATA,
        "0x0b": BASIC_DATA,
        "0x0c": BASIC_DATA,
        "0x0e": BASIC_DATA,
        "0x82": LINUX_SWAP,
        "0x83": LINUX_FILE_SYSTEM,
        "0x8e": LINUX_LVM,
        "0xef": ESP,
        "0xfd": LINUX_RAID,
    }
)


def type_name(kind: str) -> str:
    """Return what people call a partition type, "unknown" where we have no name for it."""
    return NAMES.get(kind, "unknown")
