"""A disk image in an ordinary file; holes are kept and read fast."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Denied, Error, Missing, Refused, Truncated, reason
from onebay.base.extent import Extent
from onebay.block import ioctl
from onebay.block.volume import Volume, read_only

if TYPE_CHECKING:
    from collections.abc import Iterator


class FileVolume(Volume):
    """An image file as a disk. `fresh` means that we made the file and every byte not yet written is zero."""

    def __init__(
        self, path: Path, *, writable: bool = False, sector_size: int = 512, fresh: bool = False
    ) -> None:
        self.name = str(path)
        self.writable, self.sector_size, self.fresh = writable, sector_size, fresh
        try:
            self.fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise open_error(self.name, error) from error
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        self.checked = fresh  # whether a first write was allowed; a file of our own is nobody else's

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        data = self.pread(size, at)
        while len(data) < size:
            more = self.pread(size - len(data), at + len(data))
            if not more:
                raise Truncated(
                    "file became shorter", volume=self.name, at=at, expected=size, found=len(data)
                )
            data += more
        return data

    def pread(self, size: int, at: int) -> bytes:
        """Read up to `size` bytes; raises Damaged where the medium fails."""
        try:
            return os.pread(self.fd, size, at)
        except OSError as error:
            raise Damaged(f"cannot be read: {reason(error)}", volume=self.name, at=at) from error

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        if not self.writable:
            raise read_only(self)
        if at < 0 or at + len(data) > self.size:
            raise Refused(
                "write beyond the end", volume=self.name, at=at, expected=self.size, found=at + len(data)
            )
        self.first_write()
        view = memoryview(data)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], at + done)
        except OSError as error:
            raise write_error(self.name, at + done, error) from error

    def zero(self, at: int, size: int) -> None:
        self.check_range(at, size)
        if not self.writable:
            raise read_only(self)
        self.first_write()
        if not ioctl.punch_hole(self.fd, at, size):
            super().zero(at, size)

    def flush(self) -> None:
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise write_error(self.name, 0, error) from error

    def data(self, start: int, end: int) -> Iterator[Extent]:
        end = min(end, self.size)
        at = start
        while at < end:
            try:
                first = os.lseek(self.fd, at, os.SEEK_DATA)
                last = os.lseek(self.fd, first, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole up to the end of the file
                    return
                yield Extent(at, end)  # a file system without SEEK_DATA
                return
            if first >= end:
                return
            yield Extent(first, min(last, end))
            at = last

    def resize(self, size: int) -> None:
        """Make the file `size` bytes long; new bytes are zero."""
        if not self.writable:
            raise read_only(self)
        self.first_write()
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise write_error(self.name, size, error) from error
        self.size = size

    def first_write(self) -> None:
        """Look once, before the first write, whether this is still the disk that was opened."""
        if not self.checked:
            self.recheck()

    def recheck(self) -> None:
        """Raise Refused where the name leads to another file now, or its size changed."""
        if not self.fresh:
            self.refuse_changed()
        self.checked = True

    def refuse_changed(self) -> None:
        """Raise Refused where what the name leads to is not what was opened, or has another size."""
        mine = os.fstat(self.fd)
        try:
            other = Path(self.name).stat()
        except OSError as error:
            raise Refused(f"it is gone since it was looked at: {reason(error)}", volume=self.name) from error
        if (mine.st_dev, mine.st_ino) != (other.st_dev, other.st_ino):
            raise Refused("it was replaced by another file since it was looked at", volume=self.name)
        if mine.st_size != self.size:
            raise Refused(
                "its size changed since it was looked at",
                volume=self.name,
                expected=self.size,
                found=mine.st_size,
            )

    def fingerprint(self) -> str:
        """Return what tells this disk from one that comes under the same name later; one line of ASCII."""
        mine = os.fstat(self.fd)
        return f"file={mine.st_dev}:{mine.st_ino} size={mine.st_size} mtime={mine.st_mtime_ns}"

    def busy(self) -> str | None:
        """Say who uses the disk or a part of it, or None; raises nothing."""
        return None

    def settle(self) -> None:
        """Tell the system that the disk has a new partition table."""

    def forget(self) -> None:
        """Drop what the system caches of the disk, so that the next read asks the medium; flush first."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file; the volume cannot be used any more."""
        os.close(self.fd)


def open_error(name: str, error: OSError) -> Error:
    """Translate the failure to open a file or device."""
    if isinstance(error, FileNotFoundError):
        return Missing("no such file or device", volume=name)
    if isinstance(error, PermissionError):
        return Denied("permission denied", volume=name, hint="run as root, or as a member of group disk")
    if error.errno == errno.EBUSY:
        return Refused("in use: mounted, or held by md, device-mapper or another program", volume=name)
    return Refused(reason(error), volume=name)


def write_error(name: str, at: int, error: OSError) -> Error:
    """Translate the failure of a write or flush."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused("no space left while writing", volume=name, at=at)
    return Refused(f"write failed: {reason(error)}", volume=name, at=at)
