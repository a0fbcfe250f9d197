"""An image in a file or on a block device, or coming out of a pipe."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from onebay.base.error import Denied, Missing, SourceError, Truncated
from onebay.source.origin import PIECE, check_inside, not_seekable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onebay.source.origin import Source


class FileSource:
    """A file or device that is already open as `fd`, which this source closes."""

    seekable = True

    def __init__(self, name: str, fd: int) -> None:
        self.name, self.fd = name, fd
        self.size = os.lseek(fd, 0, os.SEEK_END)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes; raises Truncated also where the file became shorter."""
        check_inside(self.name, self.size, offset, length)
        parts: list[bytes] = []
        left = length
        while left:
            try:
                piece = os.pread(self.fd, left, offset + length - left)
            except OSError as error:
                raise failed(self.name, error) from error
            if not piece:
                raise Truncated("file became shorter", volume=self.name, at=offset + length - left)
            parts.append(piece)
            left -= len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield all bytes from byte `offset` on."""
        check_inside(self.name, self.size, offset, 0)
        while offset < self.size:
            piece = self.read_at(offset, min(PIECE, self.size - offset))
            offset += len(piece)
            yield piece

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class PipeSource:
    """A pipe, socket or terminal that is already open as `fd`; read once, from front to back."""

    seekable = False
    size = None

    def __init__(self, name: str, fd: int, *, owned: bool = True) -> None:
        self.name, self.fd, self.owned = name, fd, owned
        self.at = 0

    def read_at(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        """Raise Unsupported: a pipe has no places."""
        raise not_seekable(self.name)

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield what comes, after skipping up to byte `offset`; raises Unsupported where that is past."""
        if offset < self.at:
            raise not_seekable(self.name)
        while True:
            try:
                piece = os.read(self.fd, PIECE)
            except OSError as error:
                raise failed(self.name, error) from error
            if not piece:
                if self.at < offset:
                    raise Truncated("ends early", volume=self.name, expected=offset, found=self.at)
                return
            skip = max(0, min(offset - self.at, len(piece)))
            self.at += len(piece)
            if skip < len(piece):
                yield piece[skip:]

    def close(self) -> None:
        """Close the pipe where we opened it."""
        if self.owned:
            os.close(self.fd)


def open_path(path: Path) -> Source:
    """Open a file, block device, named pipe or /dev/fd entry; raises Missing, Denied or SourceError."""
    name = str(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise failed(name, error) from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return FileSource(name, fd)
    if stat.S_ISDIR(mode):
        os.close(fd)
        raise SourceError("is a folder", volume=name)
    return PipeSource(name, fd)


def open_fd(name: str, fd: int) -> Source:
    """Return a source for a descriptor that somebody else owns, such as standard input."""
    return PipeSource(name, fd, owned=False)


def failed(name: str, error: OSError) -> SourceError:
    """Translate the failure to open or read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Missing("no such file", volume=name)
    if isinstance(error, PermissionError):
        return Denied("permission denied", volume=name)
    return SourceError(f"cannot read: {error.strerror}", volume=name)
