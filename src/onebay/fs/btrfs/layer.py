"""The btrfs layer: probing, facts, used space, findings."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from onebay.base.error import BadMagic, Damaged, Refused
from onebay.base.extent import ExtentSet
from onebay.fs.btrfs.chunk import ChunkMap, Space, parse_system_chunks, read_space, reason_by_space
from onebay.fs.btrfs.csum import CSUM_NAMES
from onebay.fs.btrfs.grow import plan_grow
from onebay.fs.btrfs.read import Reader, allocated, on_device
from onebay.fs.btrfs.record import (
    DEV_ITEM,
    INCOMPAT_METADATA_UUID,
    RESERVED_END,
    SUPER_PLACES,
    SUPER_SIZE,
    Super,
)
from onebay.fs.btrfs.super import Mirror, features, newest, read_mirrors, reason_by_super
from onebay.layer import Finding, Layer, Suspect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.layer import Value

SMALLEST = 256 << 20  # bytes; linux fs/btrfs/ioctl.c, btrfs_ioctl_resize


class BtrfsFs(Layer):
    """A btrfs on one volume; `space` is None where `reason` says that its trees are not read."""

    kind = "btrfs"
    growth = "the device item and the superblocks, in place"
    shrinkage = "by a kernel, on a scratch copy of all used blocks; to 256 MiB at least"

    def __init__(
        self,
        volume: Volume,
        mirrors: list[Mirror],
        sb: Super,
        *,
        reader: Reader | None = None,
        space: Space | None = None,
        reason: str | None,
    ) -> None:
        self.below = (volume,)
        self.mirrors, self.sb, self.reader, self.space, self.reason = mirrors, sb, reader, space, reason
        self.dev_item = DEV_ITEM.unpack(sb.dev_item) if space is None else space.device
        self.walked: ExtentSet | None = None
        self.walk_fault: Damaged | None = None

    @property
    def volume(self) -> Volume:
        """The volume that the file system stands on."""
        return self.below[0]

    def facts(self) -> Mapping[str, Value]:
        sb = self.sb
        csum = CSUM_NAMES[sb.csum_type] if sb.csum_type < len(CSUM_NAMES) else str(sb.csum_type)
        facts: dict[str, Value] = {
            "uuid": str(UUID(bytes=sb.fsid)),
            "label": sb.label.split(b"\0", 1)[0].decode("utf-8", "replace"),
            "device_uuid": str(UUID(bytes=self.dev_item.uuid)),
            "devid": self.dev_item.devid,
            "devices": sb.num_devices,
            "generation": sb.generation,
            "size": self.dev_item.total_bytes,
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
        if self.reason is None and self.mirrors[0].sb is not self.sb:
            return "the first superblock, which kernels mount, is damaged or older than a mirror"
        return self.reason

    def used(self) -> tuple[ExtentSet, ...]:
        """Superblocks, the first MiB, and every copy of every allocated extent.

        The whole volume where `keep_whole` has a reason, and where the walk finds damage: from then on
        `keep_whole` and `check` name it. Never less than what is allocated.
        """
        if self.keep_whole() is None and self.walked is None:
            try:
                self.walked = self.walk()
            except Damaged as fault:
                self.walk_fault = fault
        if self.keep_whole() is not None or self.walked is None:
            return (ExtentSet.single(0, self.volume.size),)
        return (self.walked,)

    def walk(self) -> ExtentSet:
        """Walk the extent tree; raises Damaged."""
        assert self.reader is not None
        end = min(self.dev_item.total_bytes, self.volume.size)
        fixed = [(0, min(RESERVED_END, self.volume.size))]
        fixed += [(at, at + SUPER_SIZE) for at in SUPER_PLACES if at + SUPER_SIZE <= end]
        return ExtentSet.of(fixed) | on_device(allocated(self.reader), self.reader.map)

    def used_bytes(self) -> int | None:
        """Allocated logical bytes: each copy of DUP counts once."""
        return self.sb.bytes_used

    def check(self) -> list[Finding]:
        return [*self.check_mirrors(), *self.check_sizes(), *self.check_trees()]

    def finding(self, severity: str, kind: str, text: str, at: int | None = None) -> Finding:
        """Make a finding about our volume."""
        return Finding(severity, kind, text, self.volume.name, at)

    def check_mirrors(self) -> Iterator[Finding]:
        """Compare the superblock copies that a kernel would write."""
        for mirror in self.mirrors:
            first = mirror.at == SUPER_PLACES[0]
            if not first and mirror.at + SUPER_SIZE >= self.dev_item.total_bytes:
                continue
            severity = "damage" if first else "warning"
            if mirror.sb is None:
                yield self.finding(severity, "superblock-bad", f"btrfs: {mirror.fault}", mirror.at)
            elif (mirror.sb.fsid, mirror.sb.generation, mirror.sb.total_bytes) != (
                self.sb.fsid,
                self.sb.generation,
                self.sb.total_bytes,
            ):
                text = (
                    "btrfs: superblock copies differ: "
                    f"generation {mirror.sb.generation}, size {mirror.sb.total_bytes}"
                )
                yield self.finding(severity, "superblock-differs", text, mirror.at)

    def check_sizes(self) -> Iterator[Finding]:
        """Compare the sizes that device item, superblock and volume state."""
        size, volume = self.dev_item.total_bytes, self.volume.size
        if size > volume:
            text = f"btrfs: the file system has {size} bytes, its volume only {volume}"
            yield self.finding("damage", "fs-larger-than-volume", text)
        elif volume - size >= self.sb.sectorsize:
            text = f"btrfs: the file system has {size} bytes, its volume {volume}"
            yield self.finding("note", "fs-smaller-than-volume", text)
        if self.space is None:
            return
        if self.sb.total_bytes < size:
            text = f"btrfs: the superblock says {self.sb.total_bytes} bytes, below the device item's {size}"
            yield self.finding("damage", "size-mismatch", f"{text}: kernels refuse to mount")
        elif self.sb.total_bytes > size:
            text = f"btrfs: the superblock says {self.sb.total_bytes} bytes, above the device item's {size}"
            yield self.finding("warning", "size-mismatch", f"{text}: an interrupted grow")

    def check_trees(self) -> Iterator[Finding]:
        """Tell what reading the trees has shown so far."""
        if self.sb.log_root:
            yield self.finding(
                "note", "log-tree", "btrfs: was not unmounted; a log tree waits to be replayed"
            )
        if self.reason:
            yield self.finding("note", "kept-whole", f"btrfs: kept whole: {self.reason}")
        if self.reader is not None:
            for at, fault in sorted(self.reader.faults.items()):
                yield self.finding(
                    "warning", "copy-bad", f"btrfs: one copy of a tree block is bad: {fault}", at
                )
        if self.walk_fault is not None:
            text = f"btrfs: the extent tree is damaged: {self.walk_fault}"
            yield self.finding("damage", "extent-tree", text, self.walk_fault.at)

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


def probe(volume: Volume) -> BtrfsFs | Suspect | None:
    """Look for a btrfs; a damaged superblock or chunk tree makes it a Suspect."""
    mirrors = read_mirrors(volume)
    sb = newest(mirrors)
    if not mirrors or (sb is None and type(mirrors[0].fault) in (BadMagic, Damaged)):
        return None
    first = mirrors[0]
    if sb is None:
        return Suspect(BtrfsFs.kind, volume, str(first.fault), first.at)
    found = build(volume, mirrors, sb)
    if not isinstance(first.fault, BadMagic):
        return found
    # The first superblock is overwritten. If the trees are too, a mirror is the leftover of a former life.
    if isinstance(found, Suspect) or found.reason is not None:
        return None
    evidence = f"no superblock at {first.at:#x}, but a good one at {sb.bytenr:#x} whose chunk tree is whole"
    return Suspect(BtrfsFs.kind, volume, evidence, first.at)


def build(volume: Volume, mirrors: list[Mirror], sb: Super) -> BtrfsFs | Suspect:
    """Read the chunk tree of a file system with superblock `sb`."""
    reason = reason_by_super(sb)
    if reason is not None:
        return BtrfsFs(volume, mirrors, sb, reason=reason)
    try:
        bootstrap = ChunkMap(parse_system_chunks(sb))
        odd = sorted({chunk.profile for chunk in bootstrap.chunks if not chunk.readable})
        if odd:
            reason = f"chunk profile {' '.join(odd)} is not read"
            return BtrfsFs(volume, mirrors, sb, reason=reason)
        reader = Reader(volume, sb, bootstrap)
        space = read_space(reader, sb)
    except Damaged as error:
        return Suspect(BtrfsFs.kind, volume, f"chunk tree: {error}", error.at)
    reader.map = space.map
    reason = reason_by_space(space, volume.size)
    return BtrfsFs(volume, mirrors, sb, reader=reader, space=space, reason=reason)
