"""What fuzzing starts from: the golden images, and disks put together from several of them."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

import zstandard

from fuzz import folded
from fuzz.disk import PAGE, Seed, paged

FORMATS = Path(__file__).parents[1] / "tests" / "format"
MIB = 1 << 20
# Several golden images as the members of one group.
GROUPS = {
    "group/md-pair": ("md/pair-a", "md/pair-b"),
    "group/md-stale": ("md/stale-a", "md/stale-b"),
    "group/lvm-kinds": ("lvm/kinds-a", "lvm/kinds-b"),
    "group/btrfs-mirror": ("btrfs/mirror.1", "btrfs/mirror.3"),
    "group/btrfs-spread": ("btrfs/spread.2", "btrfs/spread.3"),
}
# Whole disks: golden images in the primary partitions of an MBR, as (partition type, image).
DISKS = {
    "disk/files": ((0x83, "ext/ext4-small-groups"), (0xEF, "fat/fat16"), (0x82, "swap/pages-4k")),
    "disk/mirror": ((0xFD, "md/pair-a"), (0xFD, "md/pair-b"), (0x0C, "fat/fat32")),
    "disk/group": ((0x8E, "lvm/kinds-a"), (0x8E, "lvm/kinds-b"), (0x83, "xfs/v5")),
    "disk/appliance": ((0xFD, "md/v090"), (0xFD, "md/v12"), (0x83, "btrfs/dup")),
    "disk/others": ((0x83, "luks/luks2"), (0x07, "names/exfat"), (0x83, "names/udf")),
}
# Folded disks, as repair meets them (fuzz.folded).
FOLDED = ("folded/v8-mbr", "folded/v9-gpt")


def cases(*kinds: str) -> list[str]:
    """Return the names of all golden images of these formats."""
    found = (path for kind in kinds for path in sorted((FORMATS / kind).glob("*.img.zst")))
    return [f"{path.parent.name}/{path.name.removesuffix('.img.zst')}" for path in found]


def sector_size(name: str) -> int:
    """Return the sector size in bytes that an image was made for."""
    return 4096 if name.endswith(("/sector4096", "-4k")) and not name.startswith("swap/") else 512


@cache
def golden(name: str) -> tuple[int, dict[int, bytes]]:
    """Unpack a golden image."""
    with (FORMATS / f"{name}.img.zst").open("rb") as packed:
        return paged(zstandard.ZstdDecompressor(max_window_size=1 << 31).read_to_iter(packed))


def joined(name: str) -> Seed:
    """Put golden images one after the other."""
    parts, pages = [], {}
    at = 0
    for case in GROUPS[name]:
        size, own = golden(case)
        pages.update({at // PAGE + number: page for number, page in own.items()})
        parts.append(size)
        at += size
    return Seed(name, tuple(parts), 512, pages)


def disk(name: str) -> Seed:
    """Make a disk with golden images in the partitions of an MBR; 4 MiB are free at its end."""
    at = MIB
    entries, pages = b"", {}
    for kind, case in DISKS[name]:
        size, own = golden(case)
        pages.update({at // PAGE + number: page for number, page in own.items()})
        entries += struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", at // 512, size // 512)
        at += -(-size // MIB) * MIB
    head = bytes(440) + b"\x01\x02\x03\x04\0\0" + entries.ljust(64, b"\0") + b"\x55\xaa"
    pages[0] = head.ljust(PAGE, b"\0")
    return Seed(name, (at + 4 * MIB,), 512, pages)


@cache
def seed(name: str) -> Seed:
    """Return a seed by its name; raises FileNotFoundError where there is none."""
    if name in GROUPS:
        return joined(name)
    if name in DISKS:
        return disk(name)
    if name in FOLDED:
        return folded.unpack(name.removeprefix("folded/"))
    size, pages = golden(name)
    return Seed(name, (size,), sector_size(name), pages)
