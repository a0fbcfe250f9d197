"""Growing a group offline: what pvresize and lvextend do, as edits of the text, in an order that holds.

The new text goes into the ring behind the old one, which stays whole; the metadata area's header, one sector,
makes it count. Several areas follow one another: until the last is done LVM sees copies of two ages, takes
the newer and mends the other, and so do we when the command runs again. The label's sector with the device
size, which LVM reads only for volumes without a group, comes last.
Source: lvm2 lib/format_text/format-text.c (_vg_write_raw, _vg_commit_raw_rlocn), lib/metadata/pv_manip.c
(pv_resize), lib/format_text/export.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import Incomplete, Unsupported
from onebay.base.step import Flush, Step, Write
from onebay.stack.lvm.group import MAX_EXTENTS, Group, LogicalVolume, PhysicalVolume
from onebay.stack.lvm.record import (
    LABEL,
    LABEL_SUMMED,
    MDA_HEADER,
    MDA_HEADER_SIZE,
    PV_HEADER,
    RAW_LOCN,
    SECTOR,
    RawLocn,
    crc,
)
from onebay.stack.lvm.text import Edit, apply_edits, parse, replace_number

if TYPE_CHECKING:
    from onebay.block.volume import Volume
    from onebay.stack.lvm.layer import VolumeGroup
    from onebay.stack.lvm.read import Area, Pv

RESERVED = "syno_vg_reserved_area"  # the appliance's own, of a fixed size
FOREIGN = ("EXPORTED", "CLUSTERED", "SHARED", "PVMOVE")


@dataclass(frozen=True)
class Gain:
    """A physical volume that gets extents `start..start+count`, and its new size in bytes."""

    pv: PhysicalVolume
    start: int
    count: int
    dev_size: int


def plan_grow(layer: VolumeGroup) -> list[Step]:
    """Return the steps; an empty list where every physical volume is full and all copies agree.

    Raises Unsupported.
    """
    group = layer.group
    refuse(layer)
    gains = [gain for pv in group.pvs if (gain := gain_of(group, pv))]
    text = new_text(layer, gains) if gains else layer.newest.text
    steps: list[Step] = []
    for pv in layer.present:
        for area in pv.areas:
            if not area.ignored and (area.copy is None or area.copy.text != text):
                steps += write_copy(pv.volume, area, text)
    sizes = {pv.uuid: pv.dev_size for pv in group.pvs} | {gain.pv.uuid: gain.dev_size for gain in gains}
    for pv in layer.present:
        if pv.device_size < sizes[pv.uuid] <= pv.volume.size:
            steps += write_label(pv, sizes[pv.uuid])
    return steps


def refuse(layer: VolumeGroup) -> None:
    """Raise Incomplete or Unsupported where the group must not be touched."""
    where = layer.below[0].name
    wanted = [pv.name for pv in layer.group.pvs]
    if len(layer.present) < len(wanted):
        raise Incomplete(
            f"lvm: a physical volume of {layer.name} is missing",
            volume=where,
            expected=f"{len(wanted)} ({', '.join(wanted)})",
            found=len(layer.present),
        )
    if reason := layer.keep_whole():
        raise Unsupported(reason, volume=where)
    if bad := [flag for flag in FOREIGN if flag in layer.group.status]:
        raise Unsupported(f"lvm: {layer.name} is {', '.join(bad).lower()}", volume=where)
    if (lock := layer.newest.vg.string("lock_type", "none")) != "none":
        raise Unsupported(f"lvm: {layer.name} is locked by {lock}", volume=where)
    if gone := [pv.name for pv in layer.group.pvs if pv.missing]:
        raise Unsupported(f"lvm: {', '.join(gone)} of {layer.name} is missing", volume=where)
    if layer.doubles:
        raise Unsupported("lvm: a physical volume is there twice", volume=layer.doubles[0].volume.name)
    for pv in layer.present:
        for area in pv.areas:
            if area.error:
                raise Unsupported(f"lvm: {area.error}", volume=pv.volume.name, at=area.start)


def gain_of(group: Group, item: PhysicalVolume) -> Gain | None:
    """Work out what a physical volume gains when it fills its volume; None where that is no whole extent."""
    pv = item.pv
    assert pv is not None, item.name
    size = pv.volume.size // SECTOR * SECTOR
    count = max(0, size - item.pe_start) // group.extent_size
    if count <= item.pe_count or size <= item.dev_size:
        return None
    behind = [area.start for area in pv.areas if area.start >= item.pe_start]
    behind += [area.offset + area.size for area in pv.data_areas if area.size]
    if behind:
        raise Unsupported("lvm: metadata at the end of the volume", volume=pv.volume.name, at=behind[0])
    if count >= MAX_EXTENTS:
        raise Unsupported("lvm: more extents than LVM counts", volume=pv.volume.name, found=count)
    return Gain(item, item.pe_count, count - item.pe_count, size)


def new_text(layer: VolumeGroup, gains: list[Gain]) -> bytes:
    """Return the metadata with the gains in it, given to the largest volume where there is one."""
    text, section = layer.newest.text, layer.newest.vg
    edits = [replace_number(text, section.leaf("seqno"), layer.group.seqno + 1)]
    for gain in gains:
        edits.append(replace_number(text, gain.pv.section.leaf("pe_count"), gain.start + gain.count))
        if "dev_size" in gain.pv.section.items:
            edits.append(replace_number(text, gain.pv.section.leaf("dev_size"), gain.dev_size // SECTOR))
    if lv := largest(layer):
        edits += extend(text, lv, gains)
    made = apply_edits(text, edits)
    parse(made)
    return made


def largest(layer: VolumeGroup) -> LogicalVolume | None:
    """Return the largest linear volume that is not the appliance's reserve, or None."""
    open_to = [lv for lv in layer.offered if lv.name != RESERVED and "LOCKED" not in lv.status]
    return max(open_to, key=lambda lv: lv.extents, default=None)


