"""The keep map: runs of blocks as variable-length integers, packed and unpacked as a stream.

A disk may have ten million extents. Neither side holds more than the set itself and a few kilobytes.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import zstandard

from onebay.base.error import Damaged, Inconsistent, Unsupported
from onebay.base.extent import ExtentSet
from onebay.image.codec import compressor, decompressor
from onebay.image.record import MAX_RUNS

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 64 << 10


def aligned(keep: ExtentSet, grid: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of `keep`, grown to multiples of `grid` bytes, merged, and cut off at byte `end`."""
    bounds = iter(keep.bounds)
    first = last = 0
    for start in bounds:
        down, up = start // grid * grid, -(-next(bounds) // grid) * grid
        if down > last:
            if last > first:
                yield first, min(last, end)
            first = down
        last = up
    if min(last, end) > first:
        yield first, min(last, end)


def pack_map(keep: ExtentSet, grid: int, disk_size: int) -> tuple[bytes, int]:
    """Return the packed map and its number of runs; raises Unsupported beyond 2^26 runs."""
    codec = compressor(3).compressobj()
    out: list[bytes] = []
    raw = bytearray()
    last = runs = 0
    for start, end in aligned(keep, grid, disk_size):
        runs += 1
        stop = -(-end // grid)
        for number in (start // grid - last, stop - start // grid):
            left = number
            while left > 0x7F:
                raw.append(left & 0x7F | 0x80)
                left >>= 7
            raw.append(left)
        last = stop
        if len(raw) >= CHUNK:
            out.append(codec.compress(bytes(raw)))
            raw.clear()
    if runs > MAX_RUNS:
        raise Unsupported("too many runs of used blocks", expected=f"<= {MAX_RUNS}", found=runs)
    out += (codec.compress(bytes(raw)), codec.flush())
    return b"".join(out), runs


def integers(stored: bytes, name: str) -> Iterator[int]:
    """Yield the variable-length integers of a packed map; raises Damaged where one is too long or cut."""
    reader = decompressor().stream_reader(stored)
    value = shift = 0
    try:
        while piece := reader.read(CHUNK):
            for byte in piece:
                value |= (byte & 0x7F) << shift
                if byte & 0x80:
                    shift += 7
                    if shift > 56:
                        raise Damaged("keep map: a number is too long", volume=name)
                else:
                    yield value
                    value = shift = 0
    except zstandard.ZstdError as error:
        raise Damaged(f"keep map: {error}", volume=name) from error
    if shift:
        raise Damaged("keep map ends within a number", volume=name)


def unpack_map(stored: bytes, runs: int, grid: int, disk_size: int, name: str) -> ExtentSet:
    """Return the set of kept bytes; raises Damaged where the map does not have `runs` runs in the disk."""
    blocks = -(-disk_size // grid)
    if runs > min(MAX_RUNS, blocks // 2 + 1):
        raise Damaged("keep map: number of runs", volume=name, expected=f"<= {MAX_RUNS}", found=runs)
    bounds: array[int] = array("Q")
    at = 0
    limit = 2 * runs
    for number in integers(stored, name):
        if number == 0 and bounds:
            raise Damaged("keep map: an empty run", volume=name)
        at += number
        if at > blocks or len(bounds) == limit:
            raise Inconsistent("keep map goes beyond the disk or its own count", volume=name)
        bounds.append(at * grid)
    if len(bounds) != limit:
        raise Inconsistent("keep map: number of runs", volume=name, expected=runs, found=len(bounds) // 2)
    if bounds and bounds[-1] > disk_size:
        bounds[-1] = disk_size
    return ExtentSet(bounds)
