"""Read 2 MiB in the middle of an image from a cold start; prints the milliseconds without Python's own."""

from __future__ import annotations

import sys
import time
from contextlib import closing

from onebay.image import Image, State
from onebay.source import open_source

SIZE = 2 << 20


def place(path: str) -> int:
    """Return where on the disk the data frame in the middle lies."""
    with closing(open_source(path)) as source:
        frames = [frame.at for frame in Image.open(source).frames() if frame.state == State.DATA]
    return frames[len(frames) // 2]


def main() -> None:
    """Read from the image and byte that are named."""
    began = time.perf_counter()
    with closing(open_source(sys.argv[1])) as source:
        data = Image.open(source).read(int(sys.argv[2]), SIZE)
    print(f"{(time.perf_counter() - began) * 1000:.1f} ms for {len(data)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
