"""XFS as a layer: identities, and all that the free space btrees do not list.

Versions 4 and 5. Kept whole: a log that is not clean, features that we do not know, a real-time section
or an external log (they lie on other devices), an interrupted mkfs or growfs, damaged free space btrees.
Nothing is ever written: XFS grows in a kernel, while it is mounted.
"""

from __future__ import annotations

import uuid
from functools import cached_property
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Unsupported
from onebay.base.extent import ExtentSet
from onebay.fs.xfs import features
from onebay.fs.xfs.freespace import Shape, free_space, read_agf, stored_sum
from onebay.fs.xfs.log import Log
from onebay.fs.xfs.record import BASIC_BLOCK, SB_MAGIC, SUPERBLOCK, Incompat, Superblock
from onebay.layer import Finding, Layer, Suspect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.layer import Value

# mkfs.xfs leaves out a last group of less than 16 MiB
SLACK = 16 << 20
CHECKED_GROUPS = 256


class Xfs(Layer):
    """One XFS on one volume."""

    kind = "xfs"
    growth = "by its kernel, on an overlay, in a virtual machine"

    def __init__(self, volume: Volume, sb: Superblock) -> None:
        self.below = (volume,)
        self.volume, self.sb = volume, sb
        crc = features.has_crc(sb)
        other = crc and sb.sb_features_incompat & Incompat.META_UUID
        self.shape = Shape(sb, crc, sb.sb_meta_uuid if other else sb.sb_uuid)

    @property
    def size(self) -> int:
        """Size of the file system in bytes."""
        return self.sb.sb_dblocks * self.sb.sb_blocksize

    @property
    def uuid(self) -> str:
        """UUID as `blkid` prints it."""
        return str(uuid.UUID(bytes=self.sb.sb_uuid))

    @property
    def label(self) -> str | None:
        """Label, or None."""
        return self.sb.sb_fname.split(b"\0", 1)[0].decode("utf-8", "replace") or None

    def facts(self) -> Mapping[str, Value]:
        sb = self.sb
        return {
            "uuid": self.uuid,
            "label": self.label,
            "size": self.size,
            "free": sb.sb_fdblocks * sb.sb_blocksize,
            "version": features.version(sb),
            "block_size": sb.sb_blocksize,
            "sector_size": sb.sb_sectsize,
            "groups": sb.sb_agcount,
            "group_size": sb.sb_agblocks * sb.sb_blocksize,
            "log_size": sb.sb_logblocks * sb.sb_blocksize,
            "features": [*features.feature_names(sb)],
        }

    @cached_property
    def free(self) -> ExtentSet:
        """Free bytes by the btrees; raises Damaged where they break a rule."""
        return free_space(self.volume, self.shape)

    def used(self) -> tuple[ExtentSet, ...]:
        """All bytes of the file system that are not free; raises Damaged where that cannot be told."""
        return (ExtentSet.single(0, self.size) - self.free,)

    def used_bytes(self) -> int | None:
        free = self.sb.sb_fdblocks
        return (self.sb.sb_dblocks - free) * self.sb.sb_blocksize if free <= self.sb.sb_dblocks else None

    def keep_whole(self) -> str | None:
        return self.why_unknown or self.why_dirty or self.why_damaged

    @cached_property
    def why_unknown(self) -> str | None:
        """Say which feature keeps us from trusting free space, or None."""
        sb = self.sb
        if unknown := features.unknown(sb):
            return f"unknown features: {', '.join(unknown)}"
        if features.has_crc(sb) and sb.sb_features_incompat & Incompat.NEEDSREPAIR:
            return "it is marked as needing xfs_repair"
        if sb.sb_inprogress:
            return "mkfs.xfs or xfs_copy was interrupted"
        if sb.sb_rblocks:
            return "it has a real-time section on another device"
        if sb.sb_logstart == 0:
            return "its log is on another device"
        return None

    @cached_property
    def why_dirty(self) -> str | None:
        """Say why the log must be replayed first, or None; only for an internal log."""
        sb = self.sb
        if features.has_crc(sb) and sb.sb_features_log_incompat:
            return f"the log is dirty: it uses features {sb.sb_features_log_incompat:#x}"
        start = features.log_basic_block(sb)
        if start is None:
            return None
        blocks = sb.sb_logblocks * (sb.sb_blocksize // BASIC_BLOCK)
        reason = Log(self.volume, start * BASIC_BLOCK, blocks).why_dirty(sb.sb_uuid)
        return f"the log is dirty: {reason}" if reason else None

    @cached_property
    def why_damaged(self) -> str | None:
        """Say where the free space btrees are damaged, or None."""
        try:
            return f"free space exceeds {self.size}" if self.free.size > self.size else None
        except Damaged as error:
            return str(error)

    def check(self) -> list[Finding]:
        name = self.volume.name
        found: list[Finding] = []
        if self.why_unknown:
            found.append(Finding("warning", "xfs-unknown", self.why_unknown, name, 0))
        if self.why_dirty:
            text = f"{self.why_dirty}; mount and unmount it once"
            found.append(Finding("warning", "dirty", text, name, 0))
        for number in range(min(self.sb.sb_agcount, CHECKED_GROUPS)):
            try:
                read_agf(self.volume, self.shape, number)
                self.check_copy(number)
            except Damaged as error:
                found.append(Finding("damage", "xfs-group", str(error), name, error.at))
        return found

    def check_copy(self, number: int) -> None:
        """Raise Damaged where a group's copy of the superblock is not one of this file system."""
        at = self.shape.group_at(number)
        copy = SUPERBLOCK.unpack(self.volume.read(at, SUPERBLOCK.size))
        mine = (SB_MAGIC, self.sb.sb_uuid, self.sb.sb_agblocks)
        if (copy.sb_magicnum, copy.sb_uuid, copy.sb_agblocks) != mine:
            raise Damaged(
                "copy of the superblock",
                volume=self.volume.name,
                at=at,
                expected=SB_MAGIC,
                found=copy.sb_magicnum,
            )

    @property
    def short(self) -> bool:
        """Whether the volume has room for more than mkfs.xfs would leave unused."""
        return self.volume.size - self.size >= SLACK

    def plan_grow(self) -> list[Step]:
        if self.short:
            raise Unsupported(
                "xfs grows only mounted, in a kernel",
                volume=self.volume.name,
                expected=self.volume.size,
                found=self.size,
                hint="mount it and run xfs_growfs",
            )
        return []


def probe(volume: Volume) -> Xfs | Suspect | None:
    """Recognise XFS by its superblock at byte 0."""
    if volume.size < SUPERBLOCK.size or volume.read(0, 4) != SB_MAGIC:
        return None
    sb = SUPERBLOCK.unpack(volume.read(0, SUPERBLOCK.size))
    if wrong := features.flaw(sb):
        field, text = wrong
        return Suspect("xfs", volume, text, SUPERBLOCK.offset(field))
    end = sb.sb_dblocks * sb.sb_blocksize
    if end > volume.size:
        return Suspect("xfs", volume, f"file system ends at byte {end}, the volume at {volume.size}")
    if features.has_crc(sb):
        found, expected = stored_sum(volume.read(0, sb.sb_sectsize), SUPERBLOCK.offset("sb_crc"))
        if found != expected:
            text = f"superblock checksum: expected {expected:#x}, found {found:#x}"
            return Suspect("xfs", volume, text, SUPERBLOCK.offset("sb_crc"))
    return Xfs(volume, sb)
