"""Any disk, any keep set: what is read back is what was kept, by our readers and by zstd."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from onebay.base.extent import ExtentSet
from onebay.base.tool import run
from onebay.block import FileVolume
from onebay.image import Facts, Image, Stream, decode_parallel, write_image
from onebay.image.blockmap import aligned, pack_map, unpack_map
from onebay.source import open_source

UNIT = 2 << 20
FACTS = Facts("disk", "2026-01-01T00:00:00Z")
TOP = 6 * UNIT + 3 * 4096

# Places near the borders of blocks and units are where mistakes are.
place = st.one_of(
    st.integers(0, TOP),
    st.builds(lambda unit, off: max(0, unit * UNIT + off), st.integers(0, 6), st.integers(-4097, 4097)),
)
ranges = st.lists(st.tuples(place, place).map(lambda p: (min(p), max(p))), max_size=8)
writes = st.lists(
    st.tuples(place, st.sampled_from([b"\0" * 5000, b"x", b"abc" * 3000, b"q" * 70_000])), max_size=6
)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, TOP // 512).map(lambda n: n * 512), kept=ranges, written=writes)
def test_read_back_is_what_was_kept(
    size: int, kept: list[tuple[int, int]], written: list[tuple[int, bytes]]
) -> None:
    keep = ExtentSet.of(kept).clip(0, size)
    with tempfile.TemporaryDirectory() as folder:
        raw, path = Path(folder, "disk"), Path(folder, "image")
        with raw.open("wb") as file:
            for at, data in written:
                file.seek(at)
                file.write(data)
            file.truncate(size)
        volume, source = FileVolume(raw), None
        write_image(volume, path, keep=keep, facts=FACTS)
        expected = bytearray(size)
        blocks = ExtentSet.of((a // 4096 * 4096, min(-(-b // 4096) * 4096, size)) for a, b in keep)
        for start, end in blocks:
            expected[start:end] = volume.read(start, end - start)
        volume.close()
        source = open_source(str(path))
        image = Image.open(source)
        assert image.keep == blocks
        image.verify()
        assert image.read(0, size) == expected
        parts = decode_parallel(Stream.open(source), "pipe")
        assert b"".join(part.content or bytes(part.size) for part in parts) == expected
        source.close()
        assert run(["zstd", "-dcq", path]).stdout == expected


bounds = st.lists(st.integers(1, 1 << 30), max_size=60).map(
    lambda steps: [sum(steps[: n + 1]) for n in range(len(steps))]
)


@given(bounds=bounds, disk=st.integers(1, 1 << 36))
def test_keep_map_round_trip(bounds: list[int], disk: int) -> None:
    pairs = zip(bounds[0::2], bounds[1::2], strict=False)
    keep = ExtentSet.of(pairs).clip(0, disk)
    stored, runs = pack_map(keep, 4096, disk)
    found = unpack_map(stored, runs, 4096, disk, "map")
    assert list(found) == list(aligned(keep, 4096, disk))
    assert not (keep - found)
    assert found.size - keep.size <= 2 * 4096 * len(keep)
