"""Headers and JSON areas: what the volume is, which copy counts, and where its payload lies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import BadChecksum, BadMagic, Damaged, Inconsistent, Unsupported
from onebay.block.crypt import UNITS
from onebay.layer import Finding, Suspect
from onebay.stack.luks.layer import CIPHER, Luks, Payload
from onebay.stack.luks.record import (
    HEADER_SIZES,
    LUKS1,
    LUKS2,
    MAGIC,
    SECOND_MAGIC,
    SECTOR,
    Luks2Header,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.block.volume import Volume
    from onebay.layer import Value

DETACHED = "the LUKS header is detached from its payload"


@dataclass(frozen=True)
class Copy:
    """One of the two LUKS2 headers and its JSON."""

    header: Luks2Header
    at: int
    segments: Mapping[str, Mapping[str, object]]
    config: object

    @property
    def segment(self) -> Mapping[str, object]:
        """The first segment; empty where there is none."""
        return self.segments[min(self.segments, key=int)] if self.segments else {}


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
    start = Payload(payload, volume.size - payload, SECTOR)
    return Luks(volume, facts, findings, checked(volume, str(facts["cipher"]), start))


def read_2(volume: Volume) -> Luks | Suspect:
    """Read LUKS2 headers: the first, or the second where the first is bad; the newer one counts."""
    copies: list[Copy] = []
    wrong: list[Damaged | Unsupported] = []
    try:
        copies.append(read_copy(volume, 0, MAGIC))
    except (Damaged, Unsupported) as error:
        wrong.append(error)
    known = [copy.header.hdr_size for copy in copies]
    for at in known or HEADER_SIZES:
        if at + LUKS2.size > volume.size:
            continue
        try:
            copies.append(read_copy(volume, at, SECOND_MAGIC))
            break
        except BadMagic as error:
            wrong += [error] if known else []
        except (Damaged, Unsupported) as error:
            wrong.append(error)
    if not copies:
        return Suspect("luks", volume, str(wrong[0]), wrong[0].at)
    best = max(copies, key=lambda copy: copy.header.seqid)
    findings = [Finding("warning", "luks-header-bad", str(error), volume.name, error.at) for error in wrong]
    return Luks(volume, facts_2(best), findings, payload_2(volume, best))


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
    return parse_area(volume, header, at, area)


def parse_area(volume: Volume, header: Luks2Header, at: int, area: bytes) -> Copy:
    """Return the header with what matters of its JSON area; raises Damaged."""
    try:
        found = json.loads(area.split(b"\0", 1)[0])
        segments = {name: dict(segment) for name, segment in found["segments"].items()}
        sorted(segments, key=int)  # numbers, all of them
        return Copy(header, at, segments, found.get("config"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("luks2 json area", volume=volume.name, at=at + LUKS2.size, found=error) from error


def payload_2(volume: Volume, copy: Copy) -> Payload | str:
    """Return where the payload of LUKS2 lies, or why it cannot be opened."""
    requirements = copy.config.get("requirements", {}) if isinstance(copy.config, dict) else {}
    mandatory = requirements.get("mandatory", []) if isinstance(requirements, dict) else requirements
    if mandatory != []:
        named = ", ".join(map(str, mandatory)) if isinstance(mandatory, list) else "unknown"
        return f"LUKS2 with the requirement {named}"
    if len(copy.segments) != 1:
        return f"LUKS2 with {len(copy.segments)} segments"
    segment = copy.segment
    if segment.get("type") != "crypt" or "integrity" in segment or segment.get("flags", []) != []:
        return "LUKS2 with a segment of another kind, integrity or flags"
    start, iv = number(segment.get("offset")), number(segment.get("iv_tweak"))
    dynamic = segment.get("size") == "dynamic"
    size = volume.size - (start or 0) if dynamic else number(segment.get("size"))
    unit = segment.get("sector_size")
    if start is None or iv is None or size is None or not isinstance(unit, int) or isinstance(unit, bool):
        return "LUKS2 with numbers that are none"
    if 0 < start < 2 * copy.header.hdr_size:
        return "LUKS2 with a payload that begins inside its headers"
    return checked(volume, str(segment.get("encryption")), Payload(start, size, unit, iv))


def checked(volume: Volume, cipher: str, payload: Payload) -> Payload | str:
    """Return the payload, or why it cannot be opened."""
    if payload.start == 0:
        return DETACHED
    if cipher != CIPHER:
        return f"LUKS with the cipher {cipher}, not {CIPHER}"
    if payload.unit not in UNITS or payload.start % SECTOR or payload.size % payload.unit:
        return "LUKS with a payload of no whole sectors"
    if payload.size <= 0 or payload.start + payload.size > volume.size:
        return "LUKS with a payload that ends behind the volume"
    return payload


def facts_2(copy: Copy) -> dict[str, Value]:
    """Facts of a LUKS2 header."""
    segment = copy.segment
    sector = segment.get("sector_size")
    return {
        "version": 2,
        "uuid": text(copy.header.uuid),
        "label": text(copy.header.label),
        "cipher": str(segment.get("encryption", "")),
        "sector_size": sector if isinstance(sector, int) else None,
        "payload_offset": number(segment.get("offset")),
    }


def number(value: object) -> int | None:
    """Return a number of 64 bits that JSON has as a string; None where it is none."""
    good = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20
    return int(str(value)) if good else None


def text(raw: bytes) -> str:
    """Return a zero-terminated field as text."""
    return raw.split(b"\0")[0].decode("utf-8", "replace")
