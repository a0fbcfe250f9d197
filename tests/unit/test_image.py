"""Images as a whole: written, read in every way, and read by other people's tools."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import pyzstd

from onebay.base.error import Error, Missing, Refused, SourceError, Truncated, Unsupported
from onebay.base.event import Began, Ended, Event, Moved
from onebay.base.extent import ExtentSet
from onebay.base.tool import run
from onebay.block import FileVolume, Overlay, Volume
from onebay.image import Facts, Image, ImageVolume, State, Stream, decode_parallel, write_image
from onebay.source import FileSource, open_source

MIB = 1 << 20
UNIT = 2 * MIB
FACTS = Facts(
    name="disk",
    created="2026-01-02T03:04:05Z",
    layers=[{"kind": "gpt", "parts": [1, 2, None, "\u00e4"]}],
    smallest_target=123,
    other={"a": {"b": 1.5}},
)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def disk(path: Path, size: int, parts: dict[int, bytes], sector_size: int = 512) -> FileVolume:
    """Make a sparse file with bytes at some places."""
    with path.open("wb") as file:
        for at, data in parts.items():
            file.seek(at)
            file.write(data)
        file.truncate(size)
    return FileVolume(path, sector_size=sector_size)


def masked(volume: Volume, keep: ExtentSet) -> bytes:
    """What a plain decode must give: kept blocks of 4096 bytes, zeros elsewhere."""
    out = bytearray(volume.size)
    for start, end in keep:
        first, last = start // 4096 * 4096, min(-(-end // 4096) * 4096, volume.size)
        out[first:last] = volume.read(first, last - first)
    return bytes(out)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[FileSource]:
    """A source on the image that each test writes to `tmp_path / "image"`; made when it is first used."""

    class Late(FileSource):
        def __init__(self) -> None:
            pass

        def __getattr__(self, name: str) -> object:
            super().__init__("image", os.open(tmp_path / "image", os.O_RDONLY))
            return self.__dict__[name]

    late = Late()
    yield late
    if "fd" in late.__dict__:
        late.close()


def everything(size: int) -> ExtentSet:
    return ExtentSet.single(0, size)


def mixed(tmp_path: Path) -> tuple[FileVolume, ExtentSet]:
    """A disk of 45 MiB and a bit: data, zeros, holes and bytes that do not matter, in all neighbourhoods."""
    parts = {
        0: b"boot" + noise(5000),
        3 * MIB: b"text " * 100_000,
        9 * MIB: noise(3 * MIB),
        20 * MIB: bytes(6 * MIB),  # written zeros
        30 * MIB: noise(10_000, 2),
        45 * MIB + 100: b"end",
    }
    volume = disk(tmp_path / "disk", 45 * MIB + 1536, parts)
    keep = ExtentSet.of(
        [
            (0, 4 * MIB),
            (9 * MIB + 4096, 11 * MIB + 512),
            (12 * MIB - 4096, 14 * MIB),
            (20 * MIB, 28 * MIB),
            (30 * MIB + 1, 30 * MIB + 2),
            (44 * MIB, 45 * MIB + 1536),
        ]
    )
    return volume, keep


def test_all_ways_to_read_agree(tmp_path: Path, opened: FileSource) -> None:
    volume, keep = mixed(tmp_path)
    blobs = {"kit": noise(100_000), "empty": b"", "text": b"x" * 5000}
    done = write_image(volume, tmp_path / "image", keep=keep, facts=FACTS, blobs=blobs)
    expected = masked(volume, keep)
    assert done.image_size == (tmp_path / "image").stat().st_size
    assert done.data + done.zero + done.dont_care == done.disk_size == volume.size

    image = Image.open(opened)
    assert image.facts == FACTS
    assert dict(image.blobs) == blobs
    assert image.keep == ExtentSet.of(
        (start // 4096 * 4096, min(-(-end // 4096) * 4096, volume.size)) for start, end in keep
    )
    assert image.disk_size == volume.size
    assert image.manifest.sector_size == 512
    assert image.verify() == done.root
    by_index = list(decode_parallel(image.packed(image.frames()), image.name, check=True))
    assert b"".join(part.content or bytes(part.size) for part in by_index) == expected

    stream = Stream.open(opened)
    assert (stream.facts, stream.keep, dict(stream.blobs)) == (FACTS, image.keep, blobs)
    by_pipe = list(decode_parallel(stream, stream.name))
    assert by_pipe == by_index
    assert stream.root is not None
    assert stream.root.hex() == done.root

    rng = random.Random(3)
    for _ in range(60):
        at = rng.randrange(volume.size)
        size = rng.choice((1, 512, 4096, 3 * MIB))
        size = min(size, volume.size - at)
        assert image.read(at, size) == expected[at : at + size]
    for frame in image.frames():
        assert hashlib.sha256(expected[frame.at : frame.at + frame.size]).digest() == frame.content_sha
        assert image.frame(frame.number, check=True).content == (
            expected[frame.at : frame.at + frame.size] if frame.state == State.DATA else None
        )
    with pytest.raises(Truncated):
        image.read(volume.size - 1, 2)
    volume.close()


def test_states(tmp_path: Path, opened: FileSource) -> None:
    volume, keep = mixed(tmp_path)
    write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
    volume.close()
    image = Image.open(opened)
    for frame in image.frames():
        kept = keep.overlaps(frame.at // 4096 * 4096, frame.at + frame.size)
        data = any(image.read(frame.at, frame.size))
        wanted = State.DATA if data else State.ZERO if kept else State.DONT_CARE
        assert frame.state == wanted, frame
    assert {frame.state for frame in image.frames()} == set(State)
    # runs become few frames, the first unit and the short last one stand alone
    sizes = [frame.size for frame in image.frames()]
    assert sizes[0] == UNIT
    assert sizes[-1] == volume.size % UNIT
    assert max(sizes) > UNIT


def test_zstd_reads_it(tmp_path: Path) -> None:
    volume, keep = mixed(tmp_path)
    path = tmp_path / "image.raw.zst"
    write_image(volume, path, keep=keep, facts=FACTS, blobs={"kit": noise(9000)})
    run(["zstd", "-tq", path])
    assert run(["zstd", "-dcq", path]).stdout == masked(volume, keep)
    listing = run(["zstd", "-lv", path]).text
    assert f"({volume.size} B)" in listing
    assert "XXH64" in listing
    volume.close()


def test_seekable_readers_read_it(tmp_path: Path) -> None:
    volume, keep = mixed(tmp_path)
    write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
    expected = masked(volume, keep)
    rng = random.Random(4)
    with pyzstd.SeekableZstdFile(tmp_path / "image") as other:
        assert other.seek(0, os.SEEK_END) == volume.size
        for _ in range(20):
            at = rng.randrange(volume.size - 5000)
            other.seek(at)
            assert other.read(5000) == expected[at : at + 5000]
    volume.close()


def test_read_through_a_real_pipe(tmp_path: Path) -> None:
    volume, keep = mixed(tmp_path)
    write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
    volume.close()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cp", tmp_path / "image", fifo]) as feeder:
        source = open_source(str(fifo))
        stream = Stream.open(source)
        assert sum(part.size for part in decode_parallel(stream, stream.name)) == volume.size
        source.close()
        assert feeder.wait(10) == 0
    with pytest.raises(ValueError, match="once"):
        list(stream)


@pytest.mark.parametrize("size", [512, 4096, 5000, UNIT - 1, UNIT, UNIT + 1, 17 * UNIT, 17 * UNIT + 7])
@pytest.mark.parametrize("fill", ["nothing", "all", "first", "last"])
def test_sizes_at_the_borders(tmp_path: Path, opened: FileSource, size: int, fill: str) -> None:
    parts = {
        "nothing": {},
        "all": {0: noise(4096) * (size // 4096) + b"x" * (size % 4096)},
        "first": {0: b"x"},
        "last": {size - 1: b"x"},
    }[fill]
    volume = disk(tmp_path / "disk", size, parts, sector_size=4096)
    for keep in (everything(size), ExtentSet(), ExtentSet.single(0, 1), ExtentSet.single(size - 1, size)):
        done = write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
        source = open_source(str(tmp_path / "image"))
        image = Image.open(source)
        assert image.manifest.sector_size == 4096
        assert image.verify() == done.root
        assert image.read(0, size) == masked(volume, keep)
        source.close()
    assert hashlib.sha256(run(["zstd", "-dcq", tmp_path / "image"]).stdout).digest() == (
        hashlib.sha256(masked(volume, keep)).digest()
    )
    volume.close()


def test_a_huge_sparse_disk_is_small_work(tmp_path: Path, opened: FileSource) -> None:
    size = 3 << 40
    volume = disk(tmp_path / "disk", size, {0: noise(4096), size // 3: noise(9999), size - 512: b"end"})
    done = write_image(volume, tmp_path / "image", keep=everything(size), facts=FACTS)
    image = Image.open(opened)
    assert done.data == 3 * UNIT
    assert image.read(size // 3 - 5, 20) == bytes(5) + noise(9999)[:15]
    assert image.read(size - 512, 512) == b"end".ljust(512, b"\0")
    parts = list(decode_parallel(image.packed(image.frames()), image.name))
    assert sum(part.size for part in parts) == size
    assert max(part.size for part in parts) == 1 << 30
    assert 32 << 10 <= done.image_size // (size >> 30) < 34 << 10
    volume.close()


def test_more_than_one_page(tmp_path: Path, opened: FileSource) -> None:
    """40001 frames need three index pages; zeros and bytes that do not matter take turns, so none merge."""
    marks = {n: b"unit %d" % n for n in (0, 2, 16, 16_382, 16_384, 16_386, 32_766, 32_768, 39_998, 40_000)}
    size = 40_000 * UNIT + 512
    volume = disk(tmp_path / "disk", size, {number * UNIT: mark for number, mark in marks.items()})
    keep = ExtentSet.of((n * UNIT, n * UNIT + 512) for n in range(0, 40_001, 2))
    done = write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
    volume.close()
    assert done.frames == 40_001
    image = Image.open(opened)
    assert len(image.root.pages) == 3
    for number in (*marks, 1, 17, 16_383, 16_385, 32_767, 32_769, 39_999):
        frame = image.find(number * UNIT)
        assert frame.number == number
        wanted = marks.get(number, b"")
        assert image.read(frame.at, len(wanted) + 1) == wanted + b"\0"
        assert next(image.frames(number)) == frame
    assert [packed.number for packed in Stream.open(opened)] == list(range(40_001))
    assert image.verify() == done.root
    run(["zstd", "-lq", tmp_path / "image"])


def test_bytes_that_do_not_matter_are_not_read(tmp_path: Path) -> None:
    class Counting(Overlay):
        def read(self, at: int, size: int) -> bytes:
            ranges.append((at, at + size))
            return super().read(at, size)

    ranges: list[tuple[int, int]] = []
    base, keep = mixed(tmp_path)
    volume = Counting(base)
    write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
    read = ExtentSet.of(ranges)
    blocks = keep.align(4096)
    assert not (read - blocks)
    assert read.size < blocks.size  # holes were not read either
    base.close()


def test_many_small_ranges_are_read_at_once(tmp_path: Path) -> None:
    class Counting(Overlay):
        reads = 0

        def read(self, at: int, size: int) -> bytes:
            self.reads += 1
            return super().read(at, size)

    base = disk(tmp_path / "disk", 8 * MIB, {0: noise(8 * MIB)})
    volume = Counting(base)
    keep = ExtentSet.of((at, at + 4096) for at in range(0, 8 * MIB, 8192))
    write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
    assert volume.reads == 4
    assert run(["zstd", "-dcq", tmp_path / "image"]).stdout == masked(base, keep)
    base.close()


def test_events(tmp_path: Path) -> None:
    volume, keep = mixed(tmp_path)
    events: list[Event] = []
    done = write_image(volume, tmp_path / "image", keep=keep, facts=FACTS, report=events.append)
    volume.close()
    assert isinstance(events[0], Began)
    assert isinstance(events[-1], Ended)
    assert events[-1].result == done.root
    moved = [event.done for event in events if isinstance(event, Moved)]
    assert moved == sorted(moved)
    assert moved[-1] == events[0].total == keep.size


def test_the_same_disk_gives_the_same_image(tmp_path: Path) -> None:
    volume, keep = mixed(tmp_path)
    for name, threads in (("a", 1), ("b", 3)):
        write_image(volume, tmp_path / name, keep=keep, facts=FACTS, threads=threads)
    volume.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_image_as_a_disk(tmp_path: Path, opened: FileSource) -> None:
    volume, keep = mixed(tmp_path)
    write_image(volume, tmp_path / "image", keep=keep, facts=FACTS)
    expected = masked(volume, keep)
    volume.close()
    inside = ImageVolume(Image.open(opened))
    assert inside.read(9 * MIB, 4 * MIB) == expected[9 * MIB : 13 * MIB]
    parts = list(inside.data(MIB, inside.size))
    assert parts[0].start == MIB
    left = ExtentSet.single(MIB, inside.size) - ExtentSet.of(parts)
    assert not any(any(inside.read(start, end - start)) for start, end in left)
    assert list(inside.data(inside.size, inside.size + 5)) == []
    with pytest.raises(Refused):
        inside.write(0, b"x")


# what goes wrong while writing


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != "disk")


def test_no_space_left(tmp_path: Path) -> None:
    volume = disk(tmp_path / "disk", 8 * MIB, {0: noise(8 * MIB)})
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder])
    except Error:
        pytest.skip("cannot mount a small file system")
    try:
        with pytest.raises(Refused, match="no space left") as caught:
            write_image(volume, folder / "image", keep=everything(volume.size), facts=FACTS)
        assert "removed" in caught.value.state
        assert leftovers(folder) == []
    finally:
        run(["umount", folder])
        volume.close()


def test_an_older_image_survives_a_failed_one(tmp_path: Path) -> None:
    volume = disk(tmp_path / "disk", 8 * MIB, {0: noise(8 * MIB)})
    (tmp_path / "image").write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, hard))
    try:
        with pytest.raises(Refused, match="write failed"):
            write_image(volume, tmp_path / "image", keep=everything(volume.size), facts=FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert leftovers(tmp_path) == ["image"]
    assert (tmp_path / "image").read_bytes() == b"older"
    write_image(volume, tmp_path / "image", keep=everything(volume.size), facts=FACTS)
    assert leftovers(tmp_path) == ["image"]
    volume.close()


def test_a_bad_sector_is_an_error_with_its_place(tmp_path: Path) -> None:
    class Bad(Overlay):
        def read(self, at: int, size: int) -> bytes:
            if at >= 4 * MIB:
                raise OSError(5, "Input/output error")
            return super().read(at, size)

    base = disk(tmp_path / "disk", 8 * MIB, {0: noise(8 * MIB)})
    with pytest.raises(SourceError, match="cannot read the disk: Input") as caught:
        write_image(Bad(base), tmp_path / "image", keep=everything(base.size), facts=FACTS)
    assert caught.value.at == 4 * MIB
    assert leftovers(tmp_path) == []
    base.close()


def test_where_an_image_cannot_be_written(tmp_path: Path) -> None:
    volume = disk(tmp_path / "disk", MIB, {})
    with pytest.raises(Missing):
        write_image(volume, tmp_path / "none" / "image", keep=ExtentSet(), facts=FACTS)
    with pytest.raises(Refused, match="ordinary"):
        write_image(volume, tmp_path, keep=ExtentSet(), facts=FACTS)
    with pytest.raises(ValueError, match="beyond"):
        write_image(volume, tmp_path / "image", keep=ExtentSet.single(0, MIB + 1), facts=FACTS)
    with pytest.raises(ValueError, match="level"):
        write_image(volume, tmp_path / "image", keep=ExtentSet(), facts=FACTS, level=20)
    volume.close()
    empty = disk(tmp_path / "disk", 0, {})
    with pytest.raises(Refused, match="empty"):
        write_image(empty, tmp_path / "image", keep=ExtentSet(), facts=FACTS)
    empty.close()
    assert leftovers(tmp_path) == []


# what is no image, or one for later readers


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\x1f\x8b\x08" + noise(900), "gzip"),
        (b"\xfd7zXZ\0" + noise(900), "xz"),
        (b"QFI\xfb" + noise(900), "qcow2"),
        (noise(510) + b"\x55\xaa" + noise(900), "raw disk"),
        (b"<!DOCTYPE html><html>404", "text"),
        (bytes(4096), "zeros"),
        (b"abc", "unknown"),
        (pyzstd.compress(noise(5000)), "plain zstd"),
        (pyzstd.compress(noise(5 * MIB)), "plain zstd"),
        (pyzstd.compress(bytes(300 * MIB)), "plain zstd"),
        (b"\x28\xb5\x2f\xfd", "plain zstd"),
    ],
)
def test_other_files_are_named(tmp_path: Path, opened: FileSource, content: bytes, word: str) -> None:
    (tmp_path / "image").write_bytes(content)
    kind = Truncated if word == "empty" else Unsupported
    with pytest.raises(kind, match=word):
        Image.open(opened)
    with pytest.raises(kind, match=word):
        Stream.open(opened)


def test_a_seekable_file_of_others_is_plain(tmp_path: Path, opened: FileSource) -> None:
    with pyzstd.SeekableZstdFile(tmp_path / "image", "w", max_frame_content_size=MIB) as file:
        file.write(noise(5 * MIB))
    with pytest.raises(Unsupported, match="plain zstd"):
        Image.open(opened)
    with pytest.raises(Unsupported, match="plain zstd"):
        Stream.open(opened)


def test_features_of_the_future_are_named(tmp_path: Path, opened: FileSource) -> None:
    volume, keep = mixed(tmp_path)
    facts = Facts("disk", "2026-01-02T03:04:05Z", needs=("encryption", "deltas"))
    write_image(volume, tmp_path / "image", keep=keep, facts=facts)
    volume.close()
    for reader in (Image, Stream):
        with pytest.raises(Unsupported, match="encryption, deltas"):
            reader.open(opened)
