"""ext2, ext3 and ext4 as a layer: what it is, which bytes it needs, what is wrong with it."""

from __future__ import annotations

import uuid
from functools import cached_property
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Refused, Unsupported
from onebay.base.extent import ExtentSet
from onebay.fs.ext import shrink
from onebay.fs.ext.geometry import Geometry, fitting
from onebay.fs.ext.read import Scan, scan
from onebay.fs.ext.record import (
    SUPER_AT,
    SUPER_SIZE,
    Compat,
    Incompat,
    RoCompat,
    State,
    SuperBlock,
    external_journal,
    feature_names,
    names,
)
from onebay.fs.ext.write import plan_grow
from onebay.layer import Finding, Layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.layer import Value

# What blkid goes by: the features that each version's own driver accepts.
EXT2_RO_COMPAT = int(RoCompat.SPARSE_SUPER | RoCompat.LARGE_FILE | RoCompat.BTREE_DIR)
EXT2_INCOMPAT = int(Incompat.FILETYPE | Incompat.META_BG)
EXT3_INCOMPAT = EXT2_INCOMPAT | int(Incompat.NEEDS_RECOVERY)

# Features under which block bitmaps mean what we take them for. Left out, although they have names, is what
# mainline does not implement.
KNOWN_COMPAT = sum(Compat)
KNOWN_INCOMPAT = sum(Incompat) - Incompat.COMPRESSION - Incompat.DIRDATA
KNOWN_RO_COMPAT = sum(RoCompat) - RoCompat.SNAPSHOT - RoCompat.REPLICA

JOURNAL_BACKUP_BLOCKS = 1  # s_jnl_backup_type
OS_NAMES = ("linux", "hurd", "masix", "freebsd", "lites")


