"""ext2/3/4 under random input: records, bitmaps, and images with bytes changed."""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Overlay
from onebay.fs.crc32c import raw
from onebay.fs.ext import ExtFs, probe
from onebay.fs.ext.bitmap import runs
from onebay.fs.ext.checksum import superblock_sum
from onebay.fs.ext.record import GROUP_DESC, GROUP_DESC_HIGH, SUPER

IMAGES = Path(__file__).parents[1] / "format" / "ext"
CASES = ("ext2-revision-0", "ext4", "ext4-bigalloc", "ext4-meta-bg", "ext4-crc16", "ext4-sparse-super2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileVolume]:
    folder = tmp_path_factory.mktemp("ext")
    opened = {}
    for case in CASES:
        packed = (IMAGES / f"{case}.img.zst").read_bytes()
        data = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj().decompress(packed)
        (folder / case).write_bytes(data)
        opened[case] = FileVolume(folder / case)
    return opened


@given(st.binary(min_size=1024, max_size=1024))
def test_superblock_round_trip(data: bytes) -> None:
    assert SUPER.pack(SUPER.unpack(data)) == data


@given(st.binary(min_size=64, max_size=64))
def test_descriptor_round_trip(data: bytes) -> None:
    low, high = GROUP_DESC.unpack(data), GROUP_DESC_HIGH.unpack(data, 32)
    assert GROUP_DESC.pack(low) + GROUP_DESC_HIGH.pack(high) == data


@given(st.binary(max_size=64), st.integers(0, 600))
def test_runs_are_the_bits(bitmap: bytes, count: int) -> None:
    bits = {n for n in range(min(count, 8 * len(bitmap))) if bitmap[n // 8] >> n % 8 & 1}
    found = list(runs(bitmap, count))
    assert {n for start, end in found for n in range(start, end)} == bits
    assert all(a[1] < b[0] for a, b in pairwise(found))


@given(st.binary(max_size=3000), st.integers(0, 0xFFFFFFFF), st.integers(0, 3000))
def test_crc32c_of_parts_is_that_of_the_whole(data: bytes, state: int, cut: int) -> None:
    assert raw(data[cut:], raw(data[:cut], state)) == raw(data, state)


@cache
def interesting() -> list[int]:
    """Byte offsets of fields that decide where things are, and of the first descriptors."""
    return (
        [1024 + SUPER.offset(name) for name in SUPER.at]
        + list(range(2048, 2048 + 256, 4))
        + list(range(4096, 4096 + 256, 4))
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(CASES),
    st.lists(st.tuples(st.integers(0, 500), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5),
)
@example("ext4", [(1, b"\xff\xff\xff\xff"), (62, b"\xff\xff\xff\xff")])
def test_nothing_but_answers(
    images: dict[str, FileVolume], case: str, changes: list[tuple[int, bytes]]
) -> None:
    """Whatever the fields say, with a right checksum: an answer, in bounded time, and extents that exist."""
    volume = Overlay(images[case])
    places = interesting()
    for index, data in changes:
        volume.write(places[index % len(places)], data)
    head = volume.read(1024, 1024)
    volume.write(1024 + 1020, superblock_sum(head).to_bytes(4, "little"))
    began = time.monotonic()
    layer = probe(volume)
    if isinstance(layer, ExtFs):
        layer.facts()
        layer.check()
        reason = layer.keep_whole()
        (used,) = layer.used()
        assert not (used - ExtentSet.single(0, volume.size))
        if reason:
            assert used.size == volume.size
    assert time.monotonic() - began < 20


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(CASES), st.integers(0, 1 << 26))
def test_cut_short_anywhere(images: dict[str, FileVolume], case: str, size: int) -> None:
    volume = Overlay(images[case], size=min(size, images[case].size))
    layer = probe(volume)
    if isinstance(layer, ExtFs) and volume.size < images[case].size:
        assert layer.keep_whole() == "the file system is larger than its volume"
        assert [finding.kind for finding in layer.check()] == ["fs-larger-than-volume"]
