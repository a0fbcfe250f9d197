"""The array that a group of members makes: which members are in sync, what is missing, where data lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.extent import ExtentSet
from onebay.block.volume import Span
from onebay.layer import Finding, Layer, Suspect
from onebay.stack.md import shrink
from onebay.stack.md.grow import plan_fill
from onebay.stack.md.read import Superblock
from onebay.stack.md.record import Feature, Super1

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.layer import Member, Value

LEVELS = {-10: "faulty", -4: "multipath", -1: "linear", 0: "raid0", 1: "raid1", 4: "raid4", 5: "raid5",
          6: "raid6", 10: "raid10"}  # fmt: skip
SPARE_DISKS = {4: 1, 5: 1, 6: 2, 10: 1}  # members that a level can always do without


def assemble(members: Sequence[Member]) -> MdArray | Suspect:
    """Join members of one UUID; those that disagree on what the array is make a Suspect."""
    blocks = [member.detail for member in members if isinstance(member.detail, Superblock)]
    best = max(blocks, key=lambda sb: sb.events)
    for sb in blocks:
        for what in ("level", "raid_disks", "version"):
            expected, found = getattr(best, what), getattr(sb, what)
            if expected != found:
                evidence = f"members disagree on {what}: expected {expected}, found {found}"
                return Suspect("md", sb.volume, evidence, sb.at)
    return MdArray(blocks)


class MdArray(Layer):
    """An md array. `below` are all members found, in role order; `in_sync` those whose data counts.

    `replicas` has one volume for each member in sync, each with all of the array's bytes: what is read from
    `above` must be written to every one of them.
    """

    kind = "md"
    growth = "RAID1 of one member with metadata 1.x; 0.90 and all else keep their size"
    shrinkage = "as it grows; 1.0 with a bitmap keeps its size"

    def __init__(self, blocks: Sequence[Superblock]) -> None:
        self.members = tuple(sorted(blocks, key=lambda sb: (sb.slot < 0, sb.slot, -sb.events)))
        self.best = max(self.members, key=lambda sb: (sb.events, sb.in_sync, -sb.slot))
        self.below = tuple(sb.volume for sb in self.members)
        self.doubles: list[Superblock] = []
        self.in_sync = self.choose()
        self.size = min((sb.size for sb in self.in_sync), default=self.best.size)
        self.reason = self.why_whole()
        self.replicas: tuple[Volume, ...] = ()
        if self.reason is None:
            self.replicas = tuple(
                Span(f"{sb.volume.name}:md", sb.volume, sb.data_offset, self.size) for sb in self.in_sync
            )
        self.above = self.replicas[:1]

    def choose(self) -> tuple[Superblock, ...]:
        """Return the members in sync, one for each role.

        As md does, a member one event behind counts (power failed between two superblock writes), and what
        the freshest member says of the others decides.
        """
        found: dict[int, Superblock] = {}
        for sb in self.members:
            agreed = self.best.roles.get(sb.number) == sb.slot
            if not (sb.in_sync and agreed and sb.events + 1 >= self.best.events):
                continue
            if sb.slot in found:
                self.doubles.append(sb)
            else:
                found[sb.slot] = sb
        return tuple(found.values())

    def why_whole(self) -> str | None:
        """Say why the array's data cannot be offered, or None."""
        if odd := next((sb.odd for sb in self.members if sb.odd), None):
            return f"md: {odd}"
        if self.best.level != 1:
            return f"md {self.level} is known by name only"
        if not self.in_sync:
            return "md: no member in sync"
        if loose := next((sb for sb in self.in_sync if not sb.fits), None):
            return f"md: the superblock claims more than {loose.volume.name} has"
        if self.size == 0:
            return "md: the array has no size"
        return None

    @property
    def divided(self) -> str | None:
        """Say where else the array's data count, so that writing to `above` alone would split it; or None."""
        if len(self.replicas) > 1:
            return f"md: {len(self.replicas)} members in sync are on this disk"
        absent = set(self.best.roles.values()) - {sb.slot for sb in self.in_sync}
        if self.best.level == 1 and absent:
            return f"md: the array counts on its member {min(absent)}, which is not on this disk"
        return None

    @property
    def level(self) -> str:
        """The level by md's name."""
        return LEVELS.get(self.best.level, f"level {self.best.level}")

    @property
    def uuid(self) -> str:
        """The array's UUID in mdadm's form."""
        return self.best.uuid

    @property
    def name(self) -> str:
        """The array's name, `host:number` by custom; empty with metadata 0.90."""
        return self.best.name

    @property
    def version(self) -> str:
        """Metadata version."""
        return self.best.version

    @property
    def raid_devices(self) -> int:
        """How many members the complete array has."""
        return self.best.raid_disks

    @property
    def state(self) -> str:
        """`clean`, or `active` where writes were under way when it was last seen."""
        return "clean" if self.best.clean else "active"

    @property
    def title(self) -> str:
        return f"md {self.level}"

    def facts(self) -> Mapping[str, Value]:
        """Identity and geometry; `size` and `data_offset` in bytes, `slots` the roles found in sync."""
        record = self.best.record
        features = record.feature_map if isinstance(record, Super1) else 0
        return {
            "level": self.level,
            "metadata": self.version,
            "uuid": self.uuid,
            "name": self.name,
            "minor": None if isinstance(record, Super1) else record.md_minor,
            "raid_devices": self.raid_devices,
            "slots": [sb.slot for sb in self.in_sync],
            "degraded": len(self.in_sync) < self.raid_devices,
            "state": self.state,
            "events": self.best.events,
            "size": self.size,
            "data_offset": self.best.data_offset,
            "chunk_size": self.best.chunk_size,
            "bitmap": bool(features & Feature.BITMAP_OFFSET),
            "features": [feature.name for feature in Feature if features & feature],
        }

    def used(self) -> tuple[ExtentSet, ...]:
        """Everything outside the data area of members in sync and of spares; all of any other member."""
        return tuple(self.used_of(sb) for sb in self.members)

    def used_of(self, sb: Superblock) -> ExtentSet:
        """Bytes of one member that the layer keeps."""
        whole = ExtentSet.single(0, sb.volume.size)
        if self.reason is not None or not sb.fits or not (sb in self.in_sync or sb.slot == -1):
            return whole
        return whole - ExtentSet.single(sb.data_offset, sb.data_end)

    def keep_whole(self) -> str | None:
        return self.reason

    def check(self) -> list[Finding]:
        return [*self.check_members(), *self.check_state()]

    def check_members(self) -> list[Finding]:
        """Compare the members that are there with those that should be."""
        found = []
        where = self.best.volume.name
        present, wanted = len(self.in_sync), self.raid_devices
        least = {1: 1}.get(self.best.level, wanted - SPARE_DISKS.get(self.best.level, 0))
        if present < min(least, wanted) or not present:
            text = f"{present} of {wanted} members in sync, at least {least} needed"
            found.append(Finding("damage", "md-incomplete", text, where))
        elif present < wanted:
            found.append(Finding("note", "md-degraded", f"{present} of {wanted} members in sync", where))
        for sb in self.doubles:
            text = f"two members claim role {sb.slot}; {where} is read"
            found.append(Finding("damage", "md-conflict", text, sb.volume.name, sb.at))
        for sb in self.members:
            if sb not in self.in_sync and sb not in self.doubles and sb.slot != -1:
                text = f"events {sb.events} behind {self.best.events}, or out of sync; it is kept as it is"
                found.append(Finding("warning", "md-stale-member", text, sb.volume.name, sb.at))
        return found

    def check_state(self) -> list[Finding]:
        """Look at the superblocks themselves."""
        found = []
        for sb in self.members:
            if not sb.fits:
                text = f"superblock claims {sb.data_end} bytes, the volume has {sb.volume.size}"
                found.append(Finding("damage", "md-size-mismatch", text, sb.volume.name, sb.at))
            if isinstance(sb.record, Super1) and sb.record.feature_map & Feature.BAD_BLOCKS:
                text = "the bad block list is not empty"
                found.append(Finding("warning", "md-bad-blocks", text, sb.volume.name, sb.at))
        if not self.best.clean:
            text = "the array was not stopped cleanly"
            found.append(Finding("note", "md-dirty", text, self.best.volume.name, self.best.at))
        if self.version == "0.90":
            text = "metadata 0.90 stands at the end of its partition: neither is ever grown"
            found.append(Finding("note", "md-fixed", text, self.best.volume.name, self.best.at))
        return found

    def plan_grow(self) -> list[Step]:
        """Fill the members; nothing with metadata 0.90, which only an appliance's system arrays have.

        Raises Unsupported for other levels, reshapes, stale members, and bitmaps that have no room.
        """
        return [] if self.version == "0.90" else plan_fill(self, self.below)

    def plan_move(self, grown: Sequence[Volume]) -> list[Step]:
        """Fill `grown`, the members as they will be, before the table makes them so.

        Needed with metadata 1.0, whose superblock stands at the end: a member that became longer without it
        is not found any more. Raises Unsupported as `plan_grow` does, and for metadata 0.90.
        """
        return plan_fill(self, grown)

    def fit(self, below: Volume, size: int) -> tuple[Volume, int] | None:
        return shrink.fit(self, below, size)

    def plan_shrink(self, below: Sequence[Volume]) -> list[Step]:
        """Fit the array to its one member; raises Unsupported for several members, and metadata 0.90."""
        cut = [new for old, new in zip(self.below, below, strict=True) if new.size < old.size]
        return shrink.plan_shrink(self, cut[0]) if cut else []
