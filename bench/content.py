"""What the files on the disks of the benchmark hold: as mixed as a home's, and the same for the same seed."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = 65536
RARE = 6000  # distinct words of the texts
PIECE = 1 << 20
# Shares of the bytes: text and source code, program-like records, what is compressed already, zeros in files.
TEXT, RECORDS, PACKED = 0.55, 0.20, 0.20


def vocabulary(rng: random.Random) -> list[bytes]:
    """Return 65536 words, as frequent as in a language (Zipf), so that 16 random bits choose one."""
    letters = b"etaoinshrdlucmfwypvbgkjqxz"
    words = [
        bytes(rng.choices(letters, range(26, 0, -1), k=rng.randint(2, 9))) + b" \n"[i % 11 == 0 :][:1]
        for i in range(RARE)
    ]
    return rng.choices(words, [1 / (rank + 2) for rank in range(RARE)], k=WORDS)


def pieces(rng: random.Random) -> list[bytes]:
    """Return 65536 pieces of records, of 4 to 12 bytes, half of them alike."""
    common = [rng.randbytes(rng.choice((4, 4, 8))) for _ in range(400)]
    return [rng.choice(common) if rng.random() < 0.6 else rng.randbytes(4) for _ in range(WORDS)]


class Content:
    """An endless supply of bytes of four kinds; all that it gives follows from `seed`."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words, self.pieces = vocabulary(self.rng), pieces(self.rng)

    def chosen(self, table: list[bytes], size: int) -> bytes:
        """Return `size` bytes put together from entries of a table."""
        out = b""
        while len(out) < size:
            numbers = array("H", self.rng.randbytes(2 * (1 + (size - len(out)) // 5)))
            out += b"".join(map(table.__getitem__, numbers))
        return out[:size]

    def bytes(self, size: int) -> bytes:
        """Return the content of a file of `size` bytes, of one kind as files are."""
        kind = self.rng.random()
        if kind < TEXT:
            return self.chosen(self.words, size)
        if kind < TEXT + RECORDS:
            return self.chosen(self.pieces, size)
        if kind < TEXT + RECORDS + PACKED:
            return self.rng.randbytes(size)
        return bytes(size)


class Sized(NamedTuple):
    """A file to be made."""

    name: str
    size: int


def sizes(rng: random.Random, total: int, largest: int) -> Iterator[Sized]:
    """Yield files that sum up to `total` bytes: most are small, most of the bytes are in large ones."""
    left, number = total, 0
    while left > 0:
        size = min(left, largest, max(64, round(rng.lognormvariate(9.2, 2.2))))
        yield Sized(f"{number // 500:03}/{number:06}.{'txt' if size < 1 << 16 else 'bin'}", size)
        left, number = left - size, number + 1
