"""A block device as a disk: exclusive opening, and the refusals that protect disks in use.

Sources: open(2) on O_EXCL of block devices, Documentation/ABI/stable/sysfs-block.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Refused, reason
from onebay.block import ioctl
from onebay.block.file import FileVolume, open_error
from onebay.block.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

SYS = Path("/sys/dev/block")
DISKS = Path("/sys/block")
MOST = 256  # disks of a machine that are looked at
NO_DISKS = ("ram", "zram", "sr", "fd")  # memory, and drives that may wait for a medium


class DeviceVolume(FileVolume):
    """A whole block device; writable means opened with O_EXCL, so that nobody mounts it meanwhile.

    Raises Refused, before anything is written, where the disk or a part of it is mounted, swap, held by md or
    device-mapper, or read-only.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        real = path.resolve()
        number = real.stat().st_rdev
        self.number = number
        if writable and (reason := protected(number) or in_use(number) or attached(number)):
            raise Refused(
                reason, volume=str(path), hint="unmount it, stop what holds it, or work from a rescue"
            )
        super().__init__(real, writable=False)
        self.name = str(path)
        if writable:
            os.close(self.fd)
            try:
                self.fd = os.open(real, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
            except OSError as error:
                raise open_error(self.name, error) from error
            self.writable = True
        self.size = ioctl.device_size(self.fd)
        self.sector_size = ioctl.device_sector_size(self.fd)
        self.identity = identity(number)
        self.rotating = rotating(number)
        self.sequence = sequence(number)

    def busy(self) -> str | None:
        """Say who uses the disk or a part of it, or None."""
        return in_use(self.number) or (
            None if self.writable else held(Path(self.name)) or looped(self.number)
        )

    def fingerprint(self) -> str:
        """Return number, diskseq, size and identity as they were when the disk was opened."""
        facts = {"number": numbers_of(self.number), "diskseq": self.sequence, "size": self.size}
        return " ".join(f"{key}={value or 'none'}" for key, value in {**facts, **self.identity}.items())

    def refuse_changed(self) -> None:
        """Raise Refused where the name leads to another device now, or another medium is in it."""
        try:
            number = Path(self.name).stat().st_rdev
        except OSError as error:
            raise Refused(f"it is gone since it was looked at: {reason(error)}", volume=self.name) from error
        try:
            size = ioctl.device_size(self.fd)
        except OSError as error:
            raise Refused(f"it is gone since it was looked at: {reason(error)}", volume=self.name) from error
        before = {**self.identity, "number": self.number, "diskseq": self.sequence, "size": self.size}
        now = {**identity(number), "number": number, "diskseq": sequence(number), "size": size}
        for key in before | now:
            if before.get(key) != now.get(key):
                raise Refused(
                    f"it is another disk than the one looked at, by its {key}",
                    volume=self.name,
                    expected=before.get(key, "none"),
                    found=now.get(key, "none"),
                )

    def zero(self, at: int, size: int) -> None:
        self.check_range(at, size)
        if self.writable:
            self.first_write()
        if not self.writable or not ioctl.zero_out(self.fd, at, size):
            Volume.zero(self, at, size)

    def settle(self) -> None:
        ioctl.reread_table(self.fd)  # a kernel that keeps the old one until the next boot is no failure

    def resize(self, size: int) -> None:
        """Devices keep their size; raises Refused where another one is asked for."""
        if size != self.size:
            raise Refused("a device cannot be resized", volume=self.name, expected=size, found=self.size)


def is_device(path: Path) -> bool:
    """Whether `path` is a block device; False where it does not exist."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


def rotating(number: int) -> bool:
    """Whether the disk with device number `number` says that it turns."""
    place = SYS / f"{os.major(number)}:{os.minor(number)}" / "queue/rotational"
    try:
        return place.read_text("ascii").strip() == "1"
    except OSError:
        return False


def identity(number: int) -> dict[str, str]:
    """Return model, serial and WWN of the disk with device number `number`, as far as sysfs tells."""
    base = SYS / f"{os.major(number)}:{os.minor(number)}"
    names = {
        "model": ("device/model",),
        "serial": ("serial", "device/serial", "device/vpd_pg80"),
        "wwn": ("wwid", "device/wwid"),
    }
    found: dict[str, str] = {}
    for key, places in names.items():
        for place in places:
            try:
                raw = (base / place).read_bytes()
            except OSError:
                continue
            text = "".join(
                chr(c) for c in (raw[4:] if place.endswith("pg80") else raw) if 32 <= c < 127
            ).strip()
            if text:
                found[key] = text
                break
    return found


def sequence(number: int) -> str:
    """Return the kernel's number of the medium in this device (Linux 5.15), "" where it has none.

    It changes whenever another disk, or another file behind a loop device, comes under the same name.
    """
    return read_line(SYS / numbers_of(number) / "diskseq")


def protected(number: int) -> str | None:
    """Say that the disk with this device number takes no writes, or None; to read, that is as good."""
    return "the device is read-only" if read_line(SYS / numbers_of(number) / "ro") == "1" else None


def in_use(number: int) -> str | None:
    """Say who uses the disk with this device number or a part of it; None where nobody does."""
    base = SYS / f"{os.major(number)}:{os.minor(number)}"
    for node in family(base):
        try:
            numbers = (node / "dev").read_text().strip()
            holders = sorted(entry.name for entry in (node / "holders").iterdir())
        except OSError:
            continue
        if holders:
            return f"{node.name} is held by {', '.join(holders)}"
        if mount := mounted(numbers):
            return f"{node.name} is mounted on {mount}"
        if numbers in swaps():
            return f"{node.name} is used as swap"
    return None


def held(path: Path) -> str | None:
    """Say that somebody has the disk or a part of it for himself; None where nobody has.

    A mounted btrfs shows here only: it has a device number of its own in the tables of mounts.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return "mounted, or held by another program" if error.errno == errno.EBUSY else None
    return None


def attached(number: int) -> str | None:
    """Say that a loop device stands on the disk or a part of it; the kernel names no such holder."""
    for node in family(SYS / f"{os.major(number)}:{os.minor(number)}"):
        name = node.resolve().name
        if loop := loop_of(Path("/dev") / name):
            return f"{name} is attached to {loop}"
    return None


def looped(number: int) -> str | None:
    """Say who uses the disk through a loop device that stands on it or a part of it."""
    for node in family(SYS / f"{os.major(number)}:{os.minor(number)}"):
        loop = loop_of(Path("/dev") / node.resolve().name)
        if loop and (reason := in_use(Path(loop).stat().st_rdev) or held(Path(loop))):
            return f"attached to {loop}, {reason}"
    return None


def family(base: Path) -> Iterator[Path]:
    """Yield the sysfs folders of a disk and its partitions."""
    try:
        real = base.resolve(strict=True)
    except OSError:
        return
    yield base
    yield from sorted(child for child in real.iterdir() if (child / "partition").exists())


def mounted(numbers: str) -> str | None:
    """Return a mount point of device `major:minor` in any mount namespace that we may read."""
    for table in (Path("/proc/self/mountinfo"), *Path("/proc").glob("[0-9]*/mountinfo")):
        try:
            lines = table.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue  # a process that ended, or one that we may not look into
        for line in lines:
            fields = line.split()
            if len(fields) > 4 and fields[2] == numbers:
                return fields[4]
    return None


def swaps() -> set[str]:
    """Return the `major:minor` numbers of active swap devices."""
    found: set[str] = set()
    try:
        lines = Path("/proc/swaps").read_text("utf-8", "replace").splitlines()[1:]
    except OSError:
        return found
    for line in lines:
        path = Path(line.split()[0])
        if is_device(path):
            number = path.stat().st_rdev
            found.add(f"{os.major(number)}:{os.minor(number)}")
    return found


def swap_file(path: Path) -> bool:
    """Whether an ordinary file is active swap space."""
    try:
        lines = Path("/proc/swaps").read_text("utf-8", "surrogateescape").splitlines()[1:]
    except OSError:
        return False
    names = [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[0]) for line in lines]
    return any(Path(name).exists() and path.samefile(name) for name in names)