def extend(text: bytes, lv: LogicalVolume, gains: list[Gain]) -> list[Edit]:
    """Give the gains to a volume: its last segment grows where they touch, else segments are added."""
    last = lv.segments[-1]
    area = last.areas[0]
    rest = list(gains)
    edits: list[Edit] = []
    at = lv.extents
    for gain in gains:
        if gain.pv.name == area.pv and gain.start == area.start + area.count:
            edits.append(replace_number(text, last.section.leaf("extent_count"), last.count + gain.count))
            at += gain.count
            rest.remove(gain)
    if rest:
        number = len(lv.segments)
        added = b""
        for gain in rest:
            number += 1
            added += segment_text(number, at, gain)
            at += gain.count
        edits.append(replace_number(text, lv.section.leaf("segment_count"), number))
        edits.append(Edit(last.section.end, last.section.end, added))
    return edits


def segment_text(number: int, at: int, gain: Gain) -> bytes:
    """Write a linear segment as LVM does (export.c, out_segment)."""
    lines = (
        f"segment{number} {{",
        f"\tstart_extent = {at}",
        f"\textent_count = {gain.count}",
        "",
        '\ttype = "striped"',
        "\tstripe_count = 1",
        "",
        "\tstripes = [",
        f'\t\t"{gain.pv.name}", {gain.start}',
        "\t]",
        "}",
    )
    return ("\n" + "".join(f"\n\t\t\t{line}" if line else "\n" for line in lines)).encode()


def write_copy(volume: Volume, area: Area, text: bytes) -> list[Step]:
    """Write a text behind the one that counts, then the header that makes it count.

    Raises Unsupported where the ring has no room beside the old text.
    """
    header, old = area.header, area.locn
    assert header is not None, area.start
    room = area.size - MDA_HEADER_SIZE
    grid = max(SECTOR, volume.sector_size)
    start, held = 0, 0
    if old is not None and old.size:
        start = -(-(old.offset + old.size) // grid) * grid - MDA_HEADER_SIZE
        held = start - (old.offset - MDA_HEADER_SIZE)
        start %= room
    if held + -(-len(text) // SECTOR) * SECTOR > room:
        raise Unsupported(
            "lvm: metadata area too small",
            volume=volume.name,
            at=area.start,
            expected=held + len(text),
            found=room,
        )
    first = min(len(text), room - start)
    base = area.start + MDA_HEADER_SIZE
    steps: list[Step] = [Write(volume, base + start, text[:first], "lvm: new metadata")]
    if first < len(text):
        steps.append(Write(volume, base, text[first:], "lvm: new metadata, around the end of its area"))
    locn = RawLocn(MDA_HEADER_SIZE + start, len(text), crc(text), 0 if old is None else old.flags)
    locns = RAW_LOCN.pack(locn).ljust(len(header.raw_locns), b"\0")
    raw = MDA_HEADER.pack(header, raw_locns=locns)
    raw = crc(raw[4:]).to_bytes(4, "little") + raw[4:]
    return [
        *steps,
        Flush(volume),
        Write(volume, area.start, raw, "lvm: the new metadata counts"),
        Flush(volume),
    ]


def write_label(pv: Pv, size: int) -> list[Step]:
    """Write the label's sector with a new device size."""
    raw = bytearray(pv.label)
    header = PV_HEADER.unpack(raw, pv.inside)
    raw[pv.inside : pv.inside + PV_HEADER.size] = PV_HEADER.pack(header, device_size_xl=size)
    at = LABEL.offset("crc_xl")
    raw[at : at + 4] = crc(bytes(raw[LABEL_SUMMED:])).to_bytes(4, "little")
    return [Write(pv.volume, pv.at, bytes(raw), "lvm: size of the physical volume"), Flush(pv.volume)]
