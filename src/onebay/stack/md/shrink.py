"""Shrinking an array offline: what `mdadm --grow --size` makes of the superblock and the bitmap.

The steps are for a copy of the disk that nobody else knows, so their order is free. Only an array whose data
count on one member shrinks: other members would not know.
Source: linux drivers/md/md.c (super_1_load, super_1_rdev_size_change), md-bitmap.c (bitmap_read_sb).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Refused, Unsupported
from onebay.base.step import Flush, Step, Write
from onebay.stack.md.grow import BLOCK, Aim, refuse, refuse_bitmap, write_super
from onebay.stack.md.read import SECTOR, Superblock, place_1
from onebay.stack.md.record import BITMAP_SUPER, Feature, Super1

if TYPE_CHECKING:
    from onebay.block.volume import Volume
    from onebay.stack.md.array import MdArray


def shrunk(array: MdArray, size: int) -> Aim:
    """Work out what the one member says when its volume has `size` bytes; `data_size` is in sectors.

    Raises Unsupported where the array keeps its size, Refused where nothing would be left of it.
    """
    where = array.below[0].name
    if array.version == "0.90":
        raise Unsupported("md metadata 0.90 keeps its size", volume=where)
    refuse(array)
    if reason := array.divided:
        raise Unsupported(reason, volume=where)
    (sb,) = array.members
    record = sb.record
    assert isinstance(record, Super1), sb.version
    minor = int(sb.version[2:])
    at = place_1(minor, size)
    refuse_behind(sb, record, minor)
    if minor:
        room = min(record.data_size, size // SECTOR - record.data_offset)
    else:
        # what lies between data and superblock keeps its size
        room = record.data_size - (sb.at - at) // SECTOR
    if room < BLOCK:
        raise Refused("md: nothing would be left of the array", volume=where, found=size)
    return Aim(sb, record, sb.volume, at, room)


def refuse_behind(sb: Superblock, record: Super1, minor: int) -> None:
    """Raise Unsupported where anything but data lies in what would be cut off, or would have to move."""
    where = sb.volume.name
    if record.feature_map & Feature.BAD_BLOCKS:
        raise Unsupported("md: the bad block list is not empty", volume=where, at=sb.at)
    bitmap = bool(record.feature_map & Feature.BITMAP_OFFSET)
    if not minor:
        if bitmap:
            raise Unsupported("md 1.0 with a bitmap cannot move", volume=where, at=sb.at)
        return
    start = sb.at // SECTOR
    places = [start + record.bitmap_offset] if bitmap else []
    places += [start + record.bblog_offset] if record.bblog_size else []
    if behind := [place for place in places if place >= record.data_offset]:
        raise Unsupported("md: metadata behind the data", volume=where, at=behind[0] * SECTOR)


def fit(array: MdArray, below: Volume, size: int) -> tuple[Volume, int] | None:
    """Return the array and its bytes on a member of `size` bytes; None where it offers nothing."""
    if not array.above:
        if size < below.size:
            raise Unsupported(array.keep_whole() or "md: no data", volume=below.name)
        return None
    if size >= below.size:
        return array.above[0], array.size
    return array.above[0], min(array.size, shrunk(array, size).data_size // BLOCK * BLOCK * SECTOR)


def plan_shrink(array: MdArray, volume: Volume) -> list[Step]:
    """Return the steps that fit the array to `volume`, its only member as it will be."""
    if volume.size >= array.below[0].size:
        return []
    found = shrunk(array, volume.size)
    aim = Aim(found.sb, found.record, volume, found.at, found.data_size)
    size = min(array.size // SECTOR, aim.data_size // BLOCK * BLOCK)
    changes = {"data_size": aim.data_size, "super_offset": aim.at // SECTOR, "size": size}
    steps = write_super(aim, f"md: the array is {size * SECTOR} bytes", **changes)
    if aim.record.feature_map & Feature.BITMAP_OFFSET:
        at = aim.at + aim.record.bitmap_offset * SECTOR
        old = BITMAP_SUPER.unpack(volume.read(at, BITMAP_SUPER.size))
        refuse_bitmap(old, volume.name, at)
        data = BITMAP_SUPER.pack(old, sync_size=min(size, old.sync_size))
        steps += [Write(volume, at, data, "md: the bitmap covers the new size"), Flush(volume)]
    return steps
