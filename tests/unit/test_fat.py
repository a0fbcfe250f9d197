"""Pure parts of FAT: records, entries of 12 bits, long names, the table of partitions in a boot sector."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebay.fs.fat.directory import checksum, parse_directory
from onebay.fs.fat.geometry import Geometry, parse_geometry, partition_table_in
from onebay.fs.fat.record import BOOT_SECTOR, DIR_ENTRY, FS_INFO, SLOT_ENTRY, TAIL16, TAIL32
from onebay.fs.fat.table import decode

# Six bytes of a FAT12 as in ECMA-107, 6.4.3: entries 0xff8, 0xfff, 0x003, 0x004
TWELVE = bytes.fromhex("f8ffff034000")


@pytest.mark.parametrize("layout", [BOOT_SECTOR, TAIL16, TAIL32, FS_INFO, DIR_ENTRY, SLOT_ENTRY])
def test_records_keep_every_byte(layout) -> None:
    raw = bytes((7 * n + 3) % 256 for n in range(layout.size))
    assert layout.pack(layout.unpack(raw)) == raw


def test_entries_of_12_bits() -> None:
    assert list(decode(TWELVE, 12)) == [0xFF8, 0xFFF, 0x003, 0x004]
    assert list(decode(TWELVE[:5], 12))[:3] == [0xFF8, 0xFFF, 0x003]


def test_entries_of_16_and_32_bits() -> None:
    assert list(decode(bytes.fromhex("f8ffffff0300"), 16)) == [0xFFF8, 0xFFFF, 3]
    assert list(decode(bytes.fromhex("f8ffff0f0300000000"), 32)) == [0x0FFFFFF8, 3]


def slot(number: int, name: str, total: int) -> bytes:
    """One entry of a long name, as Windows writes it."""
    part = name[13 * (number - 1) : 13 * number]
    raw = (part + "\0" * (len(part) < 13)).encode("utf-16-le").ljust(26, b"\xff")
    return (
        bytes([number | (0x40 if 13 * number >= len(name) else 0)])
        + raw[:10]
        + b"\x0f\0"
        + bytes([total])
        + raw[10:22]
        + b"\0\0"
        + raw[22:]
    )


def entry(short: bytes, attr: int = 0x20, lcase: int = 0) -> bytes:
    return short + bytes([attr, lcase]) + bytes(13) + b"\5\0" + b"\x10\0\0\0"


SHORT = b"LONGNA~1CFG"


def test_a_long_name_needs_all_its_parts_and_the_checksum() -> None:
    name = "a long name of two parts.cfg"
    slots = [slot(number, name, checksum(SHORT)) for number in (3, 2, 1)]
    assert [e.name for e in parse_directory(b"".join(slots) + entry(SHORT))] == [name]
    for broken in (slots[1:], slots[:2], slots[::-1], [slot(n, name, 0) for n in (3, 2, 1)]):
        assert [e.name for e in parse_directory(b"".join(broken) + entry(SHORT))] == ["LONGNA~1.CFG"]


def test_short_names() -> None:
    raw = (
        entry(b".          ", 0x10)
        + entry(b"..         ", 0x10)
        + entry(b"LABEL      ", 0x08)
        + entry(b"\xe5ELETED TXT")
        + entry(b"GRUB    CFG", lcase=0x18)
        + entry(b"EFI        ", 0x10)
        + entry(b"\x05TA     TXT")
        + bytes(32)
        + entry(b"BEHIND  END")
    )
    found = list(parse_directory(raw))
    assert [(e.name, e.is_dir) for e in found] == [
        ("grub.cfg", False),
        ("EFI", True),
        ("\u03c3TA.TXT", False),
    ]
    assert (found[0].size, found[0].cluster) == (16, 5)


@given(st.binary(max_size=32 * 40))
def test_any_directory_is_read_to_its_end(raw: bytes) -> None:
    assert len(list(parse_directory(raw))) <= len(raw) // 32


@given(st.binary(min_size=512, max_size=512))
def test_any_sector_is_a_geometry_or_a_reason(sector: bytes) -> None:
    found = parse_geometry(sector)
    assert isinstance(found, str | Geometry)
    assert partition_table_in(sector, 1 << 30) in (True, False)


@pytest.mark.parametrize(
    ("table", "is_mbr"),
    [
        (bytes(64), False),
        (bytes.fromhex("80202100 07feffff 00080000 00f80100") + bytes(48), True),
        (bytes.fromhex("80202100 07feffff 00000000 00f80100") + bytes(48), False),
        (bytes.fromhex("41202100 07feffff 00080000 00f80100") + bytes(48), False),
        (bytes.fromhex("00202100 07feffff ffffff7f 00f80100") + bytes(48), False),
        (b"Remove disks or other media, and press any key to restart. \r\n\0\0\0"[:64], False),
    ],
)
def test_what_counts_as_a_table_of_partitions(table: bytes, is_mbr: bool) -> None:
    sector = bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"
    assert partition_table_in(sector, 1 << 30) is is_mbr
    assert not partition_table_in(sector[:510] + b"\0\0", 1 << 30)
