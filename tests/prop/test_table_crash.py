"""A power cut at any moment of a change leaves the old table or the new one, and the same command ends it.

Between two barriers any subset of the sectors may have reached the disk; a sector counts whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from onebay import table
from onebay.base.step import Copy, Flush, Step, Write, Zero, apply
from onebay.block import Overlay, Volume
from onebay.table import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = Path(__file__).parents[1] / "format"
MIB = 1 << 20


class Image(Volume):
    """A golden image in memory."""

    def __init__(self, name: str, sector_size: int) -> None:
        self.name, self.sector_size = name, sector_size
        packed = (FORMATS / f"{name}.img.zst").read_bytes()
        self.raw = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        self.size = len(self.raw)

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        return self.raw[at : at + size]

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError("golden images are never written")

    def flush(self) -> None:
        raise AssertionError("golden images are never written")


@cache
def image(name: str, sector_size: int) -> Image:
    return Image(name, sector_size)


@dataclass(frozen=True)
class Case:
    """Golden image `name` on a disk `more` bytes larger, and what is done to it."""

    name: str
    verb: str
    more: int = 0
    sector_size: int = 512

    def disk(self) -> Overlay:
        base = image(self.name, self.sector_size)
        return Overlay(base, size=base.size + self.more)


CASES = [
    Case("gpt/plain", "grow", 200 * MIB),
    Case("gpt/plain", "grow", 16 * 512),  # the new backup lies on the old one
    Case("gpt/plain", "grow"),
    Case("gpt/grown", "grow"),
    Case("gpt/primary-bad", "grow", 8 * MIB),
    Case("gpt/primary-array-bad", "grow"),
    Case("gpt/backup-bad", "grow", 8 * MIB),
    Case("gpt/grown-primary-bad", "grow"),
    Case("gpt/many", "grow", 8 * MIB),
    Case("gpt/sector4096", "grow", 8 * MIB, 4096),
    Case("gpt/plain", "add"),
    Case("gpt/primary-bad", "add"),
    Case("gpt/backup-bad", "add"),
    Case("gpt/grown", "add"),
    Case("gpt/hybrid", "add"),
    Case("gpt/sector4096", "add", 0, 4096),
    Case("gpt/plain", "remove"),
    Case("gpt/primary-array-bad", "remove"),
    Case("mbr/primary", "grow", 100 * MIB),
    Case("mbr/chain", "grow", 100 * MIB),
    Case("mbr/hole", "grow", 100 * MIB),
    Case("mbr/sector4096", "grow", 100 * MIB, 4096),
    Case("mbr/primary", "add"),
    Case("mbr/primary", "remove"),
    Case("mbr/chain", "remove"),
    Case("mbr/primary", "convert"),
    Case("mbr/chain", "convert"),
    Case("mbr/hole", "convert"),
    Case("mbr/sector4096", "convert", 0, 4096),
]


def probe(disk: Volume) -> table.Table:
    found = table.probe(disk)
    assert isinstance(found, table.Table), found
    return found


def plan(found: table.Table, verb: str) -> list[Step]:
    gpt = isinstance(found, table.GptTable)
    kind = kinds.BASIC_DATA if gpt or verb == "convert" else "0x0c"
    gap = max((g.aligned() for g in found.gaps() if g.inside is None), key=lambda g: g.size)
    guid = "11111111-2222-4333-8444-5555555555FF" if gpt else None
    new = table.NewPartition(gap.start, MIB, kind, uuid=guid)
    match verb:
        case "grow":
            return found.plan_grow()
        case "add":
            return table.plan_add(found, [new])
        case "remove":
            last = found.partitions[-1].number
            return table.plan_remove(found, [last])
        case _:
            assert isinstance(found, table.MbrTable)
            return table.plan_convert(found, additions=[new])


def sectors(step: Step, sector: int) -> Iterator[tuple[int, bytes]]:
    """Split a step at sector borders."""
    if isinstance(step, Flush):
        return
    assert not isinstance(step, Copy)
    data = step.data if isinstance(step, Write) else bytes(step.size)
    at = step.at
    while at < step.at + len(data):
        end = min((at // sector + 1) * sector, step.at + len(data))
        yield at, data[at - step.at : end - step.at]
        at = end


def shown(found: table.Table) -> tuple[object, ...]:
    """What counts: kind, identity and the partitions that hold something."""
    return (found.kind, *(p for p in found.partitions if not p.is_extended))


def epochs(steps: list[Step]) -> list[list[Step]]:
    """Steps between barriers."""
    found: list[list[Step]] = [[]]
    for step in steps:
        if isinstance(step, Flush):
            found.append([])
        else:
            found[-1].append(step)
    return [epoch for epoch in found if epoch]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_prefix_of_the_steps_is_a_valid_disk(case: Case) -> None:
    disk = case.disk()
    before = probe(disk)
    steps = plan(before, case.verb)
    old = shown(before)
    done = Overlay(disk)
    for step in steps:
        apply(Write(done, step.at, step.data, "") if isinstance(step, Write) else blank(step, done))
    new = shown(probe(done))
    if case.verb != "grow":
        assert new != old
    for count in range(len(steps) + 1):
        partly = Overlay(disk)
        for step in steps[:count]:
            apply(Write(partly, step.at, step.data, "") if isinstance(step, Write) else blank(step, partly))
        assert shown(probe(partly)) in (old, new), count


def blank(step: Step, volume: Volume) -> Step:
    """The step on another volume."""
    if isinstance(step, Zero):
        return Zero(volume, step.at, step.size, step.why)
    assert isinstance(step, Flush)
    return Flush(volume)


@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_torn_writes_leave_the_old_or_the_new_table(case: Case, data: st.DataObject) -> None:
    disk = case.disk()
    before = probe(disk)
    steps = plan(before, case.verb)
    parts = epochs(steps)
    if not parts:
        return
    whole = data.draw(st.integers(0, len(parts) - 1))
    partly, done = Overlay(disk), Overlay(disk)
    sector = case.sector_size
    for number, epoch in enumerate(parts):
        pieces = [piece for step in epoch for piece in sectors(step, sector)]
        for at, raw in pieces:
            done.write(at, raw)
        if number < whole:
            chosen = pieces
        elif number == whole:
            mask = data.draw(st.one_of(st.just(-2), st.just(1), st.integers(0, (1 << len(pieces)) - 1)))
            chosen = [piece for n, piece in enumerate(pieces) if mask >> n & 1]
        else:
            continue
        for at, raw in chosen:
            partly.write(at, raw)
    found = probe(partly)
    new = probe(done)
    assert shown(found) in (shown(before), shown(new))
    if case.verb == "grow":
        for step in found.plan_grow():
            apply(step)
        again = probe(partly)
        assert again.partitions == new.partitions
        assert again.plan_grow() == []
        assert not [f for f in again.check() if f.severity != "note"]
