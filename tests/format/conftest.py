"""Golden images: unpacked once a test, as ordinary sparse files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from onebay.block import FileVolume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent


def unpack(source: Path, target: Path) -> None:
    """Write an image, leaving out runs of zeros."""
    with source.open("rb") as packed, target.open("wb") as out:
        for part in zstandard.ZstdDecompressor(max_window_size=1 << 31).read_to_iter(packed):
            if part.count(0) == len(part):
                out.seek(len(part), 1)
            else:
                out.write(part)
        out.truncate()


@pytest.fixture
def golden(tmp_path: Path) -> Iterator[Callable[[str, str], FileVolume]]:
    """Return `golden(format, case)`, which opens the image of a case for writing."""
    opened: list[FileVolume] = []

    def load(kind: str, case: str) -> FileVolume:
        path = tmp_path / f"{kind}-{case}.img"
        unpack(HERE / kind / f"{case}.img.zst", path)
        opened.append(FileVolume(path, writable=True))
        return opened[-1]

    yield load
    for volume in opened:
        volume.close()
        Path(volume.name).unlink()
