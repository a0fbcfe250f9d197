"""LUKS1 and LUKS2 by their headers: named, checked, and kept whole, since nothing in them can be read.

Sources: LUKS1 On-Disk Format Specification 1.2.3, table 1; LUKS2 On-Disk Format Specification 1.1.4,
section 2 (binary header, checksum) and 3 (JSON area); cryptsetup lib/luks2/luks2_disk_metadata.c.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from onebay.base.error import BadChecksum, BadMagic, Damaged, Inconsistent, Unsupported
from onebay.base.record import Layout
from onebay.layer import Finding, Suspect, Whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.block.volume import Volume
    from onebay.layer import Value

__all__ = ["Luks", "probe"]

MAGIC = b"LUKS\xba\xbe"
SECOND_MAGIC = b"SKUL\xba\xbe"
SECTOR = 512
# Sizes that LUKS2 allows for header and JSON area together; the second copy stands at such an offset.
HEADER_SIZES = tuple(1 << shift for shift in range(14, 23))
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]


@dataclass(frozen=True, slots=True)
class Luks1Header:
    """struct luks_phdr without its key slots; `payloadOffset` is in 512-byte sectors."""

    magic: Annotated[bytes, "6s"]
    version: U16
    cipher_name: Annotated[bytes, "32s"]
    cipher_mode: Annotated[bytes, "32s"]
    hash_spec: Annotated[bytes, "32s"]
    payload_offset: U32
    key_bytes: U32
    mk_digest: Annotated[bytes, "20s"]
    mk_digest_salt: Annotated[bytes, "32s"]
    mk_digest_iter: U32
    uuid: Annotated[bytes, "40s"]


@dataclass(frozen=True, slots=True)
class Luks2Header:
    """struct luks2_hdr_disk: `hdr_size` counts the JSON area too, in bytes."""

    magic: Annotated[bytes, "6s"]
    version: U16
    hdr_size: U64
    seqid: U64
    label: Annotated[bytes, "48s"]
    checksum_alg: Annotated[bytes, "32s"]
    salt: Annotated[bytes, "64s"]
    uuid: Annotated[bytes, "40s"]
    subsystem: Annotated[bytes, "48s"]
    hdr_offset: U64
    padding: Annotated[bytes, "184s"]
    csum: Annotated[bytes, "64s"]
    padding4096: Annotated[bytes, "3584s"]


LUKS1 = Layout(Luks1Header, order=">", size=208)
LUKS2 = Layout(Luks2Header, order=">", size=4096)


@dataclass(frozen=True)
class Copy:
    """One of the two LUKS2 headers and its JSON."""

    header: Luks2Header
    at: int
    segment: Mapping[str, object]


class Luks(Whole):
    """An encrypted volume: `findings` says what is wrong with its headers."""

    kind = "luks"
    growth = "what is inside, where `--key-file` opens it: LVM, ext4, XFS, btrfs, in a virtual machine"

    def __init__(self, volume: Volume, facts: Mapping[str, Value], findings: list[Finding]) -> None:
        super().__init__(f"luks{facts['version']}", volume, facts)
        self.findings = findings

    def check(self) -> list[Finding]:
        return list(self.findings)


def probe(volume: Volume) -> Luks | Suspect | None:
    """Return the encrypted volume; a Suspect where no header is whole."""
    if volume.size < LUKS2.size:
        return None
    head = volume.read(0, 8)
    version = int.from_bytes(head[6:], "big")
    if head[:6] != MAGIC:
        # A second LUKS2 header alone proves nothing: it outlives the file systems made over the first one.
        return None
    if version == 1:
        return read_1(volume)
    if version != 2:
        return Suspect("luks", volume, f"unknown version {version}", 0)
    return read_2(volume)


def read_1(volume: Volume) -> Luks:
    """Read a LUKS1 header, which has no checksum."""
    header = LUKS1.unpack(volume.read(0, LUKS1.size))
    payload = header.payload_offset * SECTOR
    facts: dict[str, Value] = {
        "version": 1,
        "uuid": text(header.uuid),
        "label": "",
        "cipher": f"{text(header.cipher_name)}-{text(header.cipher_mode)}",
        "sector_size": SECTOR,
        "payload_offset": payload,
    }
    findings = []
    if payload > volume.size:
        message = f"the payload starts at {payload}, the volume has {volume.size} bytes"
        findings.append(Finding("damage", "luks-truncated", message, volume.name))
    return Luks(volume, facts, findings)


def read_2(volume: Volume) -> Luks | Suspect:
    """Read LUKS2 headers: the first, or the second where the first is bad; the newer one counts."""
    copies: list[Copy] = []
    wrong: list[Damaged | Unsupported] = []
    try:
        copies.append(read_copy(volume, 0, MAGIC))
    except (Damaged, Unsupported) as error:
        wrong.append(error)
    places = [copies[0].header.hdr_size] if copies else HEADER_SIZES
    for at in places:
        if at + LUKS2.size > volume.size:
            continue
        try:
            copies.append(read_copy(volume, at, SECOND_MAGIC))
        except BadMagic as error:
            wrong += [error] if copies else []
        except (Damaged, Unsupported) as error:
            wrong.append(error)
    if not copies:
        return Suspect("luks", volume, str(wrong[0]), wrong[0].at)
    best = max(copies, key=lambda copy: copy.header.seqid)
    findings = [Finding("warning", "luks-header-bad", str(error), volume.name, error.at) for error in wrong]
    return Luks(volume, facts_2(best), findings)


def read_copy(volume: Volume, at: int, magic: bytes) -> Copy:
    """Read a LUKS2 header with its JSON; raises Damaged, or Unsupported for an unknown checksum."""
    if at + LUKS2.size > volume.size:
        raise BadMagic("luks2 header", volume=volume.name, at=at)
    raw = volume.read(at, LUKS2.size)
    header = LUKS2.unpack(raw)
    if header.magic != magic or header.version != 2:
        raise BadMagic("luks2 header", volume=volume.name, at=at, expected=magic, found=header.magic)
    if header.hdr_offset != at or header.hdr_size not in HEADER_SIZES:
        raise Inconsistent(
            "luks2 header of another place", volume=volume.name, at=at, found=header.hdr_offset
        )
    area = volume.read(at + LUKS2.size, header.hdr_size - LUKS2.size)
    algorithm = text(header.checksum_alg)
    if algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise Unsupported(f"luks2 checksum {algorithm}", volume=volume.name, at=at)
    digest = hashlib.new(algorithm, LUKS2.pack(header, csum=bytes(64)) + area).digest()
    if digest != header.csum[: len(digest)]:
        raise BadChecksum("luks2 header", volume=volume.name, at=at, expected=digest, found=header.csum)
    return Copy(header, at, first_segment(volume, at, area))


def first_segment(volume: Volume, at: int, area: bytes) -> Mapping[str, object]:
    """Return the first segment of the JSON area; empty where it has none. Raises Damaged."""
    try:
        found = json.loads(area.split(b"\0", 1)[0])
        segments = found["segments"]
        if not isinstance(segments, dict):
            raise TypeError("segments are no object")
        return dict(segments[min(segments, key=int)]) if segments else {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("luks2 json area", volume=volume.name, at=at + LUKS2.size, found=error) from error


def facts_2(copy: Copy) -> dict[str, Value]:
    """Facts of a LUKS2 header."""
    segment = copy.segment
    offset, sector = str(segment.get("offset", "")), segment.get("sector_size")
    return {
        "version": 2,
        "uuid": text(copy.header.uuid),
        "label": text(copy.header.label),
        "cipher": str(segment.get("encryption", "")),
        "sector_size": sector if isinstance(sector, int) else None,
        "payload_offset": int(offset) if offset.isdecimal() and len(offset) < 20 else None,
    }


def text(raw: bytes) -> str:
    """Return a zero-terminated field as text."""
    return raw.split(b"\0")[0].decode("utf-8", "replace")
