"""A partition of another disk, mounted to be read only, while a user wants images from it.

Source: mount(8): even "ro" has a journal replayed, which writes; ext4, XFS and btrfs have options against it.
Partitions only, and only file systems that the kernel of the rescue knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebay.base import tool
from onebay.base.error import Refused, reason
from onebay.block import partition_paths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onebay.web.disks import Disk

# kind of a layer -> (file system's name for mount, options that keep its journal from being replayed)
MOUNTS = {
    "ext": ("ext4", "ro,noload,nosuid,nodev,noexec"),
    "xfs": ("xfs", "ro,norecovery,nouuid,nosuid,nodev,noexec"),
    "btrfs": ("btrfs", "ro,rescue=nologreplay,nosuid,nodev,noexec"),
    "fat": ("vfat", "ro,nosuid,nodev,noexec"),
}
PATIENCE = 60.0  # seconds


def mountable(document: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield number and kind of the partitions in a document of `inspect` that can be mounted."""
    for part in document["tree"].get("parts", []):
        kind = (part.get("node") or {}).get("kind")
        number = part["label"].removeprefix("p")
        if part["role"] == "partition" and kind in MOUNTS and number.isdecimal():
            yield int(number), kind


def mount(disk: Disk, number: int, kind: str, folder: Path) -> Path:
    """Mount a partition under `folder` and return where; raises Refused, ToolFailed."""
    device = partition_paths(disk.path).get(number)
    if device is None:
        raise Refused("the system knows no such partition", volume=str(disk.path), found=number)
    name, options = MOUNTS[kind]
    place = folder / device.name
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(reason(error), volume=str(place)) from error
    if not place.is_mount():
        tool.run(["mount", "-t", name, "-o", options, device, place], timeout=PATIENCE)
    return place


def unmount(place: Path) -> None:
    """Undo `mount`; raises ToolFailed where something still uses it."""
    if place.is_mount():
        tool.run(["umount", place], timeout=PATIENCE)
    place.rmdir()
