"""The MBR sector and its entries; an extended boot record has the same shape.

Sources: linux include/linux/msdos_partition.h (v6.12), UEFI 2.10 section 5.2.1. Both formats are 512 bytes at
the start of a sector, whatever the sector's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from onebay.base.record import Layout

MAGIC = b"\x55\xaa"
TABLE_AT = 446  # the four entries and the magic; what stands before is boot code and the disk signature
ENTRIES = 4
ACTIVE = 0x80
SECTORS_MAX = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """struct msdos_partition; positions of an EBR's entries are relative (see mbr/read.py)."""

    boot_ind: Annotated[int, "B"]
    head: Annotated[int, "B"]
    sector: Annotated[int, "B"]
    cyl: Annotated[int, "B"]
    sys_ind: Annotated[int, "B"]
    end_head: Annotated[int, "B"]
    end_sector: Annotated[int, "B"]
    end_cyl: Annotated[int, "B"]
    start_sect: Annotated[int, "I"]
    nr_sects: Annotated[int, "I"]

    @property
    def end_sect(self) -> int:
        """First sector behind the partition."""
        return self.start_sect + self.nr_sects


ENTRY = Layout(Entry, order="<", size=16)
EMPTY = Entry(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Mbr:
    """Legacy MBR, UEFI 2.10 table 5.1; `partition_record` are the four entries as bytes."""

    boot_code: Annotated[bytes, "440s"]
    unique_mbr_signature: Annotated[int, "I"]
    unknown: Annotated[bytes, "2s"]
    partition_record: Annotated[bytes, "64s"]
    signature: Annotated[bytes, "2s"]

    @property
    def entries(self) -> list[Entry]:
        """The four entries."""
        return ENTRY.unpack_all(self.partition_record)


MBR = Layout(Mbr, order="<", size=512)


def chs(lba: int) -> tuple[int, int, int]:
    """Return head, sector and cylinder bytes of an LBA for 255 heads and 63 sectors.

    Beyond cylinder 1023 they are FE FF FF, which tells everybody to use the LBA.
    """
    cylinder, rest = divmod(lba, 255 * 63)
    if cylinder > 1023:
        return 0xFE, 0xFF, 0xFF
    head, sector = divmod(rest, 63)
    return head, (sector + 1) | (cylinder >> 8) << 6, cylinder & 0xFF


def make_entry(kind: int, start_sect: int, nr_sects: int, *, active: bool = False, base: int = 0) -> Entry:
    """Return an entry; `base` is the LBA that `start_sect` counts from, which its CHS fields do not."""
    first, last = chs(base + start_sect), chs(base + start_sect + nr_sects - 1)
    return Entry(ACTIVE if active else 0, *first, kind, *last, start_sect, nr_sects)


def pack_entries(entries: list[Entry]) -> bytes:
    """Return the four entries and the magic: the bytes from `TABLE_AT` to the end of the record."""
    assert len(entries) == ENTRIES
    return b"".join(ENTRY.pack(entry) for entry in entries) + MAGIC
