"""The disks that a machine has, and what speaks against writing to one that nobody named.

Sources: Documentation/ABI/stable/sysfs-block (removable, ro), Documentation/ABI/testing/sysfs-bus-mmc (type).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Error
from onebay.block.device import DeviceVolume as Device
from onebay.block.device import (
    attached,
    disk_nodes,
    held,
    identity,
    in_use,
    protected,
    read_line,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

BOOT_AREA = re.compile(r"mmcblk\d+(boot\d+|rpmb|gp\d+)")  # of an eMMC, beside its disk
SECTOR = 512  # sysfs counts so, whatever the disk does


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of this machine; `size` in bytes, `identity` as far as it tells: model, serial, wwn.

    `loose` says how it can be taken out, `use` who uses it or that it cannot be written; both are "" where
    nothing is known. `label` is that of an ISO 9660 file system on it (ECMA-119, 8.4.7).
    """

    path: Path
    size: int
    identity: Mapping[str, str] = field(default_factory=dict)
    loose: str = ""
    use: str = ""
    label: str = ""

    def __str__(self) -> str:
        known = ", ".join(f"{key} {value}" for key, value in self.identity.items() if key != "wwn")
        return f"{self.path} ({self.size} bytes{', ' + known if known else ''})"


def machine_disks() -> list[Disk]:
    """Return the disks of this machine, at most 256, by name: what is hardware and has a medium.

    Loop devices, RAM disks, arrays and whatever else stands on other devices are none.
    """
    found: list[Disk] = []
    for node, path in disk_nodes():
        size = read_line(node / "size")
        if BOOT_AREA.fullmatch(node.name) or not (node / "device").exists() or not size.isdecimal():
            continue
        number = path.stat().st_rdev
        use = protected(number) or in_use(number) or held(path) or attached(number) or ""
        found.append(Disk(path, int(size) * SECTOR, identity(number), loose(node), use, iso_label(path)))
    return found


def loose(node: Path) -> str:
    """Say how the disk of a folder of sysfs can be taken out, "" where it is built in as far as is known."""
    if read_line(node / "removable") == "1":
        return "removable"
    if any(part.startswith("usb") for part in Path(os.path.realpath(node)).parts):
        return "on USB"
    return "a memory card" if read_line(node / "device/type") == "SD" else ""


def iso_label(path: Path) -> str:
    """Return the name of the ISO 9660 volume on a disk, "" where there is none or it cannot be read."""
    try:
        disk = Device(path)
        try:
            raw = disk.read(32 << 10, 72)
        finally:
            disk.close()
    except (Error, OSError):
        return ""
    return raw[40:72].decode("ascii", "replace").rstrip() if raw[:6] == b"\x01CD001" else ""
