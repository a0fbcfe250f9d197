"""The volume group as a layer: what it offers, what it needs, what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Damaged
from onebay.base.extent import ExtentSet
from onebay.block.volume import Concat, Piece
from onebay.layer import Finding, Layer, Suspect
from onebay.stack.lvm import shrink
from onebay.stack.lvm.group import Group, LogicalVolume, read_group
from onebay.stack.lvm.grow import plan_grow
from onebay.stack.lvm.read import Area, Copy, Pv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.layer import Member, Value


def assemble(members: Sequence[Member]) -> VolumeGroup | Suspect:
    """Join the physical volumes of one group by their newest metadata."""
    pvs = [member.detail for member in members if isinstance(member.detail, Pv)]
    best = max(pvs, key=lambda pv: -1 if pv.newest is None else pv.newest.seqno)
    newest = best.newest
    assert newest is not None
    found: dict[str, Pv] = {}
    doubles: list[Pv] = []
    for pv in pvs:
        if pv.uuid in found:
            doubles.append(pv)
        else:
            found[pv.uuid] = pv
    try:
        group = read_group(newest.vg, found)
    except Damaged as error:
        return Suspect("lvm", best.volume, str(error), best.at)
    return VolumeGroup(group, newest, tuple(found.values()), tuple(doubles))


class VolumeGroup(Layer):
    """A volume group on the physical volumes `present`, then `doubles`, copies of one of them."""

    kind = "lvm"
    growth = "the physical volume, then the largest linear volume"
    shrinkage = "the end of the largest linear volume, unless another one lies behind it; the physical volume"

    def __init__(self, group: Group, newest: Copy, present: tuple[Pv, ...], doubles: tuple[Pv, ...]) -> None:
        self.group, self.newest, self.doubles = group, newest, doubles
        listed = {pv.uuid: number for number, pv in enumerate(group.pvs)}
        self.present = tuple(sorted(present, key=lambda pv: listed.get(pv.uuid, len(listed))))
        self.below = tuple(pv.volume for pv in (*self.present, *doubles))
        self.listed = {pv.name: pv for pv in group.pvs}
        self.reason = self.why_whole()
        offered = [lv for lv in group.lvs if group.offered(lv)] if self.reason is None else []
        self.offered = tuple(offered)
        self.offered_names = frozenset(lv.name for lv in offered)
        self.above = tuple(self.volume_of(lv) for lv in offered)

    def why_whole(self) -> str | None:
        """Say why nothing of the group can be offered, or None."""
        if self.group.overlap:
            return f"lvm: {self.group.overlap}"
        kind = self.newest.vg.string("format", "lvm2")
        return None if kind == "lvm2" else f"lvm: metadata format {kind} is not supported"

    def volume_of(self, lv: LogicalVolume) -> Volume:
        """Return a linear logical volume as a volume."""
        parts: list[Piece] = []
        for segment in lv.segments:
            area = segment.areas[0]
            pv = self.listed[area.pv]
            assert pv.pv is not None, pv.name
            size = self.group.extent_size
            parts.append(Piece(pv.pv.volume, pv.pe_start + area.start * size, area.count * size))
        sector = max(part.volume.sector_size for part in parts)
        return Concat(f"{self.name}/{lv.name}", parts, sector)

    @property
    def name(self) -> str:
        """Name of the group."""
        return self.group.name

    @property
    def uuid(self) -> str:
        """UUID of the group, with dashes as LVM shows it."""
        return self.group.uuid

    @property
    def title(self) -> str:
        return f"lvm vg {self.name}"

    def facts(self) -> Mapping[str, Value]:
        """Identity and layout, sizes in bytes; `offered` tells which volumes can be read and grown."""
        group = self.group
        taken = group.claimed(group.lvs)
        pvs: list[Value] = [
            {
                "name": pv.name,
                "uuid": pv.uuid,
                "volume": None if pv.pv is None else pv.pv.volume.name,
                "size": pv.dev_size,
                "pe_start": pv.pe_start,
                "extents": pv.pe_count,
                "allocated": taken[pv.name].size // group.extent_size,
                "missing": pv.missing,
            }
            for pv in group.pvs
        ]
        lvs: list[Value] = [
            {
                "name": lv.name,
                "uuid": lv.uuid,
                "size": lv.extents * group.extent_size,
                "types": list(lv.types),
                "segments": len(lv.segments),
                "visible": lv.visible,
                "offered": lv.name in self.offered_names,
            }
            for lv in group.lvs
        ]
        return {
            "name": group.name,
            "uuid": group.uuid,
            "seqno": group.seqno,
            "extent_size": group.extent_size,
            "status": list(group.status),
            "pvs": pvs,
            "lvs": lvs,
        }

    def used(self) -> tuple[ExtentSet, ...]:
        """LVM's own bytes and the extents of volumes that are not offered; free extents are not used."""
        kept = self.group.claimed(lv for lv in self.group.lvs if lv.name not in self.offered_names)
        return tuple(self.used_of(pv, kept) for pv in self.present) + tuple(
            ExtentSet.single(0, pv.volume.size) for pv in self.doubles
        )

    def used_of(self, pv: Pv, kept: Mapping[str, ExtentSet]) -> ExtentSet:
        """Bytes of one physical volume that the layer keeps."""
        whole = ExtentSet.single(0, pv.volume.size)
        listed = next((item for item in self.group.pvs if item.uuid == pv.uuid), None)
        if self.reason is not None or listed is None:
            return whole
        return (pv.metadata(listed.pe_start) | kept[listed.name]) & whole

    def keep_whole(self) -> str | None:
        return self.reason

    def check(self) -> list[Finding]:
        return [*self.check_volumes(), *self.check_copies()]

    def check_volumes(self) -> list[Finding]:
        """Look at physical and logical volumes."""
        where = self.present[0].volume.name
        found = [Finding("damage", "lvm-overlap", self.group.overlap, where)] if self.group.overlap else []
        for pv in self.group.pvs:
            if pv.missing:
                text = f"physical volume {pv.name} ({pv.uuid}) of {self.name} is missing"
                found.append(Finding("damage", "lvm-pv-missing", text, where))
            elif pv.pv is not None and pv.dev_size > pv.pv.volume.size:
                text = f"{pv.name} claims {pv.dev_size} bytes, the volume has {pv.pv.volume.size}"
                found.append(Finding("damage", "lvm-pv-size", text, pv.pv.volume.name))
        for double in self.doubles:
            text = f"a second physical volume {double.uuid}; the first one is read"
            found.append(Finding("damage", "lvm-pv-duplicate", text, double.volume.name, double.at))
        for lv in self.group.lvs:
            if lv.fault and lv.visible:
                text = f"{self.name}/{lv.name} cannot be used: {lv.fault}"
                found.append(Finding("damage", "lvm-lv-unusable", text, where))
        return found

    def check_copies(self) -> list[Finding]:
        """Compare the copies of the metadata; the newest whole one counts."""
        found: list[Finding] = []
        for pv in self.present:
            for area in pv.areas:
                text = self.copy_fault(area)
                found += (
                    [Finding("warning", "lvm-copies-differ", text, pv.volume.name, area.start)]
                    if text
                    else []
                )
        return found

    def copy_fault(self, area: Area) -> str | None:
        """Say how a metadata area differs from the newest copy, or None."""
        if area.error or area.ignored:
            return area.error
        if area.copy is None:
            return f"an empty metadata area; seqno {self.newest.seqno} counts"
        if area.copy.seqno != self.newest.seqno:
            return f"seqno {area.copy.seqno}; {self.newest.seqno} counts"
        return None if area.copy.text == self.newest.text else f"another text of seqno {area.copy.seqno}"

    def plan_grow(self) -> list[Step]:
        """Grow the physical volumes, and with the new extents the largest linear volume.

        Raises Unsupported where a physical volume is missing or double, metadata is damaged, the group is
        exported or shared, or a second metadata area stands at the end of a volume.
        """
        return plan_grow(self)

    def fit(self, below: Volume, size: int) -> tuple[Volume, int] | None:
        """Say what is left of the largest linear volume; any other one beyond `size` is named and refused."""
        return shrink.fit(self, below, size)

    def plan_shrink(self, below: Sequence[Volume]) -> list[Step]:
        return shrink.plan_shrink(self, below)
