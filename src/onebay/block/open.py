"""Open what the user named: an image file or a block device."""

from __future__ import annotations

import fcntl
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Missing, Refused, Unsupported
from onebay.block.container import vhd_fixed
from onebay.block.device import DeviceVolume, held, in_use, is_device, loop_of, swap_file
from onebay.block.file import FileVolume, open_error

if TYPE_CHECKING:
    from onebay.block.volume import Volume

SECTOR_SIZES = (512, 4096)
# Containers that qemu reads; their first or last sector says so.
CONTAINERS = {
    b"QFI\xfb": "qcow2",
    b"conectix": "vhd",
    b"vhdxfile": "vhdx",
    b"KDMV": "vmdk",
    b"# Disk DescriptorFile": "vmdk",
    b"<<< ": "vdi",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
}


def open_disk(
    path: Path, *, writable: bool = False, sector_size: int | None = None, raw: bool = False
) -> FileVolume:
    """Open a disk image or block device; `sector_size` in bytes overrides what the image suggests.

    `raw` says that the file is known to be a raw disk, whatever it begins with.
    Raises Missing, Denied, Refused (in use, a folder, empty) or Unsupported (a container that is not raw).
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise open_error(str(path), error) from error
    if stat.S_ISBLK(mode):
        return DeviceVolume(path, writable=writable)
    if not stat.S_ISREG(mode):
        raise Refused("neither a disk image nor a block device", volume=str(path))
    if writable and (loop := loop_of(path)):
        raise Refused(f"the file is attached to {loop}", volume=str(path), hint=f"losetup -d {loop}")
    if writable and swap_file(path):
        raise Refused("the file is used as swap", volume=str(path), hint=f"swapoff {path}")
    volume = ImageFile(path, writable=writable)
    if writable:
        lock(volume)
    if volume.size == 0:
        raise Refused("the file is empty", volume=str(path))
    if not raw:
        refuse_container(volume)
    volume.sector_size = sector_size or guess_sector_size(volume)
    return volume


class ImageFile(FileVolume):
    """An image file that may be attached to a loop device, and mounted through it."""

    def busy(self) -> str | None:
        loop = loop_of(Path(self.name))
        reason = (in_use(Path(loop).stat().st_rdev) or held(Path(loop))) if loop else None
        return f"attached to {loop}, {reason}" if reason else None


def create_disk(path: Path, size: int, *, sector_size: int = 512) -> FileVolume:
    """Make a new sparse image file of `size` bytes; raises Refused where `path` exists."""
    try:
        path.open("xb").close()
    except FileExistsError as error:
        raise Refused("exists already", volume=str(path)) from error
    except OSError as error:
        raise open_error(str(path), error) from error
    volume = FileVolume(path, writable=True, sector_size=sector_size, fresh=True)
    lock(volume)
    try:
        volume.resize(size)
    except Refused:
        volume.close()
        path.unlink()
        raise
    return volume


def lock(volume: FileVolume) -> None:
    """Take the file for us alone; raises Refused where another program of ours writes to it."""
    try:
        fcntl.flock(volume.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Refused("another program is writing to it", volume=volume.name) from error


def refuse_container(volume: FileVolume) -> None:
    """Raise Unsupported where the file is no raw image but a container that we know."""
    head = volume.read(0, min(64, volume.size))
    kind = next((kind for magic, kind in CONTAINERS.items() if head.startswith(magic)), None)
    if kind is None and (found := vhd_fixed(volume)):
        kind = found.kind
    if kind is None:
        return
    hint = f"make it raw first: onebay export {volume.name} OUT.raw"
    if kind in ("zstd", "gzip", "xz"):
        hint = f"decompress it first ({kind} -dc), or use onebay restore for an image of ours"
    raise Unsupported(
        f"not a raw disk: the file is {kind}, which is only read", volume=volume.name, hint=hint
    )


def guess_sector_size(volume: Volume) -> int:
    """Return the sector size at which a GPT header stands in LBA 1 (or the last LBA), else 512."""
    for size in SECTOR_SIZES:
        for at in (size, volume.size // size * size - size):
            if 0 < at <= volume.size - 8 and volume.read(at, 8) == b"EFI PART":
                return size
    return 512


def exists(path: Path) -> bool:
    """Whether something is at `path`; raises Missing where its folder is not there."""
    if not path.parent.is_dir():
        raise Missing("no such folder", volume=str(path.parent))
    return path.exists() or is_device(path)
