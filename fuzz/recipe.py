"""From the fuzzer's bytes to changes of a seed: fields are set, moved, copied, the disk is cut or lengthened.

Positions count in a window: the bytes that the parser reads of the unchanged seed, in the order in which it
reads them, so that nearly every change is seen.

    byte 0   which seed
    byte 1   bit 0: leave wrong checksums; bit 1: the other sector size
    then     records: kind and width (1 byte), position (3 bytes), what the kind needs
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from fuzz.disk import Disk, Seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WIDTHS = (1, 2, 4, 8, 16, 32, 3, 12)
MAX_CHANGES = 24
LEAVE_SUMS, OTHER_SECTOR = 1, 2
# of a long read only so much is in the window: bitmaps and tables of a thousand like entries
LONGEST = 8192
NEAR = 1 << 23  # bit of a position: count within the first HEAD_BYTES of the window only
HEAD_BYTES = 4096
BIG = 64  # bit of a record's first byte


class Window:
    """Bytes of a seed in the order in which they were first read."""

    def __init__(self, reads: Iterable[tuple[int, int]]) -> None:
        self.starts: list[int] = []
        self.places: list[tuple[int, int]] = []
        self.size = 0
        self.reads = list(dict.fromkeys(read for read in reads if read[1]))
        seen: set[int] = set()
        for at, size in self.reads:
            # 64-byte pieces, each once
            for piece in range(at // 64, (at + min(size, LONGEST) + 63) // 64):
                if piece not in seen:
                    seen.add(piece)
                    self.add(piece * 64, 64)

    def add(self, at: int, size: int) -> None:
        """Append bytes, joined with the last ones where they touch."""
        if self.places and sum(self.places[-1]) == at:
            self.places[-1] = (self.places[-1][0], self.places[-1][1] + size)
        else:
            self.starts.append(self.size)
            self.places.append((at, size))
        self.size += size

    def place(self, position: int) -> int:
        """Return the byte of the disk at a position of the window."""
        if not self.size:
            return position
        near = position & NEAR
        position = (position & ~NEAR) % min(self.size, HEAD_BYTES if near else self.size)
        index = bisect_right(self.starts, position) - 1
        return self.places[index][0] + position - self.starts[index]


def interesting(choice: int, disk: Disk) -> int:
    """Return a number that is often a border."""
    if choice < 192:
        shift, near = divmod(choice, 3)
        return (1 << shift) + near - 1
    units = (1, 512, 1024, 4096, 65536, 1 << 20, 4 << 20, 8)
    size = disk.size // units[choice & 7]
    return (size, size - 1, size + 1, size // 2, -1, 0, size * 2, size - 2)[choice >> 3 & 7]


class Tape:
    """The fuzzer's bytes, taken from the front; behind the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """Take `size` bytes."""
        out = self.data[self.at : self.at + size]
        self.at += size
        return out.ljust(size, b"\0")

    def number(self, size: int) -> int:
        """Take a little-endian number."""
        return int.from_bytes(self.take(size), "little")

    @property
    def left(self) -> bool:
        """Whether there is more."""
        return self.at < len(self.data)


def change(disk: Disk, window: Window, tape: Tape) -> None:
    """Take one record from the tape and do what it says."""
    head = tape.number(1)
    width = WIDTHS[head >> 3 & 7]
    at = window.place(tape.number(3))
    order = "big" if head & BIG else "little"
    kind = head & 7
    if kind < 2:
        disk.put(at, tape.take(width))
    elif kind == 2:
        value = interesting(tape.number(1), disk) % (1 << 8 * width)
        disk.put(at, value.to_bytes(width, order))  # type: ignore[arg-type]
    elif kind == 3:
        disk.put(at, (b"\xff" if head & BIG else b"\0") * width * (1 + tape.number(1) % 16))
    elif kind < 6:
        step = tape.number(1) - 128
        value = int.from_bytes(disk.peek(at, width), order)  # type: ignore[arg-type]
        disk.put(at, ((value + step) % (1 << 8 * width)).to_bytes(width, order))  # type: ignore[arg-type]
    elif kind == 6:
        disk.put(at, disk.peek(window.place(tape.number(3)), width))
    else:
        sizes = (at, at + width, disk.seed.size - at // 512 * 512, disk.seed.size + (at << 12))
        disk.size = max(1, sizes[tape.number(1) & 3])


def cook(data: bytes, pick: Callable[[int], tuple[Seed, Window]]) -> tuple[Disk, Window, bool]:
    """Return the disk, its window, and whether checksums are to be mended; `pick` gives seeds by a number."""
    tape = Tape(data)
    one, window = pick(tape.number(1))
    disk, flags = Disk(one), tape.number(1)
    if flags & OTHER_SECTOR:
        disk.sector_size = 4096 if disk.sector_size == 512 else 512
    for _ in range(MAX_CHANGES):
        if not tape.left:
            break
        change(disk, window, tape)
    return disk, window, not flags & LEAVE_SUMS
