"""LVM2's binary records: the label, the physical volume's header, the header of a metadata area.

Sources: lvm2 lib/label/label.h (label_header), lib/format_text/layout.h (pv_header, mda_header, raw_locn),
lib/format_text/format-text.h (disk_locn), lib/misc/crc.c.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from onebay.base.record import Layout

U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]

SECTOR = 512
LABEL_SECTORS = 4  # the label is in one of the first four sectors
LABEL_ID = b"LABELONE"
LABEL_TYPE = b"LVM2 001"
LABEL_SUMMED = 20  # the label's checksum covers its sector from here
MDA_MAGIC = b" LVM2 x[5A%r0N*>"
MDA_VERSION = 1
MDA_HEADER_SIZE = 512
MDA_LOCNS = 4  # raw_locns that are looked at; LVM uses two
LOCN_IGNORED = 1
PV_USED = 1  # pv_header_extension.flags
INITIAL_CRC = 0xF597A6CF


@dataclass(frozen=True, slots=True)
class LabelHeader:
    """label_header: `sector_xl` is where it stands, `offset_xl` where the pv_header starts in the sector."""

    id: Annotated[bytes, "8s"]
    sector_xl: U64
    crc_xl: U32
    offset_xl: U32
    type: Annotated[bytes, "8s"]


@dataclass(frozen=True, slots=True)
class PvHeader:
    """pv_header without its lists: `device_size_xl` is in bytes."""

    pv_uuid: Annotated[bytes, "32s"]
    device_size_xl: U64


@dataclass(frozen=True, slots=True)
class DiskLocn:
    """disk_locn: bytes on the device; a size of 0 reaches to its end, an offset of 0 ends the list."""

    offset: U64
    size: U64


@dataclass(frozen=True, slots=True)
class PvHeaderExtension:
    """pv_header_extension: version 1 knows boot loader areas, version 2 PV_USED."""

    version: U32
    flags: U32


@dataclass(frozen=True, slots=True)
class MdaHeader:
    """mda_header with its first four raw_locns, of which LVM uses two: committed and precommitted."""

    checksum_xl: U32
    magic: Annotated[bytes, "16s"]
    version: U32
    start: U64
    size: U64
    raw_locns: Annotated[bytes, "96s"]
    rest: Annotated[bytes, "376s"]


@dataclass(frozen=True, slots=True)
class RawLocn:
    """raw_locn: where a text stands, in bytes from the start of its metadata area."""

    offset: U64
    size: U64
    checksum: U32
    flags: U32


LABEL = Layout(LabelHeader, order="<", size=32)
PV_HEADER = Layout(PvHeader, order="<", size=40)
DISK_LOCN = Layout(DiskLocn, order="<", size=16)
PV_EXTENSION = Layout(PvHeaderExtension, order="<", size=8)
MDA_HEADER = Layout(MdaHeader, order="<", size=MDA_HEADER_SIZE)
RAW_LOCN = Layout(RawLocn, order="<", size=24)


def crc(data: bytes | memoryview) -> int:
    """LVM's checksum: the CRC-32 of zlib without its inversions, from LVM's own start value."""
    return zlib.crc32(data, INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def dashed(uuid: bytes | str) -> str:
    """Format 32 characters of a UUID as LVM shows them: 6-4-4-4-4-4-6."""
    text = uuid.decode("ascii", "replace") if isinstance(uuid, bytes) else uuid
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(text[start:end] for start, end in pairwise(cuts))
