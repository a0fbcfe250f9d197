"""Bitmaps as bounds of runs, without a loop over bits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANGE = re.compile(rb"[^\0]")
BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def runs(bitmap: bytes, count: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open runs of ones in the first `count` bits; bit 0 is the lowest of byte 0.

    A bit of `v ^ v << 1` is set where a run begins or ends, so the work is that of the borders.
    """
    value = int.from_bytes(bitmap, "little") & ((1 << count) - 1)
    if value == 0:
        return
    changes = (value ^ value << 1).to_bytes(count // 8 + 1, "little")
    begin = -1
    for match in CHANGE.finditer(changes):
        at = match.start()
        for bit in BITS[changes[at]]:
            if begin < 0:
                begin = at * 8 + bit
            else:
                yield begin, at * 8 + bit
                begin = -1
