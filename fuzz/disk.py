"""Disks for fuzzing: a golden image, kept sparse, with a few bytes changed; nobody else may write to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.block import Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGE = 4096


class WroteError(AssertionError):
    """A parser wrote to the volume that it was to look at."""


@dataclass(frozen=True)
class Seed:
    """An image to start from: `pages` are those that are not zero; several volumes lie one after the other.

    `parts` are the volumes' sizes in bytes.
    """

    name: str
    parts: tuple[int, ...]
    sector_size: int
    pages: dict[int, bytes] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all volumes together."""
        return sum(self.parts)


def paged(pieces: Iterable[bytes]) -> tuple[int, dict[int, bytes]]:
    """Cut a stream into pages; return its length and the pages that are not zero."""
    pages: dict[int, bytes] = {}
    size, rest = 0, b""
    for piece in pieces:
        if not rest and size % PAGE == 0 and len(piece) % PAGE == 0 and not piece.strip(b"\0"):
            size += len(piece)
            continue
        data = rest + piece
        whole = len(data) // PAGE * PAGE
        start = size - len(rest)
        for at in range(0, whole, PAGE):
            if any(page := data[at : at + PAGE]):
                pages[(start + at) // PAGE] = page
        size += len(piece)
        rest = data[whole:]
    if any(rest):
        pages[size // PAGE] = rest.ljust(PAGE, b"\0")
    return size, pages


class Disk(Volume):
    """A seed with changes. `put` and `size` are the fuzzer's; whoever else writes fails the test.

    `reads` lists every (at, size) that was read, where it is a list.
    """

    def __init__(self, seed: Seed) -> None:
        self.seed = seed
        self.name, self.size, self.sector_size = "disk", seed.size, seed.sector_size
        self.changed: dict[int, bytearray] = {}
        self.reads: list[tuple[int, int]] | None = None

    def page(self, number: int) -> bytes | bytearray:
        """Return a page as it is now."""
        return self.changed.get(number) or self.seed.pages.get(number) or bytes(PAGE)

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        if self.reads is not None:
            self.reads.append((at, size))
        return self.peek(at, size)

    def peek(self, at: int, size: int) -> bytes:
        """Read without leaving a trace; beyond the end there are zeros."""
        first, last = at // PAGE, (at + size + PAGE - 1) // PAGE
        if last - first <= 16:
            return b"".join(map(self.page, range(first, last)))[at - first * PAGE :][:size]
        out = bytearray(size)
        known = {*self.seed.pages, *self.changed}
        few = range(first, last) if last - first < len(known) else known
        for number in few:
            if first <= number < last and number in known:
                low, high = max(at, number * PAGE), min(at + size, (number + 1) * PAGE)
                out[low - at : high - at] = self.page(number)[low - number * PAGE : high - number * PAGE]
        return bytes(out)

    def put(self, at: int, data: bytes) -> None:
        """Change bytes; what does not fit is left out."""
        data = data[: max(0, self.size - at)] if at >= 0 else b""
        done = 0
        while done < len(data):
            number, skip = divmod(at + done, PAGE)
            step = min(PAGE - skip, len(data) - done)
            if number not in self.changed:
                self.changed[number] = bytearray(self.page(number))
            self.changed[number][skip : skip + step] = data[done : done + step]
            done += step

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        raise WroteError(f"{len(data)} bytes at {at:#x}")

    def zero(self, at: int, size: int) -> None:
        raise WroteError(f"{size} zeros at {at:#x}")

    def flush(self) -> None:
        raise WroteError("flush")


def differences(disk: Disk) -> Iterator[tuple[int, bytes]]:
    """Yield (at, bytes) of what differs from the seed; differences that are close are one."""
    for number in sorted(disk.changed):
        new, old = disk.changed[number], disk.seed.pages.get(number) or bytes(PAGE)
        at = 0
        while at < PAGE:
            if new[at] == old[at]:
                at += 1
                continue
            end = last = at + 1
            while end < PAGE and end - last < 4:
                end += 1
                if new[end - 1] != old[end - 1]:
                    last = end
            yield number * PAGE + at, bytes(new[at:last])
            at = last


def dump(disk: Disk) -> str:
    """Write a disk as text: the seed's name, what is unlike it."""
    lines = [f"seed {disk.seed.name}"]
    if disk.size != disk.seed.size:
        lines.append(f"size {disk.size}")
    if disk.sector_size != disk.seed.sector_size:
        lines.append(f"sector {disk.sector_size}")
    lines += [f"{at:#x} {data.hex()}" for at, data in differences(disk)]
    return "\n".join(lines) + "\n"


def parse(text: str) -> tuple[str, int | None, int | None, list[tuple[int, bytes]]]:
    """Read what `dump` wrote: seed, size, sector size, changes."""
    seed, size, sector = "", None, None
    changes = []
    for line in text.splitlines():
        word, value = line.split()
        if word == "seed":
            seed = value
        elif word == "size":
            size = int(value)
        elif word == "sector":
            sector = int(value)
        else:
            changes.append((int(word, 16), bytes.fromhex(value)))
    return seed, size, sector, changes


def load(text: str, seed: Seed) -> Disk:
    """Make the disk that `text` (of `dump`) describes."""
    _, size, sector, changes = parse(text)
    disk = Disk(seed)
    disk.size = seed.size if size is None else size
    disk.sector_size = sector or seed.sector_size
    for at, data in changes:
        disk.put(at, data)
    return disk
