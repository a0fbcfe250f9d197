"""What a superblock of XFS says about itself: rules that it breaks, features that we do not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.fs.xfs.record import (
    INCOMPAT_KNOWN,
    Features2,
    Incompat,
    RoCompat,
    Superblock,
    Version,
)

if TYPE_CHECKING:
    from enum import IntFlag

MIN_AG_BLOCKS = 64


def version(sb: Superblock) -> int:
    """Return the version, 4 or 5 where valid."""
    return sb.sb_versionnum & 0x000F


def features2(sb: Superblock) -> int:
    """Return sb_features2, which counts only where MOREBITS is set."""
    return sb.sb_features2 if sb.sb_versionnum & Version.MOREBITS else 0


def has_crc(sb: Superblock) -> bool:
    """Whether metadata blocks carry checksums, which makes it version 5."""
    return version(sb) == 5


def log_basic_block(sb: Superblock) -> int | None:
    """Return the 512-byte block at which the internal log starts, or None where it is not in one group."""
    group, block = divmod(sb.sb_logstart, 1 << sb.sb_agblklog)
    start = group * sb.sb_agblocks + block
    inside = group < sb.sb_agcount and block + sb.sb_logblocks <= sb.sb_agblocks
    if not inside or sb.sb_logblocks == 0 or start + sb.sb_logblocks > sb.sb_dblocks:
        return None
    return start * (sb.sb_blocksize // 512)


def flaw(sb: Superblock) -> tuple[str, str] | None:
    """Return (field, sentence) for the first rule that the geometry breaks; as xfs_validate_sb_common."""
    full = sb.sb_agcount * sb.sb_agblocks
    rules = (
        ("sb_versionnum", version(sb) in (4, 5), "4 or 5", version(sb)),
        ("sb_blocklog", 9 <= sb.sb_blocklog <= 16, "9..16", sb.sb_blocklog),
        ("sb_blocksize", sb.sb_blocksize == 1 << min(sb.sb_blocklog, 16), "2^sb_blocklog", sb.sb_blocksize),
        ("sb_sectlog", 9 <= sb.sb_sectlog <= 15, "9..15", sb.sb_sectlog),
        ("sb_sectsize", sb.sb_sectsize == 1 << min(sb.sb_sectlog, 15), "2^sb_sectlog", sb.sb_sectsize),
        ("sb_sectsize", sb.sb_sectsize <= sb.sb_blocksize, f"<= {sb.sb_blocksize}", sb.sb_sectsize),
        ("sb_agblocks", sb.sb_agblocks >= MIN_AG_BLOCKS, f">= {MIN_AG_BLOCKS}", sb.sb_agblocks),
        ("sb_agblklog", sb.sb_agblklog == (sb.sb_agblocks - 1).bit_length(), "log2", sb.sb_agblklog),
        ("sb_agcount", sb.sb_agcount > 0, "at least 1", sb.sb_agcount),
        (
            "sb_dblocks",
            full - sb.sb_agblocks + MIN_AG_BLOCKS <= sb.sb_dblocks <= full,
            f"{sb.sb_agcount} groups of up to {sb.sb_agblocks} blocks",
            sb.sb_dblocks,
        ),
        (
            "sb_logstart",
            sb.sb_logstart == 0 or log_basic_block(sb) is not None,
            "in one group",
            sb.sb_logstart,
        ),
    )
    return next(
        ((field, f"{field}: expected {rule}, found {found}") for field, ok, rule, found in rules if not ok),
        None,
    )


def names(bits: int, known: type[IntFlag]) -> list[str]:
    """Name the bits that are set; those without a name by their number."""
    words = [flag.name.lower() for flag in known if bits & flag and flag.name]
    rest = bits & ~int(sum(known))
    return words + [hex(1 << n) for n in range(rest.bit_length()) if rest >> n & 1]


def feature_names(sb: Superblock) -> list[str]:
    """Name all features, as far as we know their names."""
    if not has_crc(sb):
        return names(sb.sb_versionnum & 0xFFF0, Version) + names(features2(sb), Features2)
    return names(sb.sb_features_ro_compat, RoCompat) + names(sb.sb_features_incompat, Incompat)


def unknown(sb: Superblock) -> list[str]:
    """Name the features with which free space may be recorded in a way that we do not know."""
    if has_crc(sb):
        return names(sb.sb_features_incompat & ~int(INCOMPAT_KNOWN | Incompat.NEEDSREPAIR), Incompat)
    return names(features2(sb) & ~int(sum(Features2)), Features2)
