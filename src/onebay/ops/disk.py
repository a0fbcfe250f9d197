"""Open whatever the user calls a disk: a device, a raw image, a container, a packed image, or one of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Error
from onebay.base.event import silent
from onebay.block import open_input
from onebay.image import Image, ImageVolume
from onebay.image.read import is_plain
from onebay.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import Reading, Volume
    from onebay.source import Source

ZSTD = b"\x28\xb5\x2f\xfd"


class OpenedImage(ImageVolume):
    """The disk inside an image of ours, with the source that it comes from."""

    def __init__(self, image: Image, source: Source) -> None:
        super().__init__(image)
        self.source = source

    def close(self) -> None:
        self.source.close()


def open_image_disk(text: str) -> OpenedImage:
    """Open an image of ours, a path or an http(s) URL; raises Damaged, Unsupported or SourceError."""
    source = open_source(text)
    try:
        return OpenedImage(Image.open(source), source)
    except Error:
        source.close()
        raise


def open_any(
    path: Path, reading: Reading, *, sector_size: int | None = None, report: Report = silent
) -> Volume:
    """Open a disk for reading; raises what opening an image of ours or `open_input` raises."""
    if reading.form is None and is_ours(path):
        return open_image_disk(str(path))
    return open_input(path, reading, sector_size=sector_size, report=report)


def is_ours(path: Path) -> bool:
    """Whether a file is zstd with our manifest in it, be it damaged."""
    if not path.is_file():
        return False
    source = open_source(str(path))
    try:
        size = source.size or 0
        return size > len(ZSTD) and source.read_at(0, len(ZSTD)) == ZSTD and not is_plain(source, size)
    finally:
        source.close()
