"""Growing a btrfs offline: three numbers, in an order that survives a power cut after any write.

What changes: `total_bytes` in every superblock, `dev_item.total_bytes` there, and the same in the DEV_ITEM of
the chunk tree. Nothing else: new space on the device is unallocated, so no dev extent, block group or free
space entry speaks of it. Superblock mirrors whose place comes inside the device are written as new ones.

The order follows from what is accepted. linux fs/btrfs/volumes.c: the device item's size may not exceed the
block device (read_one_dev), and the superblock's may be above the sum of device items but never below it
(btrfs_read_chunk_tree). btrfs-progs check/main.c (is_super_size_valid): above is a warning, below an error.

1. mirrors in new space, then the other mirrors, then the first superblock. Every field that changes lies in
   its first 218 bytes, so in one sector: a torn write leaves the old superblock or the new one.
2. the leaf with the device item, one copy at a time with a barrier between. The generation stays, so its
   parent stays right. A torn copy fails its checksum and the kernel reads the other one; a bad copy is
   written first. With a single copy (profile SINGLE) the checksum and the item lie in different sectors, and
   no order helps: that write is marked "critical:", which asks the executor for a redo journal.

Running again after a cut finds the device item too small, and writes everything anew. Where one copy of the
leaf was written and the other was not, the second run writes that one.

Not done: a copy-on-write of the leaf. It would need the extent tree, the free space tree and their own paths
changed by hand, in order to protect a write that a journal protects as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Inconsistent, Unsupported
from onebay.base.step import Flush, Write
from onebay.fs.btrfs.csum import sealed
from onebay.fs.btrfs.read import BEYOND
from onebay.fs.btrfs.read import Step as Visit
from onebay.fs.btrfs.record import (
    CHUNK_TREE,
    COMPAT_RO,
    DEV_ITEM,
    SUPER,
    SUPER_FLAG_SEEDING,
    SUPER_PLACES,
    SUPER_SIZE,
    Super,
    unknown,
)

if TYPE_CHECKING:
    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.fs.btrfs.chunk import DeviceItem, Space, Stretch
    from onebay.fs.btrfs.read import Copy, Reader

BY_ITSELF = "the appliance grows its file system itself once it sees the larger volume"


def plan_grow(
    volume: Volume, sb: Super, reader: Reader | None, space: Space | None, reason: str | None
) -> list[Step]:
    """Return the steps that make the file system fill `volume`, none where it does.

    Raises Unsupported where `reason` says that the file system is not fully understood, and Inconsistent
    where it is larger than its volume.
    """
    devid = DEV_ITEM.unpack(sb.dev_item).devid
    own = None if space is None else space.devices[devid]
    if own is not None and own.record.total_bytes > volume.size:
        raise Inconsistent(
            "the file system is larger than its volume",
            volume=volume.name,
            expected=f"<= {volume.size}",
            found=own.record.total_bytes,
        )
    refuse(volume, sb, reason)
    assert reader is not None
    assert own is not None
    size = volume.size // sb.sectorsize * sb.sectorsize
    if size <= own.record.total_bytes:
        return mirror_steps(volume, reader, own)
    stretches = reader.map.stripes().get(devid, [])
    return [
        *super_steps(volume, sb, own.record.total_bytes, size, stretches),
        *leaf_steps(volume, reader, own, size),
    ]


def refuse(volume: Volume, sb: Super, reason: str | None) -> None:
    """Raise Unsupported where we must not write to this file system."""
    why = reason
    if why is None and (bits := unknown(sb.compat_ro_flags, COMPAT_RO)):
        why = f"unknown compat_ro feature bits {' '.join(bits)}"
    if why is None and sb.flags & SUPER_FLAG_SEEDING:
        why = "it is a seed device, which is read-only"
    if why is not None:
        raise Unsupported(f"btrfs cannot be grown from outside: {why}", volume=volume.name, hint=BY_ITSELF)


def super_steps(volume: Volume, sb: Super, old: int, size: int, stretches: list[Stretch]) -> list[Step]:
    """Return the writes of all superblocks of a device that grows from `old` to `size` bytes, the first last.

    `stretches` are where its chunks lie.
    """
    item = DEV_ITEM.unpack(sb.dev_item)
    new = SUPER.pack(sb, total_bytes=size, dev_item=DEV_ITEM.pack(item, total_bytes=size))
    record = SUPER.unpack(new)
    steps: list[Step] = []
    for at in reversed(SUPER_PLACES):
        # The kernel's own rule (btrfs_sb_offset): a mirror must end before the last byte.
        if at + SUPER_SIZE >= size:
            continue
        fresh = at + SUPER_SIZE >= old
        if fresh and any(start < at + SUPER_SIZE and end > at for start, end, _ in stretches):
            raise Unsupported("a chunk lies where a superblock mirror belongs", volume=volume.name, at=at)
        raw = sealed(sb.csum_type, SUPER.pack(record, bytenr=at))
        why = "new mirror of the superblock" if fresh else "superblock"
        if at == SUPER_PLACES[0]:
            steps.append(Flush(volume))
        steps.append(Write(volume, at, raw, f"btrfs: {why}: size {size}"))
    steps.append(Flush(volume))
    return steps


def mirror_steps(volume: Volume, reader: Reader, own: DeviceItem) -> list[Step]:
    """Return the writes that make the other copies of the leaf with the device item like the one in use.

    A copy with the old size passes its checksum, so no scrub would find it; one that is torn leaves the
    file system with a single copy.
    """
    copies = device_leaf(reader, own)
    if all(copy.raw != own.leaf for copy in copies):
        return []
    steps: list[Step] = []
    for copy in copies:
        if copy.raw != own.leaf:
            steps += [Write(volume, copy.at, own.leaf, "btrfs: device item: the other copy"), Flush(volume)]
    return steps


def device_leaf(reader: Reader, own: DeviceItem) -> list[Copy]:
    """Return every copy of the leaf with the device item, in the order in which they are read."""
    return [*reader.copies(Visit(own.block, 0, own.generation, CHUNK_TREE, None, BEYOND))]


def leaf_steps(volume: Volume, reader: Reader, own: DeviceItem, size: int) -> list[Step]:
    """Return the writes of every copy of the leaf with the device item; those unlike the one in use first.

    The one in use is the one that was read: another may have a right checksum and wrong items, for nobody
    has looked at them.
    """
    copies = device_leaf(reader, own)
    if all(copy.raw != own.leaf for copy in copies):
        raise Damaged("the chunk tree does not say where its own leaf lies", volume=volume.name)
    copies.sort(key=lambda copy: copy.raw == own.leaf)
    leaf = bytearray(own.leaf)
    at = own.at
    leaf[at : at + DEV_ITEM.size] = DEV_ITEM.pack(own.record, total_bytes=size)
    raw = sealed(reader.sb.csum_type, leaf)
    critical = "critical: " if len(copies) == 1 else ""
    steps: list[Step] = []
    for copy in copies:
        steps.append(Write(volume, copy.at, raw, f"{critical}btrfs: device item: size {size}"))
        steps.append(Flush(volume))
    return steps
