"""A volume of which only some bytes matter: the rest reads as zeros, whatever is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.block.volume import Volume, read_only

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.extent import Extent, ExtentSet


class Masked(Volume):
    """The bytes `keep` of `base`, for reading; the others are zero and holes."""

    def __init__(self, base: Volume, keep: ExtentSet) -> None:
        self.base, self.keep = base, keep
        self.name, self.size, self.sector_size = base.name, base.size, base.sector_size

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        if self.keep.covers(at, at + size):
            return self.base.read(at, size)
        out = bytearray(size)
        for start, end in self.keep.clip(at, at + size):
            out[start - at : end - at] = self.base.read(start, end - start)
        return bytes(out)

    def data(self, start: int, end: int) -> Iterator[Extent]:
        for first, last in self.keep.clip(start, min(end, self.size)):
            yield from self.base.data(first, last)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002
        raise read_only(self)

    def flush(self) -> None:
        """Nothing to do: nothing is written."""
