"""Synology DSM layouts, told apart by the numbers of their first two partitions.

DSM cuts every internal disk alike: p1 for the system, p2 for swap, a gap that it calls "reserved", then data
(p3, or with SHR logical p5 and on), and a tail that its storage manager leaves. Positions are kept in
512-byte sectors as DSM's tools print them; on a disk with 4096-byte sectors the same bytes are meant.
Sources: output of synopartition and of fdisk in public reports (007revad/Synology_M2_volume#13,
007revad/Synology_HDD_db#382), the constants of PeterSuh-Q3/tinycore-redpill functions.sh (v1.4.3.3). Other
layouts of the vendor (virtual DSM, eMMC) are not told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from onebay.table.partition import MIB, Gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.table.partition import Partition

SECTOR = 512
# Data partitions of the current layouts end about 100 MiB before the disk does; DSM's next operation on the
# disk expects to find that room. Version 7 leaves about 7 MiB, but gives up nothing by leaving more.
TAIL_SECTORS = 204800
SYSTEM_NUMBERS = (1, 2)


@dataclass(frozen=True, slots=True)
class Generation:
    """One way of DSM to cut a disk; every field is in 512-byte sectors."""

    name: str
    p1_start_sectors: int
    p1_size_sectors: int
    p2_start_sectors: int
    p2_size_sectors: int
    data_start_sectors: int  # of p3 when basic
    shr_start_sectors: int  # of the first partition when SHR

    @property
    def gap_start(self) -> int:
        """First byte of the reserved gap."""
        return (self.p2_start_sectors + self.p2_size_sectors) * SECTOR

    @property
    def gap_size(self) -> int:
        """Bytes of the reserved gap that are free in the basic and in the SHR layout alike."""
        return self.data_start_sectors * SECTOR - self.gap_start

    @property
    def tail(self) -> int:
        """Bytes to leave behind the last data partition."""
        return TAIL_SECTORS * SECTOR


GENERATIONS = (
    Generation("v7", 256, 4980480, 4980736, 4194304, 9437184, 9453280),
    Generation("v8", 2048, 4980480, 4982528, 4194304, 9437184, 9453280),
    Generation("v9", 8192, 16777216, 16785408, 4194304, 21241856, 21257952),
)


class Partitioned(Protocol):
    """Every table."""

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """In the order of their numbers."""

    def gaps(self) -> list[Gap]:
        """Free space, in order."""


def generation_of(partitions: Sequence[Partition]) -> Generation | None:
    """Return the layout whose p1 and p2 these are, exactly, or None."""
    have = {part.number: (part.start, part.size) for part in partitions if part.number in SYSTEM_NUMBERS}
    for layout in GENERATIONS:
        want = {
            1: (layout.p1_start_sectors * SECTOR, layout.p1_size_sectors * SECTOR),
            2: (layout.p2_start_sectors * SECTOR, layout.p2_size_sectors * SECTOR),
        }
        if have == want:
            return layout
    return None


def generation(table: Partitioned) -> Generation | None:
    """Return the DSM layout of a table, or None where it is not exactly one of them."""
    return generation_of(table.partitions)


def is_shr(table: Partitioned) -> bool:
    """Whether a DSM table is cut for SHR (an extended partition, or a partition 5) and not basic (p3)."""
    return any(part.is_extended or part.number == 5 for part in table.partitions)


def reserved_gap(table: Partitioned) -> Gap | None:
    """Return what is free now of the gap behind p2, the largest piece; None where nothing is, or no DSM.

    It is what the gap budget comes to: 127.125 MiB (basic v8) up to 135.9 MiB (GPT and SHR).
    """
    layout = generation(table)
    if layout is None:
        return None
    limit = layout.shr_start_sectors * SECTOR
    pieces = [
        gap if gap.end <= limit else Gap(gap.start, layout.data_start_sectors * SECTOR, "between")
        for gap in table.gaps()
        if gap.inside is None and layout.gap_start <= gap.start < layout.data_start_sectors * SECTOR
    ]
    return max(pieces, key=lambda gap: gap.size, default=None)


def tail_of(partitions: Sequence[Partition]) -> int:
    """Bytes that the layout wants free behind its last partition; 0 where it is no DSM layout."""
    layout = generation_of(partitions)
    return 0 if layout is None else layout.tail


def floor_mib(at: int) -> int:
    """Round a byte position down to a whole MiB."""
    return at // MIB * MIB
