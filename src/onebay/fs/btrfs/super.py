"""The superblock and its mirrors: which are good, and which one counts.

A kernel mounts from the first copy alone and rewrites all of them at each commit, the first one first
(linux fs/btrfs/disk-io.c: btrfs_read_disk_super, write_dev_supers, btrfs_validate_super). The mirrors are for
those who come after an accident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import BadChecksum, BadMagic, Damaged, Inconsistent
from onebay.fs.btrfs.csum import CSUMS, matches
from onebay.fs.btrfs.record import (
    COMPAT_RO,
    DEV_ITEM,
    INCOMPAT,
    INCOMPAT_KEPT_WHOLE,
    INCOMPAT_METADATA_UUID,
    MAGIC,
    MAX_BLOCK,
    MAX_LEVEL,
    MIN_BLOCK,
    SUPER,
    SUPER_FLAGS,
    SUPER_FLAGS_FINE,
    SUPER_PLACES,
    SUPER_SIZE,
    DevItem,
    Super,
    names,
    unknown,
)

if TYPE_CHECKING:
    from onebay.block.volume import Volume


class Mirror(NamedTuple):
    """One copy of the superblock at byte `at`: `sb` where it is good, else the `fault`."""

    at: int
    sb: Super | None
    fault: Damaged | None


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a file system: its volume, the superblock copies there, and `sb`, the one that counts."""

    volume: Volume
    mirrors: list[Mirror]
    sb: Super

    @property
    def item(self) -> DevItem:
        """What the superblock says of the device; `item.devid` is its number."""
        return DEV_ITEM.unpack(self.sb.dev_item)

    @property
    def first_counts(self) -> bool:
        """Whether the first superblock, from which a kernel mounts, is the one that counts."""
        return self.mirrors[0].sb is self.sb


def parse_super(raw: bytes, at: int, volume: str) -> Super:
    """Return the superblock in `raw`, read at byte `at`; raises BadMagic, BadChecksum or Inconsistent.

    A checksum type that we do not know cannot be checked; `reason_by_super` names it.
    """
    sb = SUPER.unpack(raw, volume=volume)
    if sb.magic != MAGIC:
        raise BadMagic("superblock magic", volume=volume, at=at, expected=MAGIC, found=sb.magic)
    if sb.csum_type < len(CSUMS) and not matches(sb.csum_type, raw):
        raise BadChecksum("superblock checksum", volume=volume, at=at)
    for name, wrong, found in (
        ("own address", sb.bytenr != at, sb.bytenr),
        ("sector size", not block_size(sb.sectorsize), sb.sectorsize),
        ("node size", not block_size(sb.nodesize) or sb.nodesize < sb.sectorsize, sb.nodesize),
        ("tree level", max(sb.root_level, sb.chunk_root_level) >= MAX_LEVEL, sb.root_level),
        (
            "system chunk array size",
            sb.sys_chunk_array_size > len(sb.sys_chunk_array),
            sb.sys_chunk_array_size,
        ),
        ("number of devices", sb.num_devices == 0, sb.num_devices),
    ):
        if wrong:
            raise Inconsistent(f"superblock {name} is out of range", volume=volume, at=at, found=found)
    return sb


def block_size(size: int) -> bool:
    """Whether `size` may be the bytes of a sector or node."""
    return MIN_BLOCK <= size <= MAX_BLOCK and size & (size - 1) == 0


def read_mirrors(volume: Volume) -> list[Mirror]:
    """Read every superblock copy that lies inside the volume."""
    mirrors = []
    for at in SUPER_PLACES:
        if at + SUPER_SIZE > volume.size:
            break
        try:
            sb = parse_super(volume.read(at, SUPER_SIZE), at, volume.name)
        except Damaged as fault:
            mirrors.append(Mirror(at, None, fault))
        except OSError as error:
            mirrors.append(Mirror(at, None, Damaged(f"unreadable: {error}", volume=volume.name, at=at)))
        else:
            mirrors.append(Mirror(at, sb, None))
    return mirrors


def newest(mirrors: list[Mirror]) -> Super | None:
    """Return the good superblock of the highest generation, the first of equals; None without any.

    A good first copy says which file system this is: mirrors of another one are leftovers.
    """
    good = [mirror.sb for mirror in mirrors if mirror.sb is not None]
    if not good:
        return None
    fsid = good[0].fsid
    return max((sb for sb in good if sb.fsid == fsid), key=lambda sb: sb.generation)


def tree_fsid(sb: Super) -> bytes:
    """Return the UUID that tree blocks and device items carry; `fsid` is what users see and may change."""
    return sb.metadata_uuid if sb.incompat_flags & INCOMPAT_METADATA_UUID else sb.fsid


def reason_by_super(sb: Super) -> str | None:
    """Say why the trees cannot be read, or not be believed, by the superblock alone; None where they can."""
    if sb.csum_type >= len(CSUMS):
        return f"checksum type {sb.csum_type} is unknown"
    if bits := unknown(sb.incompat_flags, INCOMPAT):
        return f"unknown incompat feature bits {' '.join(bits)}"
    if bits := [INCOMPAT[bit] for bit in sorted(INCOMPAT_KEPT_WHOLE) if sb.incompat_flags >> bit & 1]:
        return f"feature {' '.join(bits)} is not read"
    if odd := [name for bit, name in flag_names(sb.flags) if bit not in SUPER_FLAGS_FINE]:
        return f"superblock flag {' '.join(odd)}"
    return "target of an unfinished replacement" if DEV_ITEM.unpack(sb.dev_item).devid == 0 else None


def flag_names(flags: int) -> list[tuple[int, str]]:
    """Return (bit, name) of each set superblock flag."""
    bits = [bit for bit in range(64) if flags >> bit & 1]
    return list(zip(bits, names(flags, SUPER_FLAGS), strict=True))


def features(sb: Super) -> list[str]:
    """Name every incompat and compat_ro feature; unknown bits as `incompat:0x..`."""
    found = []
    for prefix, bits, known in (
        ("incompat", sb.incompat_flags, INCOMPAT),
        ("compat_ro", sb.compat_ro_flags, COMPAT_RO),
        ("compat", sb.compat_flags, dict[int, str]()),
    ):
        odd = set(unknown(bits, known))
        found += [f"{prefix}:{name}" if name in odd else name for name in names(bits, known)]
    return found
