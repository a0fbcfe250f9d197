"""GPT header and partition entry.

Sources: UEFI 2.10 section 5.3, linux block/partitions/efi.h (v6.12), whose field names these are.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated
from zlib import crc32

from onebay.base.record import Layout

SIGNATURE = b"EFI PART"
REVISION_1_0 = 0x00010000
PRIMARY_LBA = 1
LEGACY_BOOTABLE = 1 << 2  # attribute bit, UEFI 2.10 table 5.8
NAME_BYTES = 72
UNUSED = bytes(16)


@dataclass(frozen=True, slots=True)
class Header:
    """struct _gpt_header, 92 bytes; the rest of its sector is reserved."""

    signature: Annotated[bytes, "8s"]
    revision: Annotated[int, "I"]
    header_size: Annotated[int, "I"]
    header_crc32: Annotated[int, "I"]
    reserved1: Annotated[int, "I"]
    my_lba: Annotated[int, "Q"]
    alternate_lba: Annotated[int, "Q"]
    first_usable_lba: Annotated[int, "Q"]
    last_usable_lba: Annotated[int, "Q"]
    disk_guid: Annotated[bytes, "16s"]
    partition_entry_lba: Annotated[int, "Q"]
    num_partition_entries: Annotated[int, "I"]
    sizeof_partition_entry: Annotated[int, "I"]
    partition_entry_array_crc32: Annotated[int, "I"]

    @property
    def end_usable_lba(self) -> int:
        """First LBA behind the usable ones."""
        return self.last_usable_lba + 1

    @property
    def array_size(self) -> int:
        """Bytes of the entry array."""
        return self.num_partition_entries * self.sizeof_partition_entry

    def array_lbas(self, sector_size: int) -> int:
        """Sectors of the entry array."""
        return -(-self.array_size // sector_size)


HEADER = Layout(Header, order="<", size=92)


@dataclass(frozen=True, slots=True)
class Entry:
    """struct _gpt_entry, the first 128 bytes of an entry."""

    partition_type_guid: Annotated[bytes, "16s"]
    unique_partition_guid: Annotated[bytes, "16s"]
    starting_lba: Annotated[int, "Q"]
    ending_lba: Annotated[int, "Q"]
    attributes: Annotated[int, "Q"]
    partition_name: Annotated[bytes, "72s"]

    @property
    def end_lba(self) -> int:
        """First LBA behind the partition."""
        return self.ending_lba + 1


ENTRY = Layout(Entry, order="<", size=128)


def guid_text(raw: bytes) -> str:
    """Return 16 bytes as a GUID in upper case; the first three fields are little-endian on disk."""
    return str(uuid.UUID(bytes_le=raw)).upper()


def guid_bytes(text: str) -> bytes:
    """Return a GUID's 16 bytes on disk; raises ValueError where `text` is none."""
    return uuid.UUID(text).bytes_le


def name_text(raw: bytes) -> str:
    """Return a partition's name up to its first NUL; what is no UTF-16 becomes U+FFFD."""
    text = raw.decode("utf-16-le", "replace")
    return text.split("\0", 1)[0]


def name_bytes(text: str) -> bytes:
    """Return a name as stored; raises ValueError where it has more than 36 UTF-16 units or a NUL."""
    raw = text.encode("utf-16-le")
    if len(raw) > NAME_BYTES or "\0" in text:
        raise ValueError(f"not a partition name: {text!r}")
    return raw.ljust(NAME_BYTES, b"\0")


def make_entry(kind: str, unique: str, start_lba: int, end_lba: int, name: str, *, active: bool) -> Entry:
    """Return an entry for sectors `start_lba` up to `end_lba`; raises ValueError on a bad GUID or name."""
    return Entry(
        partition_type_guid=guid_bytes(kind),
        unique_partition_guid=guid_bytes(unique),
        starting_lba=start_lba,
        ending_lba=end_lba - 1,
        attributes=LEGACY_BOOTABLE if active else 0,
        partition_name=name_bytes(name),
    )


def header_crc(sector: bytes, header_size: int) -> int:
    """Return the CRC-32 of a header in its sector, with its own field taken as zero."""
    at = HEADER.offset("header_crc32")
    return crc32(sector[:at] + bytes(4) + sector[at + 4 : header_size])


def pack_header(header: Header, rest: bytes) -> bytes:
    """Return a header's sector with a fresh checksum; `rest` is what follows its 92 bytes in the sector."""
    sector = HEADER.pack(header, header_crc32=0) + rest
    return HEADER.pack(header, header_crc32=header_crc(sector, header.header_size)) + rest
