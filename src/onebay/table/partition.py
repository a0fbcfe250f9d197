"""What a partition table consists of, whatever its format: partitions, gaps, and partitions to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onebay.block import Volume

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry of a table; `start` and `size` are bytes on the disk.

    `number` is that of Linux (logical partitions from 5, GPT entry index + 1). `type` is "0xfd" (MBR) or a
    GUID in upper case (GPT); `uuid` is what Linux calls PARTUUID: a GUID in upper case, or "signature-number"
    in hex. `inside` is the number of the extended partition that holds a logical one. `active` is the boot
    flag of an MBR entry, or the attribute "legacy BIOS bootable" of a GPT entry.
    """

    number: int
    start: int
    size: int
    type: str
    type_name: str
    uuid: str
    name: str
    active: bool
    volume: Volume = field(compare=False, repr=False)
    is_extended: bool = False
    inside: int | None = None

    @property
    def end(self) -> int:
        """First byte behind the partition."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class NewPartition:
    """A partition to be; `start` and `size` are bytes, `type` is as in `Partition`.

    Without `uuid` a GPT entry gets a random one (an MBR entry cannot have any); without `number` it gets the
    lowest free slot.
    """

    start: int
    size: int
    type: str
    name: str = ""
    uuid: str | None = None
    active: bool = False
    number: int | None = None

    @property
    def end(self) -> int:
        """First byte behind the partition."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes `start` up to `end` that a new partition could have.

    `kind` is "before-first", "between" or "tail" (behind the last one, also where there is none); `inside` is
    the number of the extended partition that the gap lies in, where only a logical partition can use it.
    """

    start: int
    end: int
    kind: str
    inside: int | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    def aligned(self, grid: int = MIB) -> Gap:
        """Return the part between multiples of `grid` bytes; its size may be zero."""
        start = -(-self.start // grid) * grid
        return Gap(start, max(start, self.end // grid * grid), self.kind, self.inside)


def find_gaps(taken: Iterable[tuple[int, int]], start: int, end: int, inside: int | None = None) -> list[Gap]:
    """Return what `taken` ranges leave of `start..end`, in order; ranges may touch or overlap."""
    found: list[Gap] = []
    at = start
    first = True
    for low, high in sorted(taken):
        if min(low, end) > at:
            found.append(Gap(at, min(low, end), "before-first" if first else "between", inside))
        first = False
        at = max(at, high)
    if end > at:
        found.append(Gap(at, end, "tail", inside))
    return found


def overlaps(partitions: Sequence[Partition]) -> list[tuple[Partition, Partition]]:
    """Return pairs of partitions that share bytes: each one with the furthest-reaching before it.

    A logical partition and its extended one are no pair.
    """
    found: list[tuple[Partition, Partition]] = []
    for group in (False, True):
        last: Partition | None = None
        for part in sorted(partitions, key=lambda p: (p.start, p.number)):
            if (part.inside is not None) != group:
                continue
            if last is not None and part.start < last.end:
                found.append((last, part))
            if last is None or part.end > last.end:
                last = part
    return found
