"""Damaged file systems: whatever is changed in a golden image, only our errors may escape, soon and cheaply.

Checksums are written anew after each change, so that what lies behind them is reached too.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onebay.base import tool
from onebay.base.error import Error, Truncated
from onebay.block import FileVolume, Overlay, Span
from onebay.fs import fat, names, swap, xfs
from onebay.fs.fat import Fat
from onebay.fs.xfs.freespace import stored_sum
from onebay.fs.xfs.record import AGF, SUPERBLOCK
from onebay.layer import Layer, Suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.block.volume import Volume

    Opened = Callable[[str], FileVolume]

FORMATS = Path(__file__).parent.parent / "format"
MEMORY = 48 << 20
PROBES = (fat.probe, xfs.probe, swap.probe, names.probe)
KIB = 1 << 10

# Where the metadata of a case lies: changes elsewhere are seldom seen.
PLACES = {
    "fat/fat12": [(0, 64), (510, 512), (512, 2 * KIB), (6 * KIB, 40 * KIB)],
    "fat/fat16": [(0, 64), (510, 512), (2 * KIB, 6 * KIB), (67 * KIB, 100 * KIB)],
    "fat/fat32": [(0, 96), (512, 1024), (16 * KIB, 20 * KIB), (580 * KIB, 600 * KIB)],
    "xfs/v5": [(0, 264), (512, 736), (4 * KIB, 5 * KIB), (64 * KIB, 66 * KIB)],
    "xfs/v4": [(0, 208), (512, 576), (4 * KIB, 5 * KIB)],
    "xfs/small-blocks": [(0, 264), (512, 736), (KIB, 4 * KIB)],
    "swap/pages-4k": [(0, 8), (1024, 1100), (4086, 4096)],
    "names/ntfs": [(0, 90), (16 * KIB, 20 * KIB)],
    "names/exfat": [(0, 120), (510, 512)],
    "names/f2fs": [(1024, 2200)],
    "names/udf": [(32 * KIB, 40 * KIB)],
    "names/reiserfs": [(64 * KIB, 65 * KIB)],
}
WORDS = (b"\0", b"\xff", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
VALUES = st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=16))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    base = tmp_path_factory.mktemp("hostile")
    volumes: dict[str, FileVolume] = {}

    def load(case: str) -> FileVolume:
        if case not in volumes:
            path = base / case.replace("/", "-")
            tool.run(["zstd", "-qd", "--long=31", FORMATS / f"{case}.img.zst", "-o", path])
            volumes[case] = FileVolume(path)
        return volumes[case]

    return load


def reseal(volume: Volume, case: str) -> None:
    """Write the checksums of XFS anew: superblock, first AGF and every block that may be a root."""
    if not case.startswith("xfs/") or case == "xfs/v4":
        return
    block = KIB if case == "xfs/small-blocks" else 4 * KIB
    parts = [(0, 512, SUPERBLOCK.offset("sb_crc")), (512, 512, AGF.offset("agf_crc"))]
    parts += [(at, block, 52) for at in range(block, 16 * block, block) if volume.read(at, 4) == b"AB3B"]
    for at, size, crc_at in parts:
        good = stored_sum(volume.read(at, size), crc_at)[1]
        volume.write(at + crc_at, good.to_bytes(4, "little"))


def ask_everything(layer: Layer, volume: Volume) -> None:
    """Ask each question by itself: one that fails must not hide the next."""
    questions: list[Callable[[], object]] = [
        layer.facts,
        layer.keep_whole,
        layer.used_bytes,
        layer.check,
        layer.plan_grow,
        lambda: layer.title,
    ]
    if isinstance(layer, Fat):
        questions += [lambda: walk(layer, "", 3), lambda: layer.read_file("/EFI/BOOT/BOOTX64.EFI")]
    for question in questions:
        with contextlib.suppress(Error):
            question()
    with contextlib.suppress(Error):
        for extents in layer.used():
            assert extents.clip(0, volume.size) == extents


def walk(layer: Fat, folder: str, depth: int) -> None:
    """List folders below `folder`, at most 8 in each."""
    for entry in (layer.listdir(folder or "/") or [])[:8]:
        with contextlib.suppress(Error):
            if entry.is_dir and depth:
                walk(layer, f"{folder}/{entry.name}", depth - 1)
            else:
                layer.read_file(f"{folder}/{entry.name}", limit=1 << 20)


def probe_all(volume: Volume) -> None:
    """Ask every probe, and all layers that they find."""
    for probe in PROBES:
        try:
            found = probe(volume)
        except Error:
            continue
        assert found is None or isinstance(found, Suspect | Layer)
        if isinstance(found, Layer):
            ask_everything(found, volume)


def changed(opened: Opened, case: str, data: st.DataObject) -> Overlay:
    """Draw a few changes and return the volume with them."""
    volume = Overlay(opened(case))
    for _ in range(data.draw(st.integers(1, 6), "changes")):
        start, end = data.draw(st.sampled_from(PLACES[case]), "place")
        at = data.draw(st.integers(start, end - 1), "at")
        raw = data.draw(VALUES, "bytes")
        volume.write(at, raw[: volume.size - at])
    reseal(volume, case)
    return volume


@pytest.mark.parametrize("case", sorted(PLACES))
@settings(max_examples=60, deadline=10_000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_only_our_errors_escape(opened: Opened, case: str, data: st.DataObject) -> None:
    probe_all(changed(opened, case, data))


@pytest.mark.parametrize("case", sorted(PLACES))
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_memory_stays_small(opened: Opened, case: str, data: st.DataObject) -> None:
    volume = changed(opened, case, data)
    tracemalloc.start()
    try:
        probe_all(volume)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


@pytest.mark.parametrize("case", sorted(PLACES))
@settings(max_examples=25, deadline=10_000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_cut_short_anywhere(opened: Opened, case: str, data: st.DataObject) -> None:
    volume = opened(case)
    near = st.integers(0, min(volume.size, 80 * KIB))
    size = data.draw(st.one_of(near, st.integers(0, volume.size)), "size")
    probe_all(Span("short", volume, 0, size))


class Failing(Overlay):
    """A disk that cannot be read from byte `bad` on."""

    bad = 0

    def read(self, at: int, size: int) -> bytes:
        if at + size > self.bad:
            raise Truncated("unreadable", volume=self.name, at=at)
        return super().read(at, size)


@pytest.mark.parametrize("case", sorted(PLACES))
def test_a_disk_that_cannot_be_read_everywhere(opened: Opened, case: str) -> None:
    volume = Failing(opened(case))
    for bad in (0, 512, 1024, 2048, 4096, 8192, 65536, 1 << 20, volume.size - 4096):
        volume.bad = bad
        probe_all(volume)
