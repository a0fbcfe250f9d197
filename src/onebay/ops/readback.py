"""Compare a disk with an image's digests: only bytes that matter count, the rest counts as zeros."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import BadChecksum
from onebay.image import State

if TYPE_CHECKING:
    from onebay.base.extent import ExtentSet
    from onebay.block import Volume

CHUNK = 2 << 20


class Seen(NamedTuple):
    """What is compared: a frame's place, state, and the SHA-256 of its content where it has data."""

    at: int
    size: int
    state: State
    digest: bytes


def masked(disk: Volume, keep: ExtentSet, at: int, size: int) -> bytearray:
    """Return `size` bytes of `disk` at byte `at`, with zeros for what is not in `keep`."""
    out = bytearray(size)
    for start, end in keep.clip(at, at + size):
        out[start - at : end - at] = disk.read(start, end - start)
    return out


def matches(disk: Volume, keep: ExtentSet, seen: Seen) -> bool:
    """Whether the disk holds what a frame says, as far as it matters."""
    if seen.state == State.DONT_CARE:
        return True
    if seen.state == State.DATA:
        return sha256(masked(disk, keep, seen.at, seen.size)).digest() == seen.digest
    zeros = bytes(CHUNK)
    for start, end in keep.clip(seen.at, seen.at + seen.size):
        for part in disk.data(start, end):
            for piece in range(part.start, part.end, CHUNK):
                length = min(CHUNK, part.end - piece)
                if disk.read(piece, length) != zeros[:length]:
                    return False
    return True


def not_given_back(disk: Volume, at: int) -> BadChecksum:
    """Return the error of a disk whose bytes at `at` are others than it was given."""
    return BadChecksum(
        "the disk does not give back what was written",
        volume=disk.name,
        at=at,
        hint="the disk or its cable is failing; use another one",
    )
