"""Huge sparse disks with millions of separate extents, made by the file systems of the kernel.

ext4: a few files are allocated over half of the disk and then get holes, so that pieces of 8 KiB remain
(fallocate(2), FALLOC_FL_PUNCH_HOLE). btrfs keeps a whole extent as long as any of it is used, so there two
files grow in turns, 8 KiB and a longer piece, and the second is deleted. The extents are allocated but not
written: the disk's file holds the file system's metadata and nothing else, which is what the number of
extents is a test of. An ext4 file ends 4 KiB before 16 TiB, so the disk is 1 GiB smaller than that.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from bench.loop import loop, mounted
from bench.make_files import START, Shape, partition
from onebay.base import tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEPT = 8192
GAP = (
    56 << 10
)  # on btrfs; with longer ones there are so many block groups that finding one takes all the time
BLOCK = 4096
FILES = 16
PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, include/uapi/linux/falloc.h
TIMEOUT = 3600


def allocator() -> Callable[[int, int, int, int], None]:
    """Return fallocate(2): descriptor, mode, first byte, bytes."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

    def fallocate(fd: int, mode: int, at: int, size: int) -> None:
        if call(fd, mode, at, size):
            raise OSError(ctypes.get_errno(), f"fallocate {size} bytes at {at}")

    return fallocate


def ext4(disk: Path, shape: Shape, extents: int) -> None:
    """Make a disk with an ext4 that holds about `extents` separate extents, spread over half of it."""
    partition(disk, shape)
    fallocate = allocator()
    each = extents // FILES
    stride = (shape.end - START) // 2 // extents // BLOCK * BLOCK
    with loop(disk, start=START, end=shape.end, writable=True) as device:
        # a journal would only make the making slow; it is added afterwards
        features = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-N", "65536", "-m", "0"]
        tool.run(["mke2fs", "-q", "-F", "-t", "ext4", *features, device])
        with mounted(device, "nodiscard") as root:
            for number in range(FILES):
                fd = os.open(root / f"{number}", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fallocate(fd, 0, 0, each * stride)
                    for piece in range(each):
                        fallocate(fd, PUNCH, piece * stride + KEPT, stride - KEPT)
                finally:
                    os.close(fd)
        tool.run(["tune2fs", "-J", "size=64", device])


def btrfs(disk: Path, shape: Shape, extents: int) -> None:
    """Make a disk with a btrfs of `extents` separate extents, 64 KiB apart; metadata once only."""
    partition(disk, shape)
    fallocate = allocator()
    with loop(disk, start=START, end=shape.end, writable=True) as device:
        tool.run(["mkfs.btrfs", "-q", "-K", "-m", "single", "-d", "single", device])
        with mounted(device, "discard") as root:
            kept = os.open(root / "kept", os.O_RDWR | os.O_CREAT, 0o600)
            passing = os.open(root / "passing", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                for number in range(extents):
                    fallocate(kept, 0, number * KEPT, KEPT)
                    fallocate(passing, 0, number * GAP, GAP)
            finally:
                os.close(kept)
                os.close(passing)
            (root / "passing").unlink()
            tool.run(["sync", "-f", root], timeout=TIMEOUT)
