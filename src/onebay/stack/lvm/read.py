"""From a volume to what its label says: the physical volume, its metadata areas and the text in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import BadChecksum, Damaged, Inconsistent
from onebay.base.extent import ExtentSet
from onebay.layer import Finding, Layer, Member, Suspect
from onebay.stack.lvm.record import (
    DISK_LOCN,
    LABEL,
    LABEL_ID,
    LABEL_SECTORS,
    LABEL_SUMMED,
    LABEL_TYPE,
    LOCN_IGNORED,
    MDA_HEADER,
    MDA_HEADER_SIZE,
    MDA_MAGIC,
    MDA_VERSION,
    PV_EXTENSION,
    PV_HEADER,
    PV_USED,
    RAW_LOCN,
    SECTOR,
    DiskLocn,
    MdaHeader,
    RawLocn,
    crc,
    dashed,
)
from onebay.stack.lvm.text import Section, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.block.volume import Volume
    from onebay.layer import Value

MAX_TEXT = 16 << 20  # bytes of metadata that are read; LVM's own areas are 1 MiB by default


@dataclass(frozen=True)
class Copy:
    """A metadata text that is whole: its bytes, the section of its volume group, and its age."""

    text: bytes
    vg: Section
    uuid: str
    seqno: int


@dataclass(frozen=True)
class Area:
    """A metadata area: bytes `start..start+size` of the volume. `copy` is None where it is empty or bad."""

    start: int
    size: int
    header: MdaHeader | None = None
    locn: RawLocn | None = None
    copy: Copy | None = None
    ignored: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Pv:
    """What the label says: `label` is its sector at byte `at` of the volume, the header at `inside`."""

    volume: Volume
    uuid: str
    at: int
    label: bytes
    inside: int
    device_size: int
    data_areas: tuple[DiskLocn, ...]
    areas: tuple[Area, ...]
    boot_areas: tuple[DiskLocn, ...]
    in_use: bool

    @property
    def newest(self) -> Copy | None:
        """The newest metadata on this volume."""
        return max((a.copy for a in self.areas if a.copy), key=lambda copy: copy.seqno, default=None)

    def metadata(self, data_start: int) -> ExtentSet:
        """Bytes that belong to LVM itself: all before `data_start`, and areas elsewhere on the volume."""
        found = [(0, data_start), (self.at, self.at + SECTOR)]
        found += [(area.start, area.start + area.size) for area in self.areas]
        found += [(area.offset, area.offset + area.size) for area in self.boot_areas]
        size = self.volume.size
        return ExtentSet.of((start, min(end, size)) for start, end in found if start < min(end, size))


class LonePv(Layer):
    """A physical volume that belongs to no volume group, or does not say to which.

    An orphan is kept as far as LVM's own bytes go; one that is in use by a group whose metadata lies on other
    volumes only cannot be understood alone and is kept whole.
    """

    kind = "lvm-pv"

    def __init__(self, pv: Pv) -> None:
        self.pv = pv
        self.below = (pv.volume,)

    @property
    def title(self) -> str:
        return "lvm pv without a group" if self.keep_whole() is None else "lvm pv without metadata"

    def facts(self) -> Mapping[str, Value]:
        """Identity, and `size` in bytes by its own header."""
        return {"uuid": self.pv.uuid, "size": self.pv.device_size, "in_use": self.pv.in_use}

    def used(self) -> tuple[ExtentSet, ...]:
        if self.keep_whole() is not None:
            return (ExtentSet.single(0, self.pv.volume.size),)
        start = min((area.offset for area in self.pv.data_areas), default=self.pv.volume.size)
        return (self.pv.metadata(start),)

    def keep_whole(self) -> str | None:
        hidden = self.pv.in_use or not self.pv.areas or any(area.ignored for area in self.pv.areas)
        return "lvm: the metadata of its volume group is on other volumes" if hidden else None

    def check(self) -> list[Finding]:
        text = self.keep_whole() or "the physical volume is in no volume group"
        return [Finding("note", "lvm-lone-pv", text, self.pv.volume.name, self.pv.at)]


def probe(volume: Volume) -> Layer | Member | Suspect | None:
    """Return which volume group `volume` is a member of, or what it is without one."""
    pv = read_label(volume)
    if not isinstance(pv, Pv):
        return pv
    newest = pv.newest
    if newest is None:
        if bad := next((area for area in pv.areas if area.error), None):
            return Suspect("lvm", volume, str(bad.error), bad.start)
        return LonePv(pv)
    listed = list(newest.vg.section("physical_volumes").sections())
    for slot, section in enumerate(listed):
        if section.string("id", "") == pv.uuid:
            return Member("lvm", volume, newest.uuid, slot, len(listed), pv)
    return Suspect("lvm", volume, f"{newest.vg.name} does not list physical volume {pv.uuid}", pv.at)


def read_label(volume: Volume) -> Pv | Suspect | None:
    """Read the label in one of the first four sectors, and all that it leads to."""
    head = volume.read(0, min(LABEL_SECTORS * SECTOR, volume.size))
    for at in range(0, len(head) - SECTOR + 1, SECTOR):
        raw = head[at : at + SECTOR]
        label = LABEL.unpack(raw)
        if label.id != LABEL_ID:
            continue
        if label.type != LABEL_TYPE:
            return Suspect("lvm", volume, f"label of unknown type {label.type!r}", at)
        if label.sector_xl * SECTOR != at:
            return Suspect("lvm", volume, f"the label says it stands in sector {label.sector_xl}", at)
        if label.crc_xl != crc(raw[LABEL_SUMMED:]):
            return Suspect("lvm", volume, f"label checksum {label.crc_xl:#010x} is wrong", at)
        try:
            return read_header(volume, at, raw, label.offset_xl)
        except Damaged as error:
            return Suspect("lvm", volume, str(error), at)
    return None


def read_header(volume: Volume, at: int, raw: bytes, inside: int) -> Pv:
    """Read the pv_header at byte `inside` of the label's sector `raw`; raises Damaged."""
    header = PV_HEADER.unpack(raw, inside)
    data_areas, end = locations(raw, inside + PV_HEADER.size)
    areas, end = locations(raw, end)
    boot_areas: tuple[DiskLocn, ...] = ()
    in_use = False
    if end + PV_EXTENSION.size <= SECTOR:
        extension = PV_EXTENSION.unpack(raw, end)
        if extension.version:
            boot_areas, _ = locations(raw, end + PV_EXTENSION.size)
            in_use = extension.version >= 2 and bool(extension.flags & PV_USED)
    return Pv(
        volume=volume,
        uuid=dashed(header.pv_uuid),
        at=at,
        label=raw,
        inside=inside,
        device_size=header.device_size_xl,
        data_areas=data_areas,
        areas=tuple(read_area(volume, area.offset, area.size) for area in areas),
        boot_areas=boot_areas,
        in_use=in_use,
    )


