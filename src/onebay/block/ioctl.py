"""The few system calls that Python has no name for.

Sources: linux include/uapi/linux/falloc.h, include/uapi/linux/fs.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
BLKZEROOUT = 0x127F
BLKRRPART = 0x125F
BLKGETSIZE64 = 0x80081272
BLKSSZGET = 0x1268


def punch_hole(fd: int, at: int, size: int) -> bool:
    """Make `at..at+size` of a file a hole; False where its file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_int64
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    return bool(libc.fallocate64(fd, mode, offset(at), offset(size)) == 0)


def zero_out(fd: int, at: int, size: int) -> bool:
    """Make `at..at+size` of a block device read as zeros; False where the device cannot."""
    try:
        fcntl.ioctl(fd, BLKZEROOUT, struct.pack("QQ", at, size))
    except OSError:
        return False
    return True


def device_size(fd: int) -> int:
    """Size of a block device in bytes."""
    return int(struct.unpack("Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))[0])


def device_sector_size(fd: int) -> int:
    """Logical sector size of a block device in bytes."""
    return int(struct.unpack("I", fcntl.ioctl(fd, BLKSSZGET, bytes(4)))[0])


def reread_table(fd: int) -> bool:
    """Ask the kernel to read the partition table again; False where it cannot (a part is in use)."""
    try:
        fcntl.ioctl(fd, BLKRRPART)
    except OSError:
        return False
    return True
