"""A disk while an image is written to it: it cannot boot before everything is there, and it can go on.

First a marker takes the place of the boot sector and both ends of the disk, where partition tables live, are
cleared; then come the data; last, behind a barrier, what was held back: tables first, the first MiB after
them, the very first sector at the end. A run that finds the marker of its own image trusts only what it reads
back and compares.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.base.extent import ExtentSet

if TYPE_CHECKING:
    from onebay.block import FileVolume

MARK = b"onebay: this restore is not complete; run the same command again\n"
HEAD = 1 << 20  # bytes at the start of the disk that are written last
END = 4 << 20  # bytes at the end that are cleared first: backup GPT, md and journals of an old life
NEAR = 64 << 10  # ranges closer than this are written in one go


class Target:
    """Writes an image's bytes to `disk`.

    `keep` are the bytes that matter, `late` those that must come last (partition tables), `identity` is the
    32-byte digest that names the image. Raises Refused where the disk is smaller than `image_size` bytes, or
    is not the one any more that was opened.
    """

    def __init__(
        self, disk: FileVolume, keep: ExtentSet, late: ExtentSet, identity: bytes, *, image_size: int
    ) -> None:
        if disk.size < image_size:
            raise Refused(
                "the target is too small", volume=disk.name, expected=f">= {image_size}", found=disk.size
            )
        disk.recheck()
        self.disk, self.keep, self.identity = disk, keep, identity
        self.late = ExtentSet.single(0, min(HEAD, image_size)) | late.clip(0, image_size)
        self.early = keep - self.late
        self.held: dict[int, bytes] = {}
        self.lock = threading.Lock()

    def marker(self) -> bytes:
        """Return the sector that stands at byte 0 while the restore is not complete."""
        return marker(self.identity).ljust(self.disk.sector_size, b"\0")

    def begin(self) -> bool:
        """Make the disk unbootable; return whether an earlier run of the same restore left its marker."""
        marker = self.marker()
        resumed = self.disk.size >= len(marker) and self.disk.read(0, len(marker)) == marker
        if not resumed:
            self.disk.write(0, marker)
            self.disk.flush()
        sector, size = self.disk.sector_size, self.disk.size
        self.disk.zero(sector, min(HEAD, size) - sector)
        end = ExtentSet.single(max(min(HEAD, size), size - END), size)
        for start, stop in end - self.early if resumed else end:  # restored data are compared
            self.disk.zero(start, stop - start)
        self.disk.flush()
        return resumed

    def hold(self, at: int, data: bytes | memoryview) -> None:
        """Put aside what of `data` at byte `at` must be written last."""
        for start, end in self.late.clip(at, at + len(data)):
            with self.lock:
                self.held[start] = bytes(data[start - at : end - at])

    def put(self, at: int, data: bytes | memoryview, *, known_zero: bool) -> int:
        """Write what matters of `data` at byte `at`; return bytes written. `known_zero`: skip zero ranges."""
        self.hold(at, data)
        view = memoryview(data)
        written = 0
        for start, end in self.runs(at, at + len(data)):
            part = view[start - at : end - at]
            for first, last in filled(part) if known_zero else ((0, len(part)),):
                self.disk.write(start + first, part[first:last])
                written += last - first
        return written

    def runs(self, at: int, end: int) -> list[tuple[int, int]]:
        """Return the ranges to write in `at..end`; near ones are joined where nothing late lies between."""
        joined: list[tuple[int, int]] = []
        for start, stop in self.early.clip(at, end):
            if joined and start - joined[-1][1] < NEAR and not self.late.overlaps(joined[-1][1], start):
                joined[-1] = (joined[-1][0], stop)
            else:
                joined.append((start, stop))
        return joined

    def zero(self, at: int, end: int, *, known_zero: bool) -> None:
        """Make what matters of `at..end` read as zeros; `known_zero`: it does already."""
        for start, stop in self.late.clip(at, end):
            with self.lock:
                self.held[start] = bytes(stop - start)
        for start, stop in () if known_zero else self.early.clip(at, end):
            self.disk.zero(start, stop - start)

    def same(self, at: int, data: bytes | memoryview) -> bool:
        """Whether the disk already holds what matters of `data` at byte `at`."""
        view = memoryview(data)
        return all(
            self.disk.read(start, end - start) == view[start - at : end - at]
            for start, end in self.early.clip(at, at + len(data))
        )

    def finish(self) -> None:
        """Write what was held back, in the order that makes the disk whole only with the very last sector."""
        self.disk.flush()
        head = bytearray(min(HEAD, self.disk.size))
        for start in sorted(self.held, reverse=True):
            data = self.held[start]
            inside = max(0, min(len(head), start + len(data)) - start)
            head[start : start + inside] = data[:inside]
            if inside < len(data):
                self.disk.write(start + inside, data[inside:])
        self.disk.flush()
        sector = self.disk.sector_size
        self.disk.write(sector, head[sector:])
        self.disk.flush()
        self.disk.write(0, head[:sector])
        self.disk.flush()


def marker(identity: bytes) -> bytes:
    """Return what stands at byte 0 while a restore of the image with this digest is not complete."""
    return MARK + identity.hex().encode()


def filled(part: memoryview, grid: int = 4096) -> list[tuple[int, int]]:
    """Return the ranges of `part`, in whole blocks of `grid` bytes, that are not all zero."""
    zeros = bytes(grid)
    found: list[tuple[int, int]] = []
    for at in range(0, len(part), grid):
        block = part[at : at + grid]
        if block != zeros[: len(block)]:
            if found and found[-1][1] == at:
                found[-1] = (found[-1][0], at + len(block))
            else:
                found.append((at, at + len(block)))
    return found
