"""Hostile members: whatever bytes are wrong, only Error escapes, and what is read stays bounded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onebay.base.error import Error
from onebay.base.extent import Extent
from onebay.base.record import Layout
from onebay.block import Overlay, Span, Volume
from onebay.layer import Layer, Member
from onebay.stack import luks, lvm, md
from onebay.stack.lvm import record as lvm_record
from onebay.stack.lvm.record import crc, dashed
from onebay.stack.lvm.text import parse
from onebay.stack.md import record as md_record

FORMATS = Path(__file__).parents[1] / "format"
LAYOUTS = [
    md_record.SUPER0,
    md_record.SUPER1,
    md_record.DISK0,
    md_record.BITMAP_SUPER,
    lvm_record.LABEL,
    lvm_record.PV_HEADER,
    lvm_record.MDA_HEADER,
    lvm_record.RAW_LOCN,
    luks.LUKS1,
    luks.LUKS2,
]


class Bytes(Volume):
    """A volume in memory, which counts what is read of it."""

    def __init__(self, content: bytes) -> None:
        self.name, self.sector_size = "bytes", 512
        self.content, self.size, self.amount = content, len(content), 0

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        self.amount += size
        return self.content[at : at + size]

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError(at)

    def flush(self) -> None:
        raise AssertionError


def images() -> dict[str, tuple[Any, Bytes, list[Extent]]]:
    """Return the golden images and where their metadata is, which is where changes hurt."""
    found = {}
    for module, kind, cases in (
        (md, "md", ("v090", "v10", "v11", "v12")),
        (lvm, "lvm", ("wrap", "kinds-b", "orphan")),
        (luks, "luks", ("luks1", "luks2", "open-luks1", "open-luks2-4k")),
    ):
        for case in cases:
            packed = (FORMATS / kind / f"{case}.img.zst").read_bytes()
            content = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
            volume = Bytes(content)
            answer = module.probe(volume)
            detail = getattr(answer, "detail", None)
            if isinstance(detail, md.Superblock):
                where = [Extent(detail.at, detail.at + 512)]
            elif isinstance(detail, lvm.Pv):
                where = [Extent(512, 1024)]
                where += [Extent(area.start, area.start + 64) for area in detail.areas]
                where += [
                    Extent(area.start + area.locn.offset, area.start + area.locn.offset + 600)
                    for area in detail.areas
                    if area.locn
                ]
            else:
                where = [Extent(0, 5000)]
            found[f"{kind}-{case}"] = (module, volume, where)
    return found


IMAGES = images()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.record.__name__)
@given(seed=st.integers(0, 1 << 64))
def test_records_round_trip(layout: Layout[Any], seed: int) -> None:
    raw = Random(seed).randbytes(layout.size)
    assert layout.pack(layout.unpack(raw)) == raw


def walk(module: Any, volume: Volume) -> None:
    """Do with an answer what inspect, capture and grow do."""
    answer = module.probe(volume)
    if isinstance(answer, Member):
        answer = module.assemble([answer])
    if not isinstance(answer, Layer):
        return
    if isinstance(answer, luks.Luks):
        with suppress(Error):
            answer = answer.opened(bytes(range(32)))
    answer.facts()
    answer.check()
    for used, below in zip(answer.used(), answer.below, strict=True):
        assert all(extent.end <= below.size for extent in used)
    for above in answer.above:
        assert above.size == 0 or len(above.read(above.size - 1, 1)) == 1
    answer.plan_grow()


def number(volume: Volume, at: int, size: int) -> int:
    return int.from_bytes(volume.read(at, size), "little")


def mend(module: Any, volume: Volume, where: list[Extent]) -> None:
    """Make the checksums right again, so that what they cover is looked at."""
    if module is md:
        at = where[0].start
        raw = volume.read(at, 4096)
        devices = number(volume, at + 220, 4)
        if raw[4:8] == bytes(4):
            volume.write(at + 152, md_record.checksum0(raw).to_bytes(4, "little"))
        elif devices <= md_record.MAX_DEVS_1:
            volume.write(at + 216, md_record.checksum1(raw, devices).to_bytes(4, "little"))
    if module is lvm:
        volume.write(512 + 16, crc(volume.read(512 + 20, 492)).to_bytes(4, "little"))
        offset, size, end = (number(volume, at, 8) for at in (4136, 4144, 4128))
        if size < 32768 and offset < end <= volume.size - 4096:
            text = volume.read(4096 + offset, min(size, end - offset))
            text += volume.read(4608, size - len(text))
            volume.write(4152, crc(text).to_bytes(4, "little"))
        volume.write(4096, crc(volume.read(4100, 508)).to_bytes(4, "little"))


@pytest.mark.parametrize("name", IMAGES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_only_errors_escape(name: str, data: st.DataObject) -> None:
    module, base, where = IMAGES[name]
    base.amount = 0
    volume: Volume = Overlay(base)
    places = st.sampled_from(where).flatmap(lambda e: st.integers(e.start, e.end - 1))
    for at, value in data.draw(st.dictionaries(places, st.integers(0, 255), max_size=6)).items():
        volume.write(at, bytes([value]))
    if data.draw(st.booleans()):
        mend(module, volume, where)
    if size := data.draw(st.none() | st.integers(1, base.size)):
        volume = Span("cut", volume, 0, size)
    with suppress(Error):
        walk(module, volume)
    assert base.amount < 16 << 20


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text('{}[]=,"# \n\\ab1-', max_size=200).map(str.encode))
@example(b'"' + b"\\" * 99)
def test_any_text_parses_or_says_where(text: bytes) -> None:
    caught = None
    try:
        parse(text)
    except Error as error:
        caught = error
    assert caught is None or (caught.at is not None and 0 <= caught.at <= len(text))


@given(st.binary(max_size=64))
def test_checksum_is_the_documented_one(data: bytes) -> None:
    """A bit at a time, as lvm2's crc.c builds its table, against zlib's register."""
    register = 0xF597A6CF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
    assert crc(data) == register


def test_uuid_is_shown_as_lvm_shows_it() -> None:
    assert dashed(b"zAD9GM7dXciPNgvynsh3bXt90ZtovUYb") == "zAD9GM-7dXc-iPNg-vyns-h3bX-t90Z-tovUYb"
