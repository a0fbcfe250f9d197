"""What many rounds say: medians, and ratios of medians."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of some rounds."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Summarise rounds; raises ValueError where there are none."""
    if not values:
        raise ValueError("no rounds")
    return Spread(median(values), min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the ratio of the medians; raises ValueError without rounds, or where theirs took nothing."""
    base = spread(theirs).median
    if base <= 0:
        raise ValueError("nothing to compare with")
    return spread(ours).median / base


def interleaved(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield A B C, A B C, ..., so that what slows a machine down for a while slows all."""
    for turn in range(rounds):
        for name in names:
            yield turn, name
