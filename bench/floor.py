"""What restoring cannot be faster than: its two halves, each alone, without any check or format around it.

`decode IMAGE` decompresses every data frame with two threads, to memory. `write IMAGE TARGET` writes bytes at
all places of the disk that the image keeps and that are not zero, and flushes. Both know the frames from the
image's index.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import zstandard

from onebay.image import Image, State
from onebay.image.record import UNIT
from onebay.source import open_source

THREADS = 2
BATCH = 8 << 20


def decode(path: str) -> int:
    """Decompress all; return the number of bytes."""
    with closing(open_source(path)) as source:
        image = Image.open(source)
        frames = [frame for frame in image.frames() if frame.state == State.DATA]
    fd = os.open(path, os.O_RDONLY)
    local = threading.local()

    def work(number: int) -> int:
        if not hasattr(local, "codec"):
            local.codec = zstandard.ZstdDecompressor()
        done = 0
        for frame in frames[number * 4 : number * 4 + 4]:
            stored = os.pread(fd, frame.stored_size, frame.stored_at)
            done += len(local.codec.decompress(stored, max_output_size=frame.size))
        return done

    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(work, range(-(-len(frames) // 4))))
    os.close(fd)
    return total


def write(path: str, target: str) -> int:
    """Write as many bytes as matter, to their places; return the number."""
    block = os.urandom(UNIT)
    total = 0
    with closing(open_source(path)) as source:
        image = Image.open(source)
        new = not os.path.exists(target)  # noqa: PTH110 - a device, or a file to be made
        fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o666)
        if new:
            os.ftruncate(fd, image.disk_size)
        for frame in image.frames():
            if frame.state == State.DATA:
                for start, end in image.keep.clip(frame.at, frame.at + frame.size):
                    total += os.pwrite(fd, memoryview(block)[: end - start], start)
        os.fsync(fd)
        os.close(fd)
    return total


def main() -> None:
    """Do what the arguments say and print the number of bytes."""
    print(decode(sys.argv[2]) if sys.argv[1] == "decode" else write(sys.argv[2], sys.argv[3]))


if __name__ == "__main__":
    main()