def loop_of(path: Path) -> str | None:
    """Return the loop device that the image file `path` is attached to, or None."""
    real = str(path.resolve())
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text("utf-8", "replace").strip() == real:
                return f"/dev/{backing.parent.parent.name}"
        except OSError:
            continue  # detached while we looked
    return None


def other_disks(disk: DeviceVolume) -> list[Path]:
    """Return the other whole disks of this machine, at most 256, by name.

    Left out is what stands on other devices, what has no medium, and other ways to the bytes of `disk`: a
    loop device over the same file or over the disk, a second path to the same unit.
    """
    here = Path("/dev")
    mine = {os.path.realpath(here / node.resolve().name) for node in family(SYS / numbers_of(disk.number))}
    if backing := read_line(SYS / numbers_of(disk.number) / "loop/backing_file"):
        mine.add(backing)
    found: list[Path] = []
    for path in whole_disks():
        base = SYS / numbers_of(path.stat().st_rdev)
        parts = {os.path.realpath(here / part.resolve().name) for part in family(base)}
        wwn = identity(path.stat().st_rdev).get("wwn")
        same = wwn is not None and wwn == disk.identity.get("wwn")
        if same or mine & {*parts, read_line(base / "loop/backing_file")}:
            continue
        found.append(path)
    return found


def disk_nodes() -> Iterator[tuple[Path, Path]]:
    """Yield the folder in sysfs and the device of at most 256 block devices that have a medium, by name."""
    for node in sorted(DISKS.iterdir())[:MOST] if DISKS.is_dir() else ():
        path = Path("/dev") / node.name.replace("!", "/")
        if (
            not node.name.startswith(NO_DISKS)
            and read_line(node / "size") not in ("", "0")
            and is_device(path)
        ):
            yield node, path


def whole_disks() -> list[Path]:
    """Return the whole disks of this machine, at most 256, by name.

    Left out is what stands on other devices and what has no medium.
    """
    return [
        path
        for node, path in disk_nodes()
        if not ((node / "slaves").is_dir() and any((node / "slaves").iterdir()))
    ]


def partition_paths(disk: Path) -> dict[int, Path]:
    """Return the devices of the partitions of a whole disk, by their numbers; {} for anything else."""
    if not is_device(disk):
        return {}
    found: dict[int, Path] = {}
    for node in family(SYS / numbers_of(disk.stat().st_rdev)):
        number = read_line(node / "partition")
        path = Path("/dev") / node.resolve().name
        if number.isdecimal() and is_device(path):
            found[int(number)] = path
    return found


def numbers_of(number: int) -> str:
    """Return a device number as sysfs writes it."""
    return f"{os.major(number)}:{os.minor(number)}"


def read_line(path: Path) -> str:
    """Return the content of a small file of sysfs, "" where there is none."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
