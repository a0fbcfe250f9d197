"""What MBR and GPT have in common as a layer, and which partition gets the room of a larger disk."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.base.extent import Extent, ExtentSet
from onebay.base.step import Zero
from onebay.layer import Finding, Layer
from onebay.table import dsm
from onebay.table.kinds import NOT_DATA
from onebay.table.partition import MIB, Gap, Partition, find_gaps, overlaps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.base.step import Step
    from onebay.layer import Value, Volume

# A smaller partition behind a larger one is somebody's boot or parameter area, not data.
TINY = 256 * MIB
# md 0.90 and 1.0 keep their superblock within the last 128 KiB of a partition; whoever owned the disk before
# may have left one just where the grown partition ends.
STALE = 128 << 10
# With these, a table must not be written: we do not know what its owner meant.
UNWRITABLE = frozenset({"overlap", "outside-usable", "covers-table", "logical-outside"})


class Table(Layer):
    """A partition table on one disk; `partitions` are in the order of their numbers."""

    partitions: tuple[Partition, ...]
    findings: tuple[Finding, ...]

    def __init__(
        self, volume: Volume, partitions: Sequence[Partition], findings: Sequence[Finding] = ()
    ) -> None:
        self.volume = volume
        self.below = (volume,)
        self.partitions = tuple(sorted(partitions, key=lambda part: part.number))
        self.above = tuple(part.volume for part in self.partitions if not part.is_extended)
        self.findings = (*findings, *self.misplaced())

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """The disk's GUID in upper case, or its MBR signature as 8 hex digits."""

    @property
    @abc.abstractmethod
    def usable(self) -> Extent:
        """The bytes that the table may give to partitions."""

    @abc.abstractmethod
    def metadata(self) -> ExtentSet:
        """The bytes of the table itself, wherever they are."""

    @abc.abstractmethod
    def limit_on(self, size: int) -> int:
        """First byte that no partition could reach on a disk of `size` bytes."""

    @abc.abstractmethod
    def plan_end(self, disk: Volume, end: int) -> list[Step]:
        """Return the steps that put the table on `disk`, a shorter copy of its own.

        The data partition then ends at byte `end`; without one `end` says nothing. Raises Refused or
        Unsupported where the table is not fit to be written anew.
        """

    def growth_limit(self) -> int:
        """First byte that no partition could reach after `plan_grow`."""
        return self.limit_on(self.volume.size)

    def partition(self, number: int) -> Partition | None:
        """Return the partition with this number, or None."""
        return next((part for part in self.partitions if part.number == number), None)

    def used(self) -> tuple[ExtentSet, ...]:
        return (self.metadata(),)

    def outside(self) -> ExtentSet:
        """Return every byte that is in no partition; what belongs to an extended one only is outside."""
        inside = ExtentSet.of((part.start, part.end) for part in self.partitions if not part.is_extended)
        return ExtentSet.single(0, self.volume.size) - inside

    def gaps(self) -> list[Gap]:
        """Return the free space, in order; that inside an extended partition has `inside` set."""
        primary = [part for part in self.partitions if part.inside is None]
        found = find_gaps(((part.start, part.end) for part in primary), *self.usable)
        for extended in (part for part in primary if part.is_extended):
            taken = [(p.start, p.end) for p in self.partitions if p.inside == extended.number]
            taken += self.metadata().clip(extended.start, extended.end)
            gaps = find_gaps(taken, extended.start, extended.end, extended.number)
            found += [gap for gap in gaps if gap.start < self.usable.end]
        return sorted(found, key=lambda gap: gap.start)

    def facts(self) -> Mapping[str, Value]:
        layout = dsm.generation(self)
        return {
            "identity": self.identity,
            "sector_size": self.volume.sector_size,
            "usable_start": self.usable.start,
            "usable_end": self.usable.end,
            "dsm_layout": layout.name if layout else None,
            "dsm_shr": dsm.is_shr(self) if layout else None,
            "partitions": [describe(part) for part in self.partitions],
            "gaps": [
                {"start": gap.start, "size": gap.size, "kind": gap.kind, "inside": gap.inside}
                for gap in self.gaps()
            ],
        }

    def check(self) -> list[Finding]:
        found = list(self.findings)
        last = self.last_partition
        if last is not None and self.data_partition is None and self.room_behind(last) >= MIB:
            why = self.growth_block() or ""
            found.append(Finding("note", "growth-blocked", why, self.volume.name, last.start))
        return found

    def finding(self, severity: str, kind: str, text: str, at: int | None = None) -> Finding:
        """Return a finding about this table."""
        return Finding(severity, kind, text, self.volume.name, at)

    def misplaced(self) -> list[Finding]:
        """Return a finding for every partition that overlaps another one or the table."""
        found = [
            self.finding("damage", "overlap", f"p{a.number} and p{b.number} overlap", b.start)
            for a, b in overlaps(self.partitions)
        ]
        metadata = self.metadata()
        found += [
            self.finding("damage", "covers-table", f"p{p.number} covers the partition table", p.start)
            for p in self.partitions
            if not p.is_extended and metadata.overlaps(p.start, p.end)
        ]
        return found

    def refuse_writing(self) -> None:
        """Raise Refused where the table is too damaged to be changed."""
        for finding in self.findings:
            if finding.kind in UNWRITABLE:
                raise Refused(finding.text, volume=self.volume.name, at=finding.at)

    @property
    def last_partition(self) -> Partition | None:
        """The partition that ends last on the disk, extended ones aside."""
        data = [part for part in self.partitions if not part.is_extended]
        return max(data, key=lambda part: (part.end, part.number), default=None)

    @property
    def data_partition(self) -> Partition | None:
        """The partition that `plan_grow` gives new room to; None where none may have it."""
        return None if self.growth_block() is not None else self.last_partition

    def growth_block(self) -> str | None:
        """Say why no partition may grow into the room behind the last one; None where it may."""
        last = self.last_partition
        if last is None:
            return "there is no partition"
        if last.type in NOT_DATA:
            return f"the last partition, p{last.number}, is of type {last.type_name} and keeps its size"
        if last.number in dsm.SYSTEM_NUMBERS and dsm.generation(self):
            return f"the last partition, p{last.number}, belongs to the appliance's system and keeps its size"
        if last.size < TINY and any(p.size > last.size for p in self.partitions if not p.is_extended):
            return f"the last partition, p{last.number}, is a small one behind the data and keeps its size"
        behind = [p for p in self.partitions if p.is_extended and p.number != last.inside]
        if any(part.end > last.end for part in behind):
            return f"an empty extended partition lies behind the last partition, p{last.number}"
        return None

    def room_behind(self, part: Partition) -> int:
        """Bytes that `part` would gain if it grew; 0 where there is nothing to gain."""
        return max(0, self.grown_end(part) - part.end)

    def grown_end(self, part: Partition) -> int:
        """Return where `part` ends when it has grown: on a MiB, before the layout's tail; never earlier."""
        limit = min(self.growth_limit(), self.volume.size - dsm.tail_of(self.partitions))
        return max(part.end, dsm.floor_mib(limit))

    @property
    def tail(self) -> int:
        """Bytes behind the last partition that the layout keeps free, as far as it has them now."""
        last = max((part.end for part in self.partitions), default=0)
        return min(dsm.tail_of(self.partitions), max(0, self.volume.size - last))

    def shrunk_end(self, size: int, *, tail: int = 0) -> int:
        """Return where the last partition ends on a disk of `size` bytes with `tail` bytes free behind it.

        It stays where that is early enough, else it comes to lie on a MiB. Raises Refused where `size` is too
        small.
        """
        limit = min(self.limit_on(size), size - max(tail, self.tail))
        part = self.data_partition
        if part is None:
            last = max((part.end for part in self.partitions), default=0)
            if last > limit:
                raise Refused(self.growth_block() or "", volume=self.volume.name, expected=last, found=limit)
            return last
        end = part.end if part.end <= limit else dsm.floor_mib(limit)
        if end <= part.start:
            raise Refused(f"p{part.number} begins at {part.start}", volume=self.volume.name)
        if end < part.end:
            self.refuse_tiny(part, end - part.start)
        return end

    def refuse_tiny(self, part: Partition, size: int) -> None:
        """Raise Refused where `part` with `size` bytes would be taken for a boot partition behind data."""
        largest = max(
            (other.size for other in self.partitions if other is not part and not other.is_extended),
            default=0,
        )
        if size < min(TINY, largest):
            raise Refused(
                f"p{part.number} would be taken for a boot partition, and would not grow again",
                volume=self.volume.name,
                expected=f">= {min(TINY, largest)} bytes",
                found=size,
            )

    def plan_clear_end(self, part: Partition, end: int, *, keep: ExtentSet) -> list[Step]:
        """Return steps that zero the last 128 KiB of what `part` gains by ending at `end`, save `keep`."""
        fresh = ExtentSet.single(max(part.end, end - STALE), end) - keep
        why = f"clear the end of the room that p{part.number} gets"
        return [Zero(self.volume, low, high - low, why) for low, high in fresh]


def describe(part: Partition) -> dict[str, Value]:
    """Return a partition for `inspect --json`."""
    return {
        "number": part.number,
        "start": part.start,
        "size": part.size,
        "type": part.type,
        "type_name": part.type_name,
        "uuid": part.uuid,
        "name": part.name,
        "active": part.active,
        "extended": part.is_extended,
        "inside": part.inside,
    }
