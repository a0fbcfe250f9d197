"""Growing an array offline: what `mdadm --grow --size=max` makes of the superblocks, in an order that holds.

Every prefix of the plan is a valid array. First each member's own superblock allows more (data_size), then
the bitmap covers more, then the members' size counts; members that differ in size only are an array of the
smaller one, to the kernel as to us. Events stay: all members and the bitmap keep agreeing. With two members
or more the new space is marked as not in sync (resync_offset), since nobody copied it.
Source: linux drivers/md/md.c (super_1_rdev_size_change, super_1_load), raid1.c (raid1_resize),
md-bitmap.c (bitmap_read_sb, __bitmap_resize).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onebay.base.error import Unsupported
from onebay.base.step import Flush, Step, Write, Zero
from onebay.stack.md.read import SECTOR, place_1
from onebay.stack.md.record import (
    BITMAP_MAGIC,
    BITMAP_SUPER,
    SUPER1,
    BitmapSuper,
    Feature,
    Super1,
    checksum1,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.block.volume import Volume
    from onebay.stack.md.array import MdArray
    from onebay.stack.md.read import Superblock

HEAD = 512  # the bytes of a superblock that are rewritten: one sector, which a power cut leaves whole
MAX_CHUNK = 1 << 30
BLOCK = 8  # sectors: a size that suits any file system
GRAIN = 2048  # sectors: less than that is what rounding at creation leaves
NO_BITMAP = "mdadm --grow --bitmap=none, grow, then --bitmap=internal"


@dataclass(frozen=True)
class Aim:
    """One member and what its superblock shall say, in sectors."""

    sb: Superblock
    record: Super1
    volume: Volume
    at: int
    data_size: int


def plan_fill(array: MdArray, volumes: Sequence[Volume]) -> list[Step]:
    """Return the steps that make `array` fill `volumes`, its members in order of `below`.

    Raises Unsupported where the array cannot grow.
    """
    refuse(array)
    wanted = zip(array.members, volumes, strict=True)
    aims = [aim(sb, volume) for sb, volume in wanted if sb in array.in_sync]
    size = min(aim.data_size for aim in aims) // BLOCK * BLOCK
    gain = size - min(aim.record.size for aim in aims)
    if gain < GRAIN and not any(moved(aim) for aim in aims):
        return []
    steps: list[Step] = []
    for each in aims:
        if each.data_size > each.record.data_size or moved(each):
            changes = {"data_size": each.data_size, "super_offset": each.at // SECTOR}
            steps += write_super(each, f"md: {each.data_size * SECTOR} bytes may be used", **changes)
    for each in aims:
        steps += bitmap_steps(each, size)
    for each in aims:
        if each.record.size < size:
            changes = {"data_size": each.data_size, "super_offset": each.at // SECTOR, "size": size}
            if len(aims) > 1:
                changes["resync_offset"] = min(each.record.resync_offset, array.size // SECTOR)
            steps += write_super(each, f"md: the array is {size * SECTOR} bytes", **changes)
    return steps


def refuse(array: MdArray) -> None:
    """Raise Unsupported where the array must not be touched."""
    where = array.best.volume.name
    if reason := array.keep_whole():
        raise Unsupported(reason, volume=where)
    if array.version == "0.90":
        raise Unsupported("md metadata 0.90 is never grown", volume=where)
    if len(array.members) != len(array.in_sync):
        raise Unsupported("md: a member is a spare, stale or double", volume=where)


def aim(sb: Superblock, volume: Volume) -> Aim:
    """Work out what `volume` allows the member `sb` to hold."""
    record = sb.record
    assert isinstance(record, Super1), sb.version
    minor = int(sb.version[2:])
    at = place_1(minor, volume.size)
    if minor:
        room = volume.size // SECTOR - record.data_offset
    else:
        # What lies between data and superblock (bad block log, reserve) moves along and keeps its size.
        room = record.data_size + (at - sb.at) // SECTOR
        if at != sb.at and record.feature_map & (Feature.BITMAP_OFFSET | Feature.BAD_BLOCKS):
            raise Unsupported("md 1.0 with a bitmap or bad blocks cannot move", volume=volume.name, at=sb.at)
    return Aim(sb, record, volume, at, max(room, record.data_size))


def moved(aim: Aim) -> bool:
    """Whether the superblock gets another place."""
    return aim.at != aim.sb.at


def write_super(aim: Aim, why: str, **changes: Any) -> list[Step]:
    """Write the superblock with fields changed; all of it where it moves, else its first sector."""
    raw = bytearray(aim.sb.raw)
    raw[:256] = SUPER1.pack(aim.record, **changes)
    raw[:256] = SUPER1.pack(aim.record, **changes, sb_csum=checksum1(bytes(raw), aim.record.max_dev))
    data = bytes(raw) if moved(aim) else bytes(raw[:HEAD])
    return [Write(aim.volume, aim.at, data, why), Flush(aim.volume)]


def bitmap_steps(aim: Aim, size: int) -> list[Step]:
    """Make the write-intent bitmap cover `size` sectors; raises Unsupported where it has no room for that."""
    if not aim.record.feature_map & Feature.BITMAP_OFFSET:
        return []
    at = aim.sb.at + aim.record.bitmap_offset * SECTOR
    where = aim.volume.name
    if at < 0 or at + BITMAP_SUPER.size > aim.volume.size:
        raise Unsupported("md: the bitmap lies outside the member", volume=where, at=at)
    old = BITMAP_SUPER.unpack(aim.volume.read(at, BITMAP_SUPER.size))
    refuse_bitmap(old, where, at)
    if old.sync_size >= size:
        return []
    room = bitmap_room(aim, old) - BITMAP_SUPER.size
    chunk = old.chunksize
    while chunks(size, chunk) > room * 8 and chunk < MAX_CHUNK:
        chunk *= 2
    if chunks(size, chunk) > room * 8:
        raise Unsupported("md: the bitmap has no room to grow", volume=where, at=at, hint=NO_BITMAP)
    used = -(-chunks(old.sync_size, old.chunksize) // 8)
    if used > room:
        raise Unsupported("md: the bitmap is larger than its place", volume=where, at=at)
    bits = at + BITMAP_SUPER.size
    total = -(-chunks(size, chunk) // 8)
    if chunk != old.chunksize:
        marks = int.from_bytes(aim.volume.read(bits, used), "little")
        if marks & ((1 << chunks(old.sync_size, old.chunksize)) - 1):
            # Fewer, larger chunks would have to be written over the marks that are there.
            raise Unsupported("md: the bitmap is full and has marks", volume=where, at=at, hint=NO_BITMAP)
        used = 0
    steps: list[Step] = []
    if total > used:
        # mdadm leaves ones behind the last bit.
        steps += [
            Zero(aim.volume, bits + used, total - used, "md: new bits of the bitmap"),
            Flush(aim.volume),
        ]
    data = BITMAP_SUPER.pack(old, sync_size=size, chunksize=chunk)
    return [*steps, Write(aim.volume, at, data, "md: the bitmap covers the new size"), Flush(aim.volume)]


def refuse_bitmap(old: BitmapSuper, where: str, at: int) -> None:
    """Raise Unsupported for a bitmap that the kernel would not take either, or of a cluster."""
    if old.magic != BITMAP_MAGIC or old.version not in (3, 4):
        raise Unsupported("md: no bitmap of version 3 or 4", volume=where, at=at, found=old.version)
    if old.chunksize < SECTOR or old.chunksize & (old.chunksize - 1):
        raise Unsupported("md: bitmap chunk size", volume=where, at=at, found=old.chunksize)


def chunks(size: int, chunk: int) -> int:
    """Number of bits for `size` sectors in chunks of `chunk` bytes."""
    return -(-size * SECTOR // chunk)


def bitmap_room(aim: Aim, old: BitmapSuper) -> int:
    """Bytes that the bitmap may take, header included, up to whatever comes next on the member."""
    record = aim.record
    start = aim.sb.at // SECTOR + record.bitmap_offset
    ends = [record.data_offset] if record.data_offset > start else [aim.volume.size // SECTOR]
    ends += [aim.sb.at // SECTOR] if aim.sb.at // SECTOR > start else []
    log = aim.sb.at // SECTOR + record.bblog_offset
    if record.bblog_size and log > start:
        ends.append(log)
    if old.sectors_reserved:
        ends.append(start + old.sectors_reserved)
    return max(0, min(ends) - start) * SECTOR
