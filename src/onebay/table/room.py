"""Whether partitions to be fit into a table's free space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onebay.block import Volume
    from onebay.table.partition import NewPartition, Partition


def check_additions(
    volume: Volume,
    partitions: Iterable[Partition],
    usable: tuple[int, int],
    additions: Sequence[NewPartition],
) -> None:
    """Raise Refused where an addition is empty, off the sectors, outside, or on another partition."""
    name, sector = volume.name, volume.sector_size
    taken = [(part.start, part.end, f"p{part.number}") for part in partitions]
    low, high = usable
    for new in additions:
        if new.size <= 0 or new.start % sector or new.size % sector:
            raise Refused(
                f"a new partition must be whole sectors of {sector} bytes",
                volume=name,
                at=new.start,
                found=f"{new.size} bytes",
            )
        if new.start < low or new.end > high:
            raise Refused(
                "a new partition is outside the usable space",
                volume=name,
                at=new.start,
                expected=f"{low}..{high}",
                found=f"{new.start}..{new.end}",
            )
        for start, end, what in taken:
            if new.start < end and start < new.end:
                raise Refused(f"a new partition would overlap {what}", volume=name, at=new.start)
        taken.append((new.start, new.end, "another new one"))
