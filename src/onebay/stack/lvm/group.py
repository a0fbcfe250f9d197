"""A volume group: its physical volumes, its logical volumes, and which of them can be offered.

Offered are visible volumes made of linear segments only, to which nothing else refers. All others (striped,
mirror, raid, thin, cache, snapshots with their origins, vdo, and the hidden parts of these) are named, and
their extents are kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from onebay.base.error import Damaged
from onebay.base.extent import ExtentSet
from onebay.stack.lvm.record import SECTOR
from onebay.stack.lvm.text import Leaf, Section

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onebay.stack.lvm.read import Pv

LINEAR = ("striped", "linear")  # LVM writes linear segments as striped ones with one stripe
MAX_EXTENTS = 1 << 32
MAX_BYTES = 1 << 63


@dataclass(frozen=True)
class PhysicalVolume:
    """A physical volume as the metadata has it, sizes in bytes; `pv` is None where it was not found."""

    name: str
    uuid: str
    section: Section
    dev_size: int
    pe_start: int
    pe_count: int
    status: tuple[str, ...]
    pv: Pv | None

    @property
    def missing(self) -> bool:
        """Whether LVM would not use it: it is not here, or was away for too long."""
        return self.pv is None or "MISSING" in self.status


@dataclass(frozen=True)
class SegmentArea:
    """Extents `start..start+count` of a physical volume."""

    pv: str
    start: int
    count: int


@dataclass(frozen=True)
class Segment:
    """Extents `start..start+count` of a logical volume, on `areas`; `linear` means that there is just one."""

    section: Section
    start: int
    count: int
    type: str
    areas: tuple[SegmentArea, ...]
    refers: tuple[str, ...]

    @property
    def linear(self) -> bool:
        """Whether the segment is one piece of one physical volume."""
        return self.type in LINEAR and len(self.areas) == 1 and not self.refers


@dataclass(frozen=True)
class LogicalVolume:
    """A logical volume; `fault` says why it cannot be offered although it is of a kind that could."""

    name: str
    uuid: str
    section: Section
    status: tuple[str, ...]
    segments: tuple[Segment, ...]
    fault: str | None = None

    @property
    def extents(self) -> int:
        """Length in extents."""
        return sum(segment.count for segment in self.segments)

    @property
    def visible(self) -> bool:
        """Whether the user sees it."""
        return "VISIBLE" in self.status

    @property
    def linear(self) -> bool:
        """Whether it is made of linear segments only."""
        return bool(self.segments) and all(segment.linear for segment in self.segments)

    @property
    def types(self) -> list[str]:
        """Kinds of its segments, each once."""
        found = ("linear" if segment.linear else segment.type for segment in self.segments)
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Group:
    """What the newest metadata says; `extent_size` in bytes, `reserved` the names other volumes refer to."""

    section: Section
    name: str
    uuid: str
    seqno: int
    extent_size: int
    status: tuple[str, ...]
    pvs: tuple[PhysicalVolume, ...]
    lvs: tuple[LogicalVolume, ...]
    overlap: str | None
    referred: frozenset[str] = field(default_factory=frozenset)

    def offered(self, lv: LogicalVolume) -> bool:
        """Whether the data of a volume can be read and written as it is."""
        return lv.visible and lv.linear and lv.fault is None and lv.name not in self.referred

    def claimed(self, lvs: Iterable[LogicalVolume]) -> dict[str, ExtentSet]:
        """Bytes of each physical volume, by its name, that these logical volumes occupy."""
        size = self.extent_size
        found: dict[str, list[tuple[int, int]]] = {pv.name: [] for pv in self.pvs}
        pvs = {pv.name: pv for pv in self.pvs}
        for lv in lvs:
            for segment in lv.segments:
                for area in segment.areas:
                    pv = pvs[area.pv]
                    end = min(area.start + area.count, pv.pe_count)
                    if area.start < end:
                        found[pv.name].append((pv.pe_start + area.start * size, pv.pe_start + end * size))
        return {name: ExtentSet.of(ranges) for name, ranges in found.items()}


def words(section: Section, *names: str) -> tuple[str, ...]:
    """Return the strings of arrays as `status` and `flags`."""
    return tuple(str(value) for name in names for value in section.array(name))


def read_group(section: Section, found: dict[str, Pv]) -> Group:
    """Build the group from its section and the physical volumes `found`, by UUID; raises Damaged."""
    extent_size = section.number("extent_size") * SECTOR
    if not extent_size:
        raise Damaged("lvm metadata: extent_size is 0", at=section.start)
    pvs = tuple(read_pv(pv, found) for pv in section.section("physical_volumes").sections())
    counts = {pv.name: pv for pv in pvs}
    for pv in pvs:
        if pv.pe_start + pv.pe_count * extent_size > MAX_BYTES:
            raise Damaged(f"lvm metadata: {pv.name} is larger than any device", at=pv.section.start)
    lvs = tuple(read_lv(lv, counts, extent_size) for lv in section.section("logical_volumes").sections())
    names = {lv.name for lv in lvs}
    referred = {name for lv in lvs for segment in lv.segments for name in segment.refers if name in names}
    return Group(
        section=section,
        name=section.name,
        uuid=section.string("id"),
        seqno=section.number("seqno"),
        extent_size=extent_size,
        status=words(section, "status", "flags"),
        pvs=pvs,
        lvs=lvs,
        overlap=overlap(lvs),
        referred=frozenset(referred),
    )


def read_pv(section: Section, found: dict[str, Pv]) -> PhysicalVolume:
    """Read a physical volume's section."""
    uuid = section.string("id")
    pe_count = section.number("pe_count")
    if pe_count >= MAX_EXTENTS:
        raise Damaged("lvm metadata: pe_count", at=section.start, found=pe_count)
    return PhysicalVolume(
        name=section.name,
        uuid=uuid,
        section=section,
        dev_size=section.number("dev_size") * SECTOR if "dev_size" in section.items else 0,
        pe_start=section.number("pe_start") * SECTOR,
        pe_count=pe_count,
        status=words(section, "status", "flags"),
        pv=found.get(uuid),
    )


