"""Free space of XFS: the by-block btree of every allocation group.

Whatever the btree does not list is used: headers, btree blocks, the blocks held for the btrees (AGFL), log,
inodes, files. Every block is checked (magic, level, owner, place, checksum, ascending order, the group's
bounds), and the sum against the group's own counter, because one wrong record would lose data.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import BadChecksum, BadMagic, Inconsistent
from onebay.base.extent import Builder, ExtentSet
from onebay.fs.crc32c import crc32c
from onebay.fs.xfs.record import (
    AGF,
    AGF_MAGIC,
    BASIC_BLOCK,
    BNO_MAGIC,
    BNO_MAGIC_CRC,
    BTREE_BLOCK,
    BTREE_BLOCK_CRC,
    NULL_BLOCK,
    Agf,
    Superblock,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block.volume import Volume

RECORD = struct.Struct(">II")
POINTER = struct.Struct(">I")
MAX_LEVELS = 12


class Shape(NamedTuple):
    """What the walk needs of the superblock: `uuid` is the one in metadata blocks, `crc` means version 5."""

    sb: Superblock
    crc: bool
    uuid: bytes

    @property
    def block(self) -> int:
        """Block size in bytes."""
        return self.sb.sb_blocksize

    def group_at(self, number: int) -> int:
        """Byte at which allocation group `number` starts."""
        return number * self.sb.sb_agblocks * self.block

    def group_blocks(self, number: int) -> int:
        """Length of allocation group `number` in blocks."""
        sb = self.sb
        return min(sb.sb_agblocks, sb.sb_dblocks - number * sb.sb_agblocks)


def stored_sum(raw: bytes, at: int) -> tuple[int, int]:
    """Return the checksum at byte `at` of `raw`, and the one that it should be."""
    found = int.from_bytes(raw[at : at + 4], "little")
    return found, crc32c(raw[at + 4 :], crc32c(bytes(4), crc32c(raw[:at])))


def read_agf(volume: Volume, shape: Shape, number: int) -> Agf:
    """Read and check the free space header of a group; raises Damaged where it breaks a rule."""
    at = shape.group_at(number) + shape.sb.sb_sectsize
    raw = volume.read(at, shape.sb.sb_sectsize)
    agf = AGF.unpack(raw)
    if agf.agf_magicnum != AGF_MAGIC:
        raise BadMagic("AGF", volume=volume.name, at=at, expected=AGF_MAGIC, found=agf.agf_magicnum)
    if shape.crc:
        found, expected = stored_sum(raw, AGF.offset("agf_crc"))
        if found != expected:
            raise BadChecksum(
                "AGF", volume=volume.name, at=at, expected=f"{expected:#x}", found=f"{found:#x}"
            )
        if agf.agf_uuid != shape.uuid:
            raise Inconsistent(
                "AGF of another file system",
                volume=volume.name,
                at=at,
                expected=shape.uuid,
                found=agf.agf_uuid,
            )
    length = shape.group_blocks(number)
    place = (agf.agf_versionnum, agf.agf_seqno, agf.agf_length)
    if place != (1, number, length):
        raise Inconsistent(
            "AGF version, number, length",
            volume=volume.name,
            at=at,
            expected=(1, number, length),
            found=place,
        )
    return agf


class Walk:
    """Walk the by-block btree of one group; blocks count from the start of the group."""

    def __init__(self, volume: Volume, shape: Shape, number: int) -> None:
        self.volume, self.shape, self.number = volume, shape, number
        self.length = shape.group_blocks(number)
        self.header = BTREE_BLOCK.size + (BTREE_BLOCK_CRC.size if shape.crc else 0)
        self.seen: set[int] = set()

    def error(self, what: str, block: int, expected: object, found: object) -> Inconsistent:
        """Describe a broken rule in a btree block."""
        at = self.shape.group_at(self.number) + block * self.shape.block
        return Inconsistent(
            f"free space btree: {what}", volume=self.volume.name, at=at, expected=expected, found=found
        )

    def free(self) -> Iterator[tuple[int, int]]:
        """Yield free runs as (first block, number of blocks), checked; raises Damaged."""
        agf = read_agf(self.volume, self.shape, self.number)
        if not 1 <= agf.agf_bno_level <= MAX_LEVELS:
            raise self.error("levels", 0, f"1 to {MAX_LEVELS}", agf.agf_bno_level)
        end = total = 0
        for start, count in self.records(agf.agf_bno_root, agf.agf_bno_level - 1):
            # the first blocks hold the headers; runs that touch would have been one
            if start <= end or count == 0 or start + count > self.length:
                raise self.error("record", 0, f"within {end + 1}..{self.length}", f"{start}+{count}")
            end = start + count
            total += count
            yield start, count
        if total != agf.agf_freeblks:
            raise self.error("sum of free blocks", 0, agf.agf_freeblks, total)

    def records(self, block: int, level: int) -> Iterator[tuple[int, int]]:
        """Yield the records below a block; recursion is as deep as the tree has levels."""
        raw, count = self.read(block, level)
        if level == 0:
            self.room(block, count, RECORD.size)
            yield from RECORD.iter_unpack(memoryview(raw)[self.header :][: count * RECORD.size])
            return
        most = self.room(block, count, RECORD.size + POINTER.size)
        if count == 0:
            raise self.error("empty node", block, "at least one record", 0)
        pointers = self.header + most * RECORD.size
        for (child,) in POINTER.iter_unpack(memoryview(raw)[pointers:][: count * POINTER.size]):
            yield from self.records(child, level - 1)

    def room(self, block: int, count: int, size: int) -> int:
        """Return how many entries of `size` bytes fit a block; raises Inconsistent where `count` is more."""
        most = (self.shape.block - self.header) // size
        if count > most:
            raise self.error("number of records", block, f"at most {most}", count)
        return most

    def read(self, block: int, level: int) -> tuple[bytes, int]:
        """Read and check one block; returns its bytes and its number of records."""
        if not 0 < block < self.length or block in self.seen:
            raise self.error("pointer", 0, f"a block of 1..{self.length}, once", block)
        self.seen.add(block)
        at = self.shape.group_at(self.number) + block * self.shape.block
        raw = self.volume.read(at, self.shape.block)
        head = BTREE_BLOCK.unpack(raw)
        magic = BNO_MAGIC_CRC if self.shape.crc else BNO_MAGIC
        if head.bb_magic != magic:
            raise BadMagic(
                "free space btree", volume=self.volume.name, at=at, expected=magic, found=head.bb_magic
            )
        if head.bb_level != level:
            raise self.error("level", block, level, head.bb_level)
        if any(side != NULL_BLOCK and side >= self.length for side in (head.bb_leftsib, head.bb_rightsib)):
            raise self.error(
                "sibling", block, f"less than {self.length}", max(head.bb_leftsib, head.bb_rightsib)
            )
        if self.shape.crc:
            self.check_crc(raw, at, block)
        return raw, head.bb_numrecs

    def check_crc(self, raw: bytes, at: int, block: int) -> None:
        """Check what version 5 adds: checksum, place, owner and file system."""
        more = BTREE_BLOCK_CRC.unpack(raw, BTREE_BLOCK.size)
        found, expected = stored_sum(raw, BTREE_BLOCK.size + BTREE_BLOCK_CRC.offset("bb_crc"))
        if found != expected:
            raise BadChecksum(
                "free space btree",
                volume=self.volume.name,
                at=at,
                expected=f"{expected:#x}",
                found=f"{found:#x}",
            )
        where = (more.bb_blkno, more.bb_owner, more.bb_uuid)
        if where != (at // BASIC_BLOCK, self.number, self.shape.uuid):
            raise self.error(
                "place, owner, uuid", block, (at // BASIC_BLOCK, self.number, self.shape.uuid), where
            )


def free_space(volume: Volume, shape: Shape) -> ExtentSet:
    """Return the free bytes of all groups; raises Damaged where any rule is broken."""
    builder = Builder()
    for number in range(shape.sb.sb_agcount):
        base = shape.group_at(number)
        for start, count in Walk(volume, shape, number).free():
            builder.add(base + start * shape.block, base + (start + count) * shape.block)
    return builder.done()
