"""Volumes: files with holes, spans, concatenations, overlays; opening and its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebay.base.error import Missing, Refused, Truncated, Unsupported
from onebay.base.extent import Extent, ExtentSet
from onebay.block import Concat, FileVolume, Overlay, Piece, Span, create_disk, locate, lower, open_disk

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> FileVolume:
    return create_disk(tmp_path / "disk.img", 8 * MIB)


def test_holes_are_kept_and_made(disk: FileVolume) -> None:
    disk.write(MIB, b"x" * 3 * MIB)
    assert list(disk.data(0, disk.size)) == [Extent(MIB, 4 * MIB)]
    disk.zero(2 * MIB, MIB)
    assert list(disk.data(0, disk.size)) == [Extent(MIB, 2 * MIB), Extent(3 * MIB, 4 * MIB)]
    assert disk.read(2 * MIB - 1, 2) == b"x\0"


def test_reading_beyond_the_end_is_truncated(disk: FileVolume) -> None:
    with pytest.raises(Truncated, match="beyond the end"):
        disk.read(disk.size - 1, 2)
    with pytest.raises(Refused, match="beyond the end"):
        disk.write(disk.size - 1, b"xx")


def test_concat_maps_reads_writes_and_pieces(disk: FileVolume) -> None:
    a, b = Span("a", disk, MIB, MIB), Span("b", disk, 5 * MIB, MIB)
    volume = Concat("lv", [Piece(b, 0, 4096), Piece(a, 8192, 4096), Piece(b, 65536, 4096)], 512)
    volume.write(4000, b"A" * 5000)
    assert disk.read(5 * MIB + 4000, 96) == b"A" * 96
    assert disk.read(MIB + 8192, 4096) == b"A" * 4096
    assert volume.read(3999, 5002) == b"\0" + b"A" * 5000 + b"\0"
    assert [(piece.at, piece.size) for piece in locate(volume, 4000, 9000)] == [
        (5 * MIB + 4000, 96),
        (MIB + 8192, 4096),
        (5 * MIB + 65536, 808),
    ]
    below = {id(where): extents for where, extents in lower(volume, ExtentSet.single(0, volume.size))}
    assert below[id(b)] == ExtentSet.of([(0, 4096), (65536, 69632)])
    assert below[id(a)] == ExtentSet.single(8192, 12288)


def test_overlay_hides_its_writes(disk: FileVolume) -> None:
    disk.write(0, b"base" * 4096)
    view = Overlay(disk, size=disk.size + MIB)
    view.write(4094, b"over")
    view.write(disk.size - 2, b"tail")
    assert view.read(4092, 8) == b"baoverse"[0:2] + b"over" + b"se"
    assert view.read(disk.size - 3, 6) == b"\0tail\0"
    assert disk.read(4092, 8) == b"basebase"
    assert ExtentSet.of(view.data(0, view.size)).covers(disk.size - 2, disk.size + 2)


@pytest.mark.parametrize(
    ("head", "kind"), [(b"QFI\xfb", "qcow2"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"vhdxfile", "vhdx")]
)
def test_containers_are_named(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(head + bytes(4096))
    with pytest.raises(Unsupported, match=kind):
        open_disk(path)


def test_nothing_empty_and_folder(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        open_disk(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(Refused, match="empty"):
        open_disk(tmp_path / "empty")
    with pytest.raises(Refused, match="neither"):
        open_disk(tmp_path)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    first = open_disk(path, writable=True)
    with pytest.raises(Refused, match="another program"):
        open_disk(path, writable=True)
    first.close()


def test_gpt_tells_the_sector_size(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096) + b"EFI PART" + bytes(8192))
    assert open_disk(path).sector_size == 4096
    assert open_disk(path, sector_size=512).sector_size == 512
