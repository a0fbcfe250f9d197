"""Whatever stands on a disk, a table is found, or not, or suspected; only our own errors escape."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from onebay import table
from onebay.base.error import Error
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush
from onebay.block import Overlay, create_disk
from onebay.layer import Suspect
from onebay.table.gpt import record as gpt
from onebay.table.mbr import record as mbr

FORMATS = Path(__file__).parents[1] / "format"
GOLDEN = sorted((FORMATS / "mbr").glob("*.img.zst")) + sorted((FORMATS / "gpt").glob("*.img.zst"))
# where tables have their bytes: LBA 0 and 1, entries, extended boot records of the golden images, the end
PLACES = (0, 446, 512, 1024, 4096, 16384 * 512, 28672 * 512, (64 << 20) - 33 * 512, (64 << 20) - 512)


@pytest.mark.parametrize("layout", [mbr.MBR, mbr.ENTRY, gpt.HEADER, gpt.ENTRY], ids=lambda o: str(o.record))
@given(data=st.data())
def test_records_round_trip(layout: object, data: st.DataObject) -> None:
    assert isinstance(layout, mbr.Layout)
    raw = data.draw(st.binary(min_size=layout.size, max_size=layout.size))
    assert layout.pack(layout.unpack(raw)) == raw


def exercise(disk: Overlay) -> None:
    """Ask a table everything; answers are bounded by the disk."""
    found = table.probe(disk)
    if found is None or isinstance(found, Suspect):
        return
    whole = ExtentSet.single(0, disk.size)
    assert not found.used()[0] - whole
    assert not found.outside() - whole
    for gap in found.gaps():
        assert 0 <= gap.start < gap.end <= disk.size
    for part in found.partitions:
        assert 0 < part.start < part.end <= disk.size
    found.facts()
    found.check()
    try:
        steps = found.plan_grow()
    except Error:
        return
    for step in steps:
        if not isinstance(step, Flush):
            assert 0 <= step.at < step.at + step.size <= disk.size


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_mutated_disks(path: Path, tmp_path: Path) -> None:
    sector = 4096 if "4096" in path.name else 512
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    volume = create_disk(tmp_path / "disk", len(raw), sector_size=sector)
    for at in range(0, len(raw), 1 << 16):
        if any(part := raw[at : at + (1 << 16)]):
            volume.write(at, part)

    @settings(max_examples=40, deadline=None)
    @given(
        place=st.sampled_from(PLACES),
        skip=st.integers(0, 600),
        data=st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(512)])),
        size=st.one_of(st.none(), st.integers(1, len(raw)), st.integers(len(raw), 3 * len(raw))),
        crc=st.booleans(),
    )
    def mutate(place: int, skip: int, data: bytes, size: int | None, *, crc: bool) -> None:
        disk = Overlay(volume, size=size)
        at = place + skip
        if at + len(data) <= disk.size:
            disk.write(at, data)
        if crc and disk.size >= 2 * sector and disk.read(sector, 8) == gpt.SIGNATURE:
            # let the parser behind the checksum see the damage
            header = disk.read(sector, sector)
            size = int.from_bytes(header[12:16], "little")
            disk.write(sector + 16, gpt.header_crc(header, size).to_bytes(4, "little"))
        exercise(disk)

    mutate()


def test_a_disk_of_16_tib_is_probed_at_once(tmp_path: Path) -> None:
    path = FORMATS / "gpt" / "plain.img.zst"
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    volume = create_disk(tmp_path / "disk", (16 << 40) - 4096)  # the most that ext4 allows
    volume.write(0, raw[: 1 << 20])
    began = time.monotonic()
    found = table.probe(volume)
    assert isinstance(found, table.GptTable)
    assert "gpt-backup-bad" in {finding.kind for finding in found.check()}
    assert found.gaps()[-1].kind == "tail"
    assert sum(step.size for step in found.plan_grow() if not isinstance(step, Flush)) < 1 << 20
    assert time.monotonic() - began < 1