def read_lv(section: Section, pvs: dict[str, PhysicalVolume], extent_size: int) -> LogicalVolume:
    """Read a logical volume's section; what keeps it from being offered is kept in `fault`."""
    segments: list[Segment] = []
    fault: str | None = None
    total = 0
    count = section.number("segment_count")
    inner = [item for item in section.sections() if item.name.startswith("segment")]
    if len(inner) != count:
        fault = f"{count} segments announced, {len(inner)} there"
    for item in inner:
        segment = read_segment(item, pvs)
        if segment.start != total:
            fault = f"{item.name} does not follow the one before it"
        segments.append(segment)
        total += segment.count
        fault = fault or area_fault(segment, pvs, extent_size)
    status = words(section, "status", "flags")
    return LogicalVolume(section.name, section.string("id"), section, status, tuple(segments), fault)


def read_segment(section: Section, pvs: dict[str, PhysicalVolume]) -> Segment:
    """Read a segment: every pair of a physical volume's name and a number is an area, other names refer."""
    count = section.number("extent_count")
    kind = section.string("type")
    stripes = section.number("stripe_count") if kind in LINEAR and "stripe_count" in section.items else 1
    if count >= MAX_EXTENTS or not stripes or count % stripes:
        raise Damaged(f"lvm metadata: {section.name}: extent_count", at=section.start, found=count)
    areas: list[SegmentArea] = []
    refers: list[str] = []
    for key, item in section.items.items():
        if not isinstance(item, Leaf) or key in ("type", "tags"):
            continue
        values = item.value if isinstance(item.value, list) else [item.value]
        for at, value in enumerate(values):
            if not isinstance(value, str):
                continue
            start = values[at + 1] if at + 1 < len(values) else None
            if value in pvs and isinstance(start, int) and start >= 0:
                areas.append(SegmentArea(value, start, count // stripes))
            else:
                refers.append(value)
    start_extent = section.number("start_extent")
    if kind in LINEAR and len(areas) + len(refers) != stripes:
        raise Damaged(f"lvm metadata: {section.name}: stripes", at=section.start, expected=stripes)
    return Segment(section, start_extent, count, kind, tuple(areas), tuple(refers))


def area_fault(segment: Segment, pvs: dict[str, PhysicalVolume], extent_size: int) -> str | None:
    """Say what is wrong with where a segment lies, or None."""
    for area in segment.areas:
        pv = pvs[area.pv]
        if area.start + area.count > pv.pe_count:
            return f"{segment.section.name} lies beyond the end of {pv.name}"
        if pv.missing or pv.pv is None:
            return f"{pv.name} ({pv.uuid}) is missing"
        if pv.pe_start + (area.start + area.count) * extent_size > pv.pv.volume.size:
            return f"{segment.section.name} lies beyond the end of {pv.pv.volume.name}"
    return None


def overlap(lvs: tuple[LogicalVolume, ...]) -> str | None:
    """Name two logical volumes that claim the same extents, or None."""
    claims = [
        (area.pv, area.start, area.start + area.count, lv.name)
        for lv in lvs
        for segment in lv.segments
        for area in segment.areas
        if area.count
    ]
    claims.sort()
    for (pv, _, end, one), (next_pv, start, _, other) in pairwise(claims):
        if pv == next_pv and start < end:
            return f"{one} and {other} both claim extent {start} of {pv}"
    return None
