"""An image as a disk for reading: whatever works on volumes works on images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.extent import Builder, Extent
from onebay.block.volume import Volume, read_only
from onebay.image.record import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.image.read import Image


class ImageVolume(Volume):
    """The disk inside an image. Bytes that were not captured read as zeros."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.name = image.name
        self.size = image.disk_size
        self.sector_size = image.manifest.sector_size

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        return self.image.read(at, size)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002
        raise read_only(self)

    def flush(self) -> None:
        """Nothing to do: nothing is written."""

    def data(self, start: int, end: int) -> Iterator[Extent]:
        end = min(end, self.size)
        if start >= end:
            return
        found = Builder()
        for frame in self.image.frames(self.image.find(start).number):
            if frame.at >= end:
                break
            if frame.state == State.DATA:
                found.add(max(start, frame.at), min(end, frame.at + frame.size))
        yield from found.done()