class ExtFs(Layer):
    """An ext2, ext3 or ext4 file system on one volume."""

    kind = "ext"
    growth = "by resize2fs, on a scratch file with the metadata only"
    shrinkage = "by resize2fs, on a scratch copy of all used blocks"

    def __init__(self, volume: Volume, superblock: SuperBlock, geometry: Geometry) -> None:
        self.below = (volume,)
        self.superblock, self.geometry = superblock, geometry

    @property
    def volume(self) -> Volume:
        """The volume that the file system stands on."""
        return self.below[0]

    @property
    def title(self) -> str:
        """The oldest version whose driver accepts all features."""
        sb = self.superblock
        journal = sb.s_feature_compat & Compat.HAS_JOURNAL
        incompat = EXT3_INCOMPAT if journal else EXT2_INCOMPAT
        if sb.s_feature_ro_compat & ~EXT2_RO_COMPAT or sb.s_feature_incompat & ~incompat:
            return "ext4"
        return "ext3" if journal else "ext2"

    def facts(self) -> Mapping[str, Value]:
        sb, geometry = self.superblock, self.geometry
        return {
            "uuid": str(uuid.UUID(bytes=sb.s_uuid)),
            "label": text(sb.s_volume_name),
            "size": geometry.size,
            "free": geometry.free_blocks * geometry.block_size,
            "block_size": geometry.block_size,
            "cluster_size": geometry.block_size * geometry.cluster_blocks,
            "blocks": geometry.blocks,
            "free_blocks": geometry.free_blocks,
            "groups": geometry.groups,
            "inodes": sb.s_inodes_count,
            "free_inodes": sb.s_free_inodes_count,
            "inode_size": geometry.inode_size,
            "features": list(feature_names(sb)),
            "state": self.state(),
            "mount_count": sb.s_mnt_count,
            "error_count": sb.s_error_count,
            "last_mounted": text(sb.s_last_mounted),
            "journal": self.journal(),
            "journal_size": self.journal_size(),
            "journal_uuid": self.journal_uuid,
            "created": sb.s_mkfs_time | sb.s_mkfs_time_hi << 32,
            "written": sb.s_wtime | sb.s_wtime_hi << 32,
            "creator_os": OS_NAMES[sb.s_creator_os] if sb.s_creator_os < len(OS_NAMES) else "unknown",
        }

    def state(self) -> str:
        """Return `clean` or `not clean`, with errors and an unreplayed journal named."""
        sb = self.superblock
        words = ["clean" if sb.s_state & State.VALID else "not clean"]
        if sb.s_state & State.ERROR:
            words.append("with errors")
        if sb.s_feature_incompat & Incompat.NEEDS_RECOVERY:
            words.append("needs recovery")
        return ", ".join(words)

    def journal(self) -> str:
        """Return `none`, `internal` or `external`."""
        sb = self.superblock
        if not sb.s_feature_compat & Compat.HAS_JOURNAL:
            return "none"
        return "external" if external_journal(sb) else "internal"

    @property
    def journal_uuid(self) -> str | None:
        """The UUID of a journal on another device; None where there is none, or it has none."""
        raw = self.superblock.s_journal_uuid
        return str(uuid.UUID(bytes=raw)) if self.journal() == "external" and any(raw) else None

    def journal_size(self) -> int | None:
        """Return bytes of the internal journal by the superblock's copy of its inode, None where unknown."""
        sb = self.superblock
        if self.journal() != "internal" or sb.s_jnl_backup_type != JOURNAL_BACKUP_BLOCKS:
            return None
        high, low = (int.from_bytes(sb.s_jnl_blocks[at : at + 4], "little") for at in (60, 64))
        return high << 32 | low

    def used(self) -> tuple[ExtentSet, ...]:
        size = self.volume.size
        if self.keep_whole() is not None:
            return (ExtentSet.single(0, size),)
        # The boot block is in no bitmap where blocks are of 1 KiB; it may hold a boot loader.
        head = ExtentSet.single(0, SUPER_AT + SUPER_SIZE)
        return (head | self.scan.needed,)

    @cached_property
    def scan(self) -> Scan:
        """The walk over all groups; raises Damaged where they cannot be trusted."""
        return scan(self.volume, self.geometry)

    def keep_whole(self) -> str | None:
        sb = self.superblock
        unknown = unknown_features(sb)
        reasons = (
            (bool(unknown), f"unknown features: {', '.join(unknown)}"),
            (bool(sb.s_feature_incompat & Incompat.NEEDS_RECOVERY), "the journal needs recovery"),
            (bool(sb.s_state & State.ERROR), "the file system has recorded errors"),
            (not sb.s_state & State.VALID, "the file system was not unmounted cleanly"),
            (self.geometry.size > self.volume.size, "the file system is larger than its volume"),
        )
        # Only what the superblock does not rule out is worth a walk over all groups.
        return next((reason for holds, reason in reasons if holds), None) or self.damage

    @cached_property
    def damage(self) -> str | None:
        """Say what of descriptors or bitmaps is damaged, or None."""
        try:
            _ = self.scan
        except Damaged as error:
            return str(error)
        return None

    def used_bytes(self) -> int | None:
        return (self.geometry.blocks - self.geometry.free_blocks) * self.geometry.block_size

    def check(self) -> list[Finding]:
        sb, geometry, volume = self.superblock, self.geometry, self.volume
        found: list[Finding] = []

        def add(severity: str, kind: str, message: str) -> None:
            found.append(Finding(severity, kind, message, volume.name, SUPER_AT))

        unknown = unknown_features(sb) + names(Compat, sb.s_feature_compat & ~KNOWN_COMPAT)
        if unknown:
            add("note", "unknown-features", f"features that onebay does not know: {', '.join(unknown)}")
        if sb.s_feature_incompat & Incompat.NEEDS_RECOVERY:
            add("warning", "needs-recovery", "mounted, or not unmounted: the journal must be replayed")
        if sb.s_state & State.ERROR or sb.s_error_count:
            add("warning", "fs-errors", f"{sb.s_error_count} recorded errors; run e2fsck")
        if not sb.s_state & State.VALID:
            add("warning", "not-clean", "not cleanly unmounted; run e2fsck")
        if geometry.size > volume.size:
            add("damage", "fs-larger-than-volume", f"{geometry.size} bytes on a volume of {volume.size}")
        elif fitting(geometry, volume.size) > geometry.blocks:
            rest = volume.size - geometry.size
            add("note", "fs-smaller-than-volume", f"leaves {rest} bytes of its volume unused")
        return found

    def floor(self) -> int:
        """Ask resize2fs, which looks at a scratch copy of the metadata.

        With a journal elsewhere the file system keeps its size: e2fsck, which has to look at what shrinking
        moved, does nothing without the journal, and would go and find it among this machine's devices.
        """
        if (reason := self.keep_whole()) is not None:
            what = f"{self.title} cannot be shrunk: {reason}"
            raise Refused(what, volume=self.volume.name, hint=shrink.WHOLE)
        if self.journal() == "external":
            return self.geometry.size
        return shrink.floor(self.volume, self.superblock, self.geometry)

    def blocks_on(self, size: int) -> int:
        """Return how many blocks the file system has on a volume of `size` bytes, never more than now."""
        return min(self.geometry.blocks, fitting(self.geometry, size))

    def plan_grow(self) -> list[Step]:
        reason = self.keep_whole()
        if reason is not None:
            raise Unsupported(f"{self.title} cannot grow: {reason}", volume=self.volume.name)
        return plan_grow(self.volume, self.superblock, self.geometry, self.scan)


def text(field: bytes) -> str:
    """Decode a zero-terminated name."""
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def unknown_features(sb: SuperBlock) -> list[str]:
    """Name the features that may change what block bitmaps mean."""
    return names(Incompat, sb.s_feature_incompat & ~KNOWN_INCOMPAT) + names(
        RoCompat, sb.s_feature_ro_compat & ~KNOWN_RO_COMPAT
    )
