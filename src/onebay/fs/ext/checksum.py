"""Checksums of ext4 metadata: superblock, group descriptors, block bitmaps.

A large file system has 131,072 descriptors of 64 bytes; so the descriptors of one chunk are summed side by
side, one column of bytes at a time, with `bytes.translate` as the table look-up.

Sources: linux v6.18 fs/ext4/super.c (ext4_group_desc_csum, ext4_superblock_csum), fs/ext4/bitmap.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from onebay.fs.crc32c import TABLE as CRC32C_TABLE
from onebay.fs.crc32c import raw
from onebay.fs.ext.record import GROUP_DESC, SUPER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onebay.fs.ext.geometry import Geometry

ALL32 = 0xFFFFFFFF
CRC16_GENERATOR = 0xA001


def crc16_table() -> tuple[int, ...]:
    """Return the table of CRC-16/ARC, which lib/crc16.c uses."""
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (CRC16_GENERATOR if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


def planes_of(table: Sequence[int], width: int) -> tuple[bytes, ...]:
    """Split a table of `width`-byte remainders into one translation table a byte, lowest first."""
    return tuple(bytes(entry >> (8 * k) & 0xFF for entry in table) for k in range(width))


CRC16_TABLE = crc16_table()
CRC16_PLANES = planes_of(CRC16_TABLE, 2)
CRC32C_PLANES = planes_of(CRC32C_TABLE, 4)


def crc16(data: bytes, state: int) -> int:
    """Return the CRC-16/ARC register after `data`."""
    for byte in data:
        state = (state >> 8) ^ CRC16_TABLE[(state ^ byte) & 0xFF]
    return state


def xor(a: bytes, b: bytes) -> bytes:
    """Xor two strings of one length."""
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


def side_by_side(columns: Iterable[bytes], planes: Sequence[bytes], start: int, count: int) -> list[bytes]:
    """Run `count` CRC registers over one byte of every column each; return their bytes, lowest first."""
    state = [bytes([start >> (8 * k) & 0xFF]) * count for k in range(len(planes))]
    for column in columns:
        index = xor(state[0], column)
        state = [
            xor(above, index.translate(plane)) for above, plane in zip(state[1:], planes, strict=False)
        ] + [index.translate(planes[-1])]
    return state


def columns_of(table: bytes, size: int, first: int, *, zeroed: bool, tail: bool) -> Iterator[bytes]:
    """Yield, column by column, what the sums of descriptors `first`.. of `size` bytes cover.

    `zeroed`: the field of the checksum counts as zeros (else it is left out); `tail`: what follows it counts.
    """
    count = len(table) // size
    numbers = struct.pack(f"<{count}I", *range(first, first + count))
    for j in range(4):
        yield numbers[j::4]
    field = GROUP_DESC.offset("bg_checksum")
    for j in range(size if tail else field):
        if j in (field, field + 1):
            if zeroed:
                yield bytes(count)
        else:
            yield table[j::size]


def descriptor_sums(geometry: Geometry, table: bytes, first: int) -> list[int] | None:
    """Return what bg_checksum should be in each descriptor of `table`; None where there are no checksums."""
    size = geometry.desc_size
    count = len(table) // size
    if geometry.metadata_csum:
        columns = columns_of(table, size, first, zeroed=True, tail=True)
        sums = side_by_side(columns, CRC32C_PLANES, geometry.csum_seed, count)
    elif geometry.gdt_csum:
        columns = columns_of(table, size, first, zeroed=False, tail=size > GROUP_DESC.size)
        sums = side_by_side(columns, CRC16_PLANES, crc16(geometry.uuid, 0xFFFF), count)
    else:
        return None
    return [low | high << 8 for low, high in zip(sums[0], sums[1], strict=True)]


def superblock_sum(data: bytes) -> int:
    """Return what s_checksum should be in the superblock `data` (1024 bytes)."""
    return raw(data[: SUPER.offset("s_checksum")], ALL32)