def locations(raw: bytes, at: int) -> tuple[tuple[DiskLocn, ...], int]:
    """Read a list of disk_locn up to its empty end, and return it with the byte behind it."""
    found: list[DiskLocn] = []
    while True:
        locn = DISK_LOCN.unpack(raw, at)
        at += DISK_LOCN.size
        if not locn.offset:
            return tuple(found), at
        found.append(locn)


def read_area(volume: Volume, start: int, size: int) -> Area:
    """Read a metadata area's header and the text it points at; what is wrong is kept in `error`."""
    try:
        header = read_area_header(volume, start, size)
    except Damaged as error:
        return Area(start, size, error=str(error))
    locn = RAW_LOCN.unpack(header.raw_locns)
    if locn.flags & LOCN_IGNORED or not locn.offset or not locn.size:
        return Area(start, size, header, locn, ignored=bool(locn.flags & LOCN_IGNORED))
    try:
        return Area(start, size, header, locn, read_copy(volume, start, size, locn))
    except Damaged as error:
        return Area(start, size, header, locn, error=str(error))


def read_area_header(volume: Volume, start: int, size: int) -> MdaHeader:
    """Read the header of the metadata area that the label places at `start`; raises Damaged."""
    if size <= MDA_HEADER_SIZE or start + size > volume.size:
        raise Damaged("metadata area outside the volume", volume=volume.name, at=start, found=size)
    raw = volume.read(start, MDA_HEADER_SIZE)
    header = MDA_HEADER.unpack(raw)
    if header.checksum_xl != (found := crc(raw[4:])):
        raise BadChecksum(
            "metadata area header",
            volume=volume.name,
            at=start,
            expected=f"{found:#010x}",
            found=f"{header.checksum_xl:#010x}",
        )
    expected = (MDA_MAGIC, MDA_VERSION, start, size)
    if (header.magic.rstrip(b"\0"), header.version, header.start, header.size) != expected:
        raise Inconsistent("metadata area header of another place or version", volume=volume.name, at=start)
    return header


def read_copy(volume: Volume, start: int, size: int, locn: RawLocn) -> Copy:
    """Read the text at `locn`, around the end of the area where it wraps; raises Damaged."""
    room = size - MDA_HEADER_SIZE
    if not MDA_HEADER_SIZE <= locn.offset < size or locn.size > min(room, MAX_TEXT):
        raise Damaged("metadata text outside its area", volume=volume.name, at=start, found=locn.offset)
    first = min(locn.size, size - locn.offset)
    text = volume.read(start + locn.offset, first)
    text += volume.read(start + MDA_HEADER_SIZE, locn.size - first)
    if crc(text) != locn.checksum:
        raise BadChecksum(
            "metadata text",
            volume=volume.name,
            at=start + locn.offset,
            expected=f"{locn.checksum:#010x}",
            found=f"{crc(text):#010x}",
        )
    groups = list(parse(text).sections())
    if len(groups) != 1:
        raise Damaged("metadata text with other than one group", volume=volume.name, found=len(groups))
    return Copy(text, groups[0], groups[0].string("id"), groups[0].number("seqno"))
