"""A file that is read once from its beginning, packed or not, with a limit for all that comes out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Refused, Truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import Volume

CHUNK = 1 << 20


def plain(file: Volume) -> Iterator[bytes]:
    """Yield a file from its beginning to its end."""
    for at in range(0, file.size, CHUNK):
        yield file.read(at, min(CHUNK, file.size - at))


def shown(text: str) -> str:
    """Return text of a stranger so that it can be printed on a terminal: nothing but printable characters."""
    if text.isascii() and text.isprintable():
        return text
    plain_text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain_text)


class Stream:
    """Bytes that come in pieces, read in order; `at` is the number of bytes that were taken.

    More than `limit` bytes in all raise Refused: a small file may unpack to any size.
    """

    def __init__(self, pieces: Iterator[bytes], name: str, limit: int) -> None:
        self.source, self.name, self.limit = pieces, name, limit
        self.at = 0
        self.arrived = 0
        self.piece = memoryview(b"")
        self.what = "a header"  # what comes next, for messages

    def more(self) -> bool:
        """Have something in `piece` unless the end is reached; say whether there is."""
        while not self.piece:
            following = next(self.source, None)
            if following is None:
                return False
            self.arrived += len(following)
            if self.arrived > self.limit:
                raise Refused(
                    "larger than is allowed, or unpacks to more",
                    volume=self.name,
                    expected=f"<= {self.limit} bytes",
                    found="more",
                    hint="--max-size",
                )
            self.piece = memoryview(following)
        return True

    def parts(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes in pieces; raises Truncated where they are not all there."""
        left = size
        while left:
            if not self.more():
                raise Truncated(
                    f"ends early, in {self.what}",
                    volume=self.name,
                    at=self.at,
                    expected=f"{left} bytes more",
                    found="the end",
                )
            part, self.piece = self.piece[:left], self.piece[left:]
            left -= len(part)
            self.at += len(part)
            yield part

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; raises Truncated where they are not all there."""
        return b"".join(self.parts(size))

    def drain(self) -> bool:
        """Read to the end, which is where a packed file has its own checksum; say whether all was zeros."""
        zeros = True
        while self.more():
            zeros = zeros and self.piece.tobytes().count(0) == len(self.piece)
            self.at += len(self.piece)
            self.piece = memoryview(b"")
        return zeros
