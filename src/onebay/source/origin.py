"""What a source is, and how bytes are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from onebay.base.error import Truncated, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 20


class Source(Protocol):
    """A place that an image comes from. For one thread.

    `size` is in bytes, None where it is not known before the end. `seekable` says whether `read_at` works;
    where it does not, count on `stream` working once.
    """

    @property
    def name(self) -> str:
        """For messages; without credentials."""

    @property
    def size(self) -> int | None:
        """In bytes."""

    @property
    def seekable(self) -> bool:
        """Whether bytes can be read at random."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes at byte `offset`.

        Raises Truncated beyond the end, Unsupported where the source is not seekable, SourceError.
        """

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield all bytes from byte `offset` on, in pieces that are not empty; raises SourceError."""

    def close(self) -> None:
        """Let go of files and connections; the source cannot be used any more."""


def check_inside(name: str, size: int, offset: int, length: int) -> None:
    """Raise Truncated where a range is not inside the source."""
    if offset < 0 or length < 0 or offset + length > size:
        raise Truncated(
            "access beyond the end",
            volume=name,
            at=offset,
            expected=f"<= {size} bytes",
            found=offset + length,
        )


def not_seekable(name: str) -> Unsupported:
    """Return the error for reading a stream at random."""
    return Unsupported("can only be read from front to back", volume=name)
