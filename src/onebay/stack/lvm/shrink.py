"""Shrinking a group offline: what lvreduce and pvresize do, as edits of the text.

The volume that `grow` would grow gives up its end, as far as that lies beyond the new end of a physical
volume. Nothing is moved: whatever else lies there keeps the group from shrinking further. The steps are for
a copy of the disk; their order is that of growing all the same.
Source: lvm2 lib/metadata/lv_manip.c (lv_reduce), lib/metadata/pv_manip.c (pv_resize).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent, Refused, Unsupported
from onebay.stack.lvm.group import LogicalVolume, PhysicalVolume, read_group
from onebay.stack.lvm.grow import largest, refuse, write_copy, write_label
from onebay.stack.lvm.record import SECTOR
from onebay.stack.lvm.text import Edit, apply_edits, parse, replace_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.stack.lvm.layer import VolumeGroup


def fit(layer: VolumeGroup, below: Volume, size: int) -> tuple[Volume, int] | None:
    """Return the volume that shrinks and its bytes when the physical volume `below` has `size` bytes."""
    lv = largest(layer)
    if size < below.size:
        refuse(layer)
        pv = pv_on(layer, below)
        if lv is None:
            refuse_taken(layer, None, pv, extents_on(layer, pv, size))
            return None
        left = extents_left(layer, lv, pv, extents_on(layer, pv, size))
    elif lv is None:
        return None
    else:
        left = lv.extents
    return layer.above[layer.offered.index(lv)], left * layer.group.extent_size


def pv_on(layer: VolumeGroup, below: Volume) -> PhysicalVolume:
    """Return the physical volume that stands on `below`; raises Unsupported where it is not in use."""
    found = [pv for pv in layer.group.pvs if pv.pv is not None and pv.pv.volume is below]
    if not found:
        raise Unsupported(f"lvm: not a physical volume of {layer.name}", volume=below.name)
    return found[0]


def extents_on(layer: VolumeGroup, item: PhysicalVolume, size: int) -> int:
    """Return how many extents a physical volume has on `size` bytes; raises Refused or Unsupported."""
    pv = item.pv
    assert pv is not None, item.name
    behind = [area.start for area in pv.areas if area.start >= item.pe_start]
    behind += [area.offset + area.size for area in pv.data_areas if area.size]
    if behind:
        raise Unsupported("lvm: metadata at the end of the volume", volume=pv.volume.name, at=behind[0])
    count = (size - item.pe_start) // layer.group.extent_size
    if count < 1:
        raise Refused("lvm: no extent would be left", volume=pv.volume.name, found=size)
    return min(item.pe_count, count)


def refuse_taken(layer: VolumeGroup, lv: LogicalVolume | None, pv: PhysicalVolume, count: int) -> None:
    """Raise Refused where another volume than `lv` has extents from `count` on."""
    ends = [
        (area.start + area.count, other.name)
        for other in layer.group.lvs
        if other is not lv
        for segment in other.segments
        for area in segment.areas
        if area.pv == pv.name
    ]
    end, name = max(ends, default=(0, ""))
    if end > count:
        assert pv.pv is not None
        at = pv.pe_start + end * layer.group.extent_size
        raise Refused(f"lvm: {layer.name}/{name} reaches to {at}, and stays", volume=pv.pv.volume.name)


def extents_left(layer: VolumeGroup, lv: LogicalVolume, pv: PhysicalVolume, count: int) -> int:
    """Return how many extents of `lv` are left when `pv` has only `count`; raises Refused."""
    refuse_taken(layer, lv, pv, count)
    cuts = [
        segment.start + max(0, count - area.start)
        for segment in lv.segments
        for area in segment.areas
        if area.pv == pv.name and area.start + area.count > count
    ]
    left = min(cuts, default=lv.extents)
    if not left:
        raise Refused(f"lvm: nothing would be left of {layer.name}/{lv.name}", volume=layer.below[0].name)
    return left


def plan_shrink(layer: VolumeGroup, volumes: Sequence[Volume]) -> list[Step]:
    """Return the steps that fit the group to `volumes`; raises Refused, Unsupported, Incomplete."""
    refuse(layer)
    cuts = {
        pv_on(layer, old).name: new.size
        for old, new in zip(layer.below, volumes, strict=True)
        if new.size < old.size
    }
    text = new_text(layer, cuts) if cuts else layer.newest.text
    steps: list[Step] = []
    for pv, volume in zip(layer.present, volumes, strict=True):
        for area in pv.areas if text != layer.newest.text else ():
            if not area.ignored:
                steps += write_copy(volume, area, text)
        size = volume.size // SECTOR * SECTOR
        if pv.device_size > size:
            steps += write_label(replace(pv, volume=volume), size)
    return steps


def new_text(layer: VolumeGroup, cuts: dict[str, int]) -> bytes:
    """Return the metadata for physical volumes whose new sizes in bytes `cuts` has, by name."""
    text, section, group = layer.newest.text, layer.newest.vg, layer.group
    edits = [replace_number(text, section.leaf("seqno"), group.seqno + 1)]
    lv = largest(layer)
    left = lv.extents if lv else 0
    for pv in group.pvs:
        if pv.name not in cuts:
            continue
        count = extents_on(layer, pv, cuts[pv.name])
        if lv:
            left = min(left, extents_left(layer, lv, pv, count))
        else:
            refuse_taken(layer, None, pv, count)
        size = min(pv.dev_size, cuts[pv.name]) // SECTOR
        edits.append(replace_number(text, pv.section.leaf("pe_count"), count))
        if "dev_size" in pv.section.items:
            edits.append(replace_number(text, pv.section.leaf("dev_size"), size))
    if lv and left < lv.extents:
        edits += reduce(text, lv, left)
    made = apply_edits(text, edits)
    check(layer, made, lv, left)
    return made


def reduce(text: bytes, lv: LogicalVolume, left: int) -> list[Edit]:
    """Cut a volume down to its first `left` extents."""
    kept = [segment for segment in lv.segments if segment.start < left]
    last = kept[-1]
    edits: list[Edit] = []
    if last.start + last.count > left:
        edits.append(replace_number(text, last.section.leaf("extent_count"), left - last.start))
    if len(kept) < len(lv.segments):
        edits.append(replace_number(text, lv.section.leaf("segment_count"), len(kept)))
        edits.append(Edit(last.section.end, lv.segments[-1].section.end, b""))
    return edits


def check(layer: VolumeGroup, text: bytes, lv: LogicalVolume | None, left: int) -> None:
    """Raise Inconsistent where the new text does not say what it should."""
    (section,) = parse(text).sections()
    made = read_group(section, {})
    wanted = {old.name: left if old is lv else old.extents for old in layer.group.lvs}
    found = {new.name: new.extents for new in made.lvs}
    if found != wanted:
        raise Inconsistent("lvm: new metadata", volume=layer.below[0].name, expected=wanted, found=found)
