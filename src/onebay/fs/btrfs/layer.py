"""Btrfs as a layer, on one device or several: facts, used space, findings; and probing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from onebay.base.error import BadMagic, Damaged, Refused
from onebay.base.extent import ExtentSet
from onebay.fs.btrfs.chunk import ChunkMap, Space, parse_system_chunks, read_space, reason_by_space
from onebay.fs.btrfs.csum import CSUM_NAMES
from onebay.fs.btrfs.grow import plan_grow
from onebay.fs.btrfs.read import Reader, allocated, on_devices
from onebay.fs.btrfs.record import (
    INCOMPAT_METADATA_UUID,
    RESERVED_END,
    SUPER_PLACES,
    SUPER_SIZE,
    DevItem,
)
from onebay.fs.btrfs.super import Device, features, newest, read_mirrors, reason_by_super
from onebay.layer import Finding, Layer, Member, Suspect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.layer import Value

SMALLEST = 256 << 20  # bytes; linux fs/btrfs/ioctl.c, btrfs_ioctl_resize


class Trees(NamedTuple):
    """What reading the chunk tree gave, and the reason not to believe it; without `space` it was not read."""

    reader: Reader | None = None
    space: Space | None = None
    reason: str | None = None


class Btrfs(Layer):
    """What a btrfs is on any number of `devices`, whose superblocks agree where `trees` has no reason."""

    kind = "btrfs"
    growth = "the device item and the superblocks, in place; on several devices it keeps its sizes"
    shrinkage = (
        "by a kernel, on a scratch copy of all used blocks; to 256 MiB at least; not on several devices"
    )

    def __init__(self, devices: Sequence[Device], trees: Trees) -> None:
        self.devices = tuple(devices)
        self.below = tuple(device.volume for device in devices)
        self.sb = max((device.sb for device in devices), key=lambda sb: sb.generation)
        self.reader, self.space, self.reason = trees
        self.walked: tuple[ExtentSet, ...] | None = None
        self.walk_fault: Damaged | None = None

    def item(self, device: Device) -> DevItem:
        """Return what is known of a device: by the chunk tree, else by its superblock."""
        return device.item if self.space is None else self.space.devices[device.item.devid].record

    def facts(self) -> Mapping[str, Value]:
        sb = self.sb
        csum = CSUM_NAMES[sb.csum_type] if sb.csum_type < len(CSUM_NAMES) else str(sb.csum_type)
        facts: dict[str, Value] = {
            "uuid": str(UUID(bytes=sb.fsid)),
            "label": sb.label.split(b"\0", 1)[0].decode("utf-8", "replace"),
            "devices": sb.num_devices,
            "generation": sb.generation,
            "used": sb.bytes_used,
            "sector_size": sb.sectorsize,
            "node_size": sb.nodesize,
            "csum": csum,
            "features": [*features(sb)],
            "log_tree": sb.log_root != 0,
        }
        if sb.incompat_flags & INCOMPAT_METADATA_UUID:
            facts["metadata_uuid"] = str(UUID(bytes=sb.metadata_uuid))
        if self.space is not None:
            facts["profiles"] = self.profiles(self.space)
        return facts

    def profiles(self, space: Space) -> dict[str, Value]:
        """Return, for each kind of chunk, its profiles; several after an unfinished conversion."""
        kinds = sorted({chunk.kind for chunk in space.map.chunks})
        return {
            kind: " ".join(sorted({chunk.profile for chunk in space.map.chunks if chunk.kind == kind}))
            for kind in kinds
        }

    def keep_whole(self) -> str | None:
        """Say why `used` cannot be trusted. What only a walk shows is known after `used` was called."""
        if why := self.why_not_trusted():
            return why
        if self.sb.log_root:
            return "a log tree waits to be replayed; its blocks are in no extent tree"
        if self.walk_fault:
            return f"the extent tree is damaged: {self.walk_fault}"
        return None

    def why_not_trusted(self) -> str | None:
        """Say why neither reading nor writing by our superblock is safe; None where both are."""
        if self.reason is None and not all(device.first_counts for device in self.devices):
            return "the first superblock, which kernels mount, is damaged or older than a mirror"
        return self.reason

    def used(self) -> tuple[ExtentSet, ...]:
        """Superblocks, the first MiB, and every copy of every allocated extent, of each device.

        The whole volumes where `keep_whole` has a reason, and where the walk finds damage: from then on
        `keep_whole` and `check` name it. Never less than what is allocated.
        """
        if self.keep_whole() is None and self.walked is None:
            try:
                self.walked = self.walk()
            except Damaged as fault:
                self.walk_fault = fault
        if self.keep_whole() is not None or self.walked is None:
            return tuple(ExtentSet.single(0, volume.size) for volume in self.below)
        return self.walked

    def walk(self) -> tuple[ExtentSet, ...]:
        """Walk the extent tree; raises Damaged."""
        assert self.reader is not None
        found = on_devices(allocated(self.reader), self.reader.map)
        return tuple(
            self.fixed(device) | found.get(device.item.devid, ExtentSet()) for device in self.devices
        )

    def fixed(self, device: Device) -> ExtentSet:
        """Return what every device has."""
        size = device.volume.size
        end = min(self.item(device).total_bytes, size)
        supers = [(at, at + SUPER_SIZE) for at in SUPER_PLACES if at + SUPER_SIZE <= end]
        return ExtentSet.of([(0, min(RESERVED_END, size)), *supers])

    def used_bytes(self) -> int | None:
        """Allocated logical bytes: all copies of DUP and RAID1 count once."""
        return self.sb.bytes_used

    def check(self) -> list[Finding]:
        found = [finding for device in self.devices for finding in self.check_mirrors(device)]
        return [*found, *self.check_sizes(), *self.check_total(), *self.check_trees()]

    def check_mirrors(self, device: Device) -> Iterator[Finding]:
        """Compare the superblock copies of a device that a kernel would write."""
        sb, size = device.sb, self.item(device).total_bytes
        for mirror in device.mirrors:
            first = mirror.at == SUPER_PLACES[0]
            if not first and mirror.at + SUPER_SIZE >= size:
                continue
            severity = "damage" if first else "warning"
            if mirror.sb is None:
                text = f"btrfs: {mirror.fault}"
                yield Finding(severity, "superblock-bad", text, device.volume.name, mirror.at)
            elif (mirror.sb.fsid, mirror.sb.generation, mirror.sb.total_bytes) != (
                sb.fsid,
                sb.generation,
                sb.total_bytes,
            ):
                text = (
                    "btrfs: superblock copies differ: "
                    f"generation {mirror.sb.generation}, size {mirror.sb.total_bytes}"
                )
                yield Finding(severity, "superblock-differs", text, device.volume.name, mirror.at)

    def check_sizes(self) -> Iterator[Finding]:
        """Compare the sizes that device items and volumes state."""
        for device in self.devices:
            size, volume = self.item(device).total_bytes, device.volume
            if size > volume.size:
                text = f"btrfs: the file system has {size} bytes, its volume only {volume.size}"
                yield Finding("damage", "fs-larger-than-volume", text, volume.name)
            elif volume.size - size >= self.sb.sectorsize:
                text = f"btrfs: the file system has {size} bytes, its volume {volume.size}"
                yield Finding("note", "fs-smaller-than-volume", text, volume.name)

    def check_total(self) -> Iterator[Finding]:
        """Compare the size that the superblock states with the sum of the device items."""
        if self.space is None or self.space.absent:
            return
        said, name = self.sb.total_bytes, self.below[0].name
        total = sum(item.record.total_bytes for item in self.space.devices.values())
        if said < total:
            text = f"btrfs: the superblock says {said} bytes, below the device item's {total}"
            yield Finding("damage", "size-mismatch", f"{text}: kernels refuse to mount", name)
        elif said > total:
            text = f"btrfs: the superblock says {said} bytes, above the device item's {total}"
            yield Finding("warning", "size-mismatch", f"{text}: an interrupted grow", name)

    def check_trees(self) -> Iterator[Finding]:
        """Tell what reading the trees has shown so far."""
        name = self.below[0].name
        if self.sb.log_root:
            text = "btrfs: was not unmounted; a log tree waits to be replayed"
            yield Finding("note", "log-tree", text, name)
        if self.reason:
            yield Finding("note", "kept-whole", f"btrfs: kept whole: {self.reason}", name)
        if self.reader is not None:
            for place, fault in sorted(self.reader.faults.items()):
                text = f"btrfs: one copy of a tree block is bad: {fault}"
                yield Finding("warning", "copy-bad", text, self.reader.where(place), place.at)
        if self.walk_fault is not None:
            text = f"btrfs: the extent tree is damaged: {self.walk_fault}"
            yield Finding("damage", "extent-tree", text, name, self.walk_fault.at)


class BtrfsFs(Btrfs):
    """A btrfs on one volume."""

    @property
    def volume(self) -> Volume:
        """The volume that the file system stands on."""
        return self.below[0]

    @property
    def dev_item(self) -> DevItem:
        """What is known of the device."""
        return self.item(self.devices[0])

    def facts(self) -> Mapping[str, Value]:
        item = self.dev_item
        own: dict[str, Value] = {"device_uuid": str(UUID(bytes=item.uuid)), "devid": item.devid}
        return {**super().facts(), **own, "size": item.total_bytes}

    def floor(self) -> int:
        """Return what is allocated now, and at least what kernels accept; only a kernel can tell more."""
        used = self.used()[0].size
        if (reason := self.keep_whole()) is not None:
            hint = "capture the disk whole, or let the appliance unmount it cleanly first"
            raise Refused(f"btrfs cannot be shrunk: {reason}", volume=self.volume.name, hint=hint)
        sector = self.sb.sectorsize
        return min(self.dev_item.total_bytes, max(SMALLEST, -(-used // sector) * sector))

    def plan_grow(self) -> list[Step]:
        """Fill the volume, offline; raises Unsupported, or Inconsistent where it is smaller than we are."""
        return plan_grow(self.volume, self.sb, self.reader, self.space, self.why_not_trusted())


def probe(volume: Volume) -> BtrfsFs | Member | Suspect | None:
    """Look for a btrfs; a damaged superblock or chunk tree makes it a Suspect.

    One of several devices is a Member, with the `Device` as its detail.
    """
    mirrors = read_mirrors(volume)
    sb = newest(mirrors)
    if not mirrors or (sb is None and type(mirrors[0].fault) in (BadMagic, Damaged)):
        return None
    first = mirrors[0]
    if sb is None:
        return Suspect(BtrfsFs.kind, volume, str(first.fault), first.at)
    device = Device(volume, mirrors, sb)
    lost = isinstance(first.fault, BadMagic)
    if sb.num_devices > 1:
        # Without the others nobody can tell whether a mirror alone is a leftover of a former life.
        return None if lost else member_of(device)
    found = build(device)
    if not lost:
        return found
    # The first superblock is overwritten. If the trees are too, a mirror is the leftover of a former life.
    if isinstance(found, Suspect) or found.reason is not None:
        return None
    evidence = f"no superblock at {first.at:#x}, but a good one at {sb.bytenr:#x} whose chunk tree is whole"
    return Suspect(BtrfsFs.kind, volume, evidence, first.at)


def member_of(device: Device) -> Member:
    """Return what `device` is one of."""
    sb = device.sb
    key = str(UUID(bytes=sb.fsid))
    return Member(Btrfs.kind, device.volume, key, device.item.devid, sb.num_devices, device)


def build(device: Device) -> BtrfsFs | Suspect:
    """Read the chunk tree of a file system on one device."""
    try:
        return BtrfsFs([device], read_trees([device]))
    except Damaged as error:
        return Suspect(BtrfsFs.kind, device.volume, f"chunk tree: {error}", error.at)


def read_trees(devices: Sequence[Device]) -> Trees:
    """Read the chunk tree by the superblock of the first device; raises Damaged."""
    sb = devices[0].sb
    if reason := next(filter(None, (reason_by_super(device.sb) for device in devices)), None):
        return Trees(reason=reason)
    bootstrap = ChunkMap(parse_system_chunks(sb))
    if odd := bootstrap.odd_profiles:
        return Trees(reason=f"chunk profile {' '.join(odd)} is not read")
    volumes = {device.item.devid: device.volume for device in devices}
    reader = Reader(volumes, sb, bootstrap)
    space = read_space(reader)
    reader.map = space.map
    for device in devices:
        devid = device.item.devid
        if space.devices[devid].record.uuid != device.item.uuid:
            return Trees(reader, space, f"the chunk tree knows device {devid} by another UUID")
    return Trees(reader, space, reason_by_space(space, volumes))
