"""No damage goes unnoticed: every byte flipped, every length cut, parts swapped, bytes added."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from onebay.base.error import Damaged, Error, Truncated, Unsupported
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume
from onebay.image import Facts, Image, Stream, decode_parallel, write_image

UNIT = 2 << 20


class Bytes:
    """An origin in memory."""

    name = "image"

    def __init__(self, data: bytes | bytearray, piece: int = 700) -> None:
        self.data, self.size, self.piece = data, len(data), piece

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Truncated("beyond the end", volume=self.name)
        return bytes(self.data[offset : offset + length])

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        for at in range(offset, self.size, self.piece):
            yield bytes(self.data[at : at + self.piece])


def image_of(path: Path, size: int, parts: dict[int, bytes], keep: ExtentSet, name: str = "disk") -> bytes:
    with path.open("wb") as file:
        for at, data in parts.items():
            file.seek(at)
            file.write(data)
        file.truncate(size)
    volume = FileVolume(path)
    facts = Facts(name, "2026-01-01T00:00:00Z", layers=["tree"])
    write_image(volume, path.with_suffix(".zst"), keep=keep, facts=facts, blobs={"kit": b"kit"})
    volume.close()
    return path.with_suffix(".zst").read_bytes()


@cache
def small(name: str = "disk") -> bytes:
    """An image of three frames, one of each state, and of every part of the format."""
    parts = {0: b"boot", UNIT + 100: b"data"}
    keep = ExtentSet.of([(0, 4096), (UNIT, UNIT + 4096)])
    with tempfile.TemporaryDirectory() as folder:
        return image_of(Path(folder, "disk"), UNIT + 2 * 8192, parts, keep, name)


def verify(data: bytes | bytearray) -> None:
    Image.open(Bytes(data)).verify(threads=1)


def drain(data: bytes | bytearray) -> bytes:
    stream = Stream.open(Bytes(data))
    return b"".join(part.content or b"" for part in decode_parallel(stream, stream.name, threads=1))


def test_every_flipped_byte_is_found() -> None:
    good = small()
    verify(good)
    rng = random.Random(1)
    silent = []
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        try:
            verify(bad)
        except Error:
            continue
        silent.append(at)
    assert silent == []


def test_every_flipped_byte_is_found_in_a_pipe() -> None:
    """All but the content digests, which a pipe cannot check before its end; those are under the root."""
    good = small()
    drain(good)
    rng = random.Random(2)
    silent = []
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        try:
            drain(bad)
        except Error:
            continue
        silent.append(at)
    assert silent == []


def test_every_cut_is_found() -> None:
    good = small()
    for length in range(len(good)):
        with pytest.raises((Damaged, Unsupported)):
            verify(good[:length])
        with pytest.raises((Truncated, Unsupported)):
            drain(good[:length])


def test_a_cut_pipe_says_where(tmp_path: Path) -> None:
    rng = random.Random(5)
    size = 40 * UNIT
    parts = {n * UNIT: rng.randbytes(100) for n in range(40)}
    good = image_of(tmp_path / "disk", size, parts, ExtentSet.single(0, size))
    cut = good[: len(good) * 2 // 3]
    with pytest.raises(Truncated, match=rf"ends after \d+ of {size} bytes"):
        drain(cut)
    with pytest.raises(Truncated, match="cut short"):
        verify(cut)


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 512, b"zzz"])
def test_added_bytes_are_found(extra: bytes) -> None:
    good = small()
    with pytest.raises(Damaged):
        verify(good + extra)
    with pytest.raises(Damaged):
        drain(good + extra)


def test_parts_of_another_image_are_found() -> None:
    one, two = small("one"), small("two")
    assert len(one) == len(two)
    start = next(at for at in range(len(one)) if one[at] != two[at])
    mixed = two[: start + 1000] + one[start + 1000 :]
    for whole in (mixed, one[: len(one) // 2] + two[len(two) // 2 :]):
        if whole in (one, two):
            continue
        with pytest.raises(Error):
            verify(whole)
        with pytest.raises(Error):
            drain(whole)


@pytest.mark.parametrize("seed", range(40))
def test_garbage_never_escapes(seed: int) -> None:
    """Random damage ends in our own errors or, where it undoes itself, in nothing."""
    rng = random.Random(seed)
    data = bytearray(small())
    for _ in range(rng.randrange(1, 30)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at : at + 8] = rng.randbytes(8)
            case 1:
                del data[at : at + rng.randrange(1, 40)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 40))
            case _:
                data[at : at + 8] = b"\xff" * 8
        data = data or bytearray(1)
    for read in (verify, drain):
        with pytest.raises(Error):
            read(data)
