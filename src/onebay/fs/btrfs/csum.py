"""The four checksums of btrfs (enum btrfs_csum_type), each over everything behind the first 32 bytes.

xxhash64 follows the xxHash specification 0.1.1, section "XXH64"; the kernel uses seed 0 and stores it little
endian, as crc32c. sha256 and blake2b (256 bits) fill the whole field.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from onebay.fs.crc32c import crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

CSUM_SIZE = 32  # bytes of the field
CSUM_NAMES = ("crc32c", "xxhash64", "sha256", "blake2b")

MASK = (1 << 64) - 1
PRIME1, PRIME2, PRIME3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME4, PRIME5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
LANES = ("<Q24x", "<8xQ16x", "<16xQ8x", "<24xQ")  # the four words of a stripe


def rotate(value: int, bits: int) -> int:
    """Rotate a 64-bit `value` left."""
    return (value << bits | value >> 64 - bits) & MASK


def stripes(view: memoryview, seed: int) -> int:
    """Converge four accumulators over the whole 32-byte stripes of `view`."""
    lanes = []
    for lane, start in enumerate((seed + PRIME1 + PRIME2, seed + PRIME2, seed, seed - PRIME1)):
        acc = start & MASK
        for (value,) in struct.iter_unpack(LANES[lane], view):
            acc = (acc + value * PRIME2) & MASK
            acc = (acc << 31 | acc >> 33) * PRIME1 & MASK
        lanes.append(acc)
    total = sum(rotate(acc, bits) for acc, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
    for acc in lanes:
        total = ((total ^ rotate(acc * PRIME2 & MASK, 31) * PRIME1 & MASK) * PRIME1 + PRIME4) & MASK
    return total


def xxh64(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """Return the XXH64 of `data`."""
    view = memoryview(data)
    whole = len(view) & ~31
    acc = stripes(view[:whole], seed) if whole else (seed + PRIME5) & MASK
    acc = (acc + len(view)) & MASK
    at = whole
    while at + 8 <= len(view):
        value = int.from_bytes(view[at : at + 8], "little")
        acc ^= rotate(value * PRIME2 & MASK, 31) * PRIME1 & MASK
        acc = (rotate(acc, 27) * PRIME1 + PRIME4) & MASK
        at += 8
    if at + 4 <= len(view):
        acc ^= int.from_bytes(view[at : at + 4], "little") * PRIME1 & MASK
        acc = (rotate(acc, 23) * PRIME2 + PRIME3) & MASK
        at += 4
    for byte in view[at:]:
        acc = rotate(acc ^ byte * PRIME5 & MASK, 11) * PRIME1 & MASK
    acc = (acc ^ acc >> 33) * PRIME2 & MASK
    acc = (acc ^ acc >> 29) * PRIME3 & MASK
    return acc ^ acc >> 32


def of_crc32c(body: bytes | memoryview) -> bytes:
    """CRC-32C as btrfs stores it."""
    return crc32c(body).to_bytes(4, "little")


def of_xxh64(body: bytes | memoryview) -> bytes:
    """XXH64 as btrfs stores it."""
    return xxh64(body).to_bytes(8, "little")


def of_sha256(body: bytes | memoryview) -> bytes:
    """SHA-256."""
    return hashlib.sha256(body).digest()


def of_blake2b(body: bytes | memoryview) -> bytes:
    """BLAKE2b with 32 bytes of digest."""
    return hashlib.blake2b(body, digest_size=CSUM_SIZE).digest()


CSUMS: tuple[Callable[[bytes | memoryview], bytes], ...] = (of_crc32c, of_xxh64, of_sha256, of_blake2b)


def csum(kind: int, block: bytes | bytearray | memoryview) -> bytes:
    """Return the checksum of a superblock or tree block; `kind` is 0..3, raises IndexError beyond."""
    return CSUMS[kind](memoryview(block)[CSUM_SIZE:])


def matches(kind: int, block: bytes | bytearray | memoryview) -> bool:
    """Whether a block's own checksum field holds its checksum; the rest of the field may be anything."""
    found = csum(kind, block)
    return bytes(block[: len(found)]) == found


def sealed(kind: int, block: bytes | bytearray | memoryview) -> bytes:
    """Return `block` with its checksum field set anew; bytes of the field behind the checksum are zero."""
    return csum(kind, block).ljust(CSUM_SIZE, b"\0") + bytes(memoryview(block)[CSUM_SIZE:])
