"""A raw disk in a .gz, .xz or .zst file: unpacked into a sparse scratch file that has no name.

Compressed files have no random access, so this is the one case where a copy is needed. Its space is asked
for before and watched while it grows; zeros take none. A file that unpacks without end stops at `max_size`.
Limits: dictionaries up to 256 MiB (xz) and windows up to 128 MiB (zstd --long=27).

Sources: RFC 1952, RFC 8878, the .xz file format 1.2.1 section 2.2 (stream padding).
"""

from __future__ import annotations

import errno
import lzma
import os
import tempfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import zstandard

from onebay.base.error import Damaged, Refused, Truncated
from onebay.base.event import Began, Ended, Moved, Noted, silent
from onebay.block.file import FileVolume, open_error, write_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block.volume import Volume

OP = "unpack"
MAX_SIZE = 256 << 30  # bytes of an unpacked disk, unless the user says more
XZ_MEMORY = 320 << 20
ZSTD_WINDOW = 128 << 20
GRID = 64 << 10  # holes of the scratch file
RESERVE = 256 << 20  # bytes that stay free where the scratch file is
ZEROS = bytes(GRID)
MAGIC_SIZE = 6  # the longest


class Decoder(Protocol):
    """What zlib, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of a member was seen."""

    @property
    def unused_data(self) -> bytes:
        """What came behind the end of the member."""

    def decompress(self, data: bytes) -> bytes:
        """Take more of the file."""


@dataclass(frozen=True)
class Codec:
    """How to unpack one kind; `step` bytes are fed at a time, so that what comes out stays below 64 MiB."""

    make: Callable[[], Decoder]
    magic: tuple[bytes, ...]
    step: int


CODECS = {
    "gzip": Codec(lambda: zlib.decompressobj(31), (b"\x1f\x8b",), 32 << 10),
    "xz": Codec(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), (b"\xfd7zXZ\0",), 4 << 10),
    "zstd": Codec(
        lambda: zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj(),
        # skippable frames are 0x184D2A50 to 0x184D2A5F
        (b"\x28\xb5\x2f\xfd", *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60))),
        2 << 10,
    ),
}


class ScratchVolume(FileVolume):
    """A file without a name, which is gone when it is closed, whatever happens; read-only for others."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.writable, self.sector_size, self.fresh = name, False, 512, False
        try:
            with tempfile.TemporaryFile(dir=folder, prefix="onebay-") as file:
                self.fd = os.dup(file.fileno())
        except OSError as error:
            raise open_error(str(folder), error) from error
        self.size = 0

    def append(self, data: bytes, folder: Path) -> None:
        """Add `data` at the end; zeros become holes. Raises Refused where there is no space left."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), GRID):
                part = view[start : start + GRID]
                if part != ZEROS[: len(part)]:
                    done = 0
                    while done < len(part):
                        done += os.pwrite(self.fd, part[done:], self.size + start + done)
        except OSError as error:
            raise write_error(str(folder), self.size, error) from error
        self.size += len(data)

    def cut(self, folder: Path) -> None:
        """Let the file end where the disk ends, which may be in a hole."""
        try:
            os.ftruncate(self.fd, self.size)
        except OSError as error:
            raise write_error(str(folder), self.size, error) from error


def unpack(
    file: Volume, kind: str, *, scratch: Path, max_size: int | None = None, report: Report = silent
) -> ScratchVolume:
    """Unpack `file`, of `kind` gzip, xz or zstd, into the folder `scratch`; sizes in bytes.

    Raises Damaged or Truncated, and Refused beyond `max_size` or where the folder has no room.
    """
    limit = max_size or MAX_SIZE
    refuse_full(scratch, file.size, file.name)
    report(Noted(f"{kind}: is unpacked into a scratch file in {scratch}, up to its whole size", file.name))
    report(Began(OP, file.name))
    volume = ScratchVolume(file.name, scratch)
    checked = 0
    whole = False
    try:
        for piece in pieces(file, CODECS[kind], kind):
            if volume.size + len(piece) > limit:
                raise Refused(
                    "unpacks to more than is allowed",
                    volume=file.name,
                    expected=f"<= {limit} bytes",
                    found="more",
                    hint="--max-size",
                )
            volume.append(piece, scratch)
            report(Moved(OP, volume.size))
            if volume.size - checked >= RESERVE // 4:
                refuse_full(scratch, 0, file.name)
                checked = volume.size
        if volume.size == 0:
            raise Truncated("holds no disk: it unpacks to nothing", volume=file.name)
        volume.cut(scratch)
        whole = True
    finally:
        if not whole:
            volume.close()
    report(Ended(OP, 0.0, f"{volume.size} bytes"))
    return volume


def refuse_full(scratch: Path, need: int, name: str) -> None:
    """Raise Refused where the scratch folder has not `need` bytes and a reserve."""
    try:
        free = os.statvfs(scratch)
    except OSError as error:
        raise open_error(str(scratch), error) from error
    room = free.f_bavail * free.f_frsize
    if room < need + RESERVE:
        raise Refused(
            "no room to unpack it",
            volume=name,
            expected=f"more than {need + RESERVE} bytes free in {scratch}",
            found=room,
            hint="name a folder with room: TMPDIR=FOLDER onebay ...",
        )


def pieces(file: Volume, codec: Codec, kind: str) -> Iterator[bytes]:
    """Yield what a file holds, member after member; raises Damaged or Truncated."""
    decoder: Decoder | None = None
    at = 0
    rest = b""
    while True:
        rest, at = feed(file, rest, at, codec, padded=decoder is None and kind != "zstd")
        if not rest:
            break
        if decoder is None:
            if not rest.startswith(codec.magic):
                raise Damaged(f"{kind}: what follows is none", volume=file.name, at=at - len(rest))
            decoder = codec.make()
        try:
            out = decoder.decompress(rest)
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
            raise Damaged(f"{kind}: {error}", volume=file.name, at=max(0, at - len(rest))) from error
        except MemoryError as error:
            raise Refused(f"{kind}: {os.strerror(errno.ENOMEM).lower()}", volume=file.name) from error
        rest = b""
        if decoder.eof:
            rest, decoder = decoder.unused_data, None
        if out:
            yield out
    if decoder is not None:
        raise Truncated(f"{kind}: the file ends early", volume=file.name, at=file.size)


def feed(file: Volume, rest: bytes, at: int, codec: Codec, *, padded: bool) -> tuple[bytes, int]:
    """Return the next bytes, long enough for a magic unless the file ends, and where they end in the file.

    `padded` drops zeros before them: xz pads its streams, and tape drives padded gzip.
    """
    while len(rest) < MAGIC_SIZE:
        rest = rest.lstrip(b"\0") if padded else rest
        piece = file.read(at, min(codec.step, file.size - at))
        if not piece:
            break
        rest += piece
        at += len(piece)
    return (rest.lstrip(b"\0") if padded else rest), at
