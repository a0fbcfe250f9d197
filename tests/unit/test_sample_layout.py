"""The sample's numbers are those of the disks in the field."""

from __future__ import annotations

import pytest

from onebay.base.error import Unsupported
from onebay.sample import build, layout

ALL = [*layout.LAYOUTS, *map(layout.mini, layout.LAYOUTS)]


def test_numbers_of_version8() -> None:
    assert (layout.V8.system.start, layout.V8.system.size) == (2048, 4980480)
    assert (layout.V8.swap.start, layout.V8.swap.size) == (4982528, 4194304)
    assert layout.V8.data_start - 9176832 == 260352
    assert layout.V8.size == 12 << 30


def test_numbers_of_7_1_and_later() -> None:
    assert (layout.V9.system.start, layout.V9.system.size) == (8192, 16777216)
    assert (layout.V9.swap.start, layout.V9.swap.size) == (16785408, 4194304)
    assert layout.V9.data_start - 20979712 == 262144
    assert layout.V9.size == 16 << 30


def test_numbers_of_shr() -> None:
    assert layout.SHR.data.number == 5
    assert layout.SHR.data_start - layout.SHR.extended == 16096


@pytest.mark.parametrize("each", ALL, ids=lambda each: f"{each.name} {each.sectors}")
def test_partitions_follow_one_another(each: layout.Layout) -> None:
    ends = 0
    for start, size in (
        (each.system.start, each.system.size),
        (each.swap.start, each.swap.size),
        *([(each.extended, 1)] if each.extended else []),
        (each.data.start, each.data.size),
    ):
        assert start >= ends
        assert size > 0
        ends = start + size
    assert ends == each.sectors - each.tail
    if each.table == "gpt":
        numbers = (each.system.start, each.system.size, each.swap.start, each.data.start, each.data.size)
        assert all(number % 8 == 0 for number in numbers), "must be whole sectors of 4096 bytes too"


@pytest.mark.parametrize("each", ALL, ids=lambda each: f"{each.name} {each.sectors}")
def test_boot_disk_fits_its_table(each: layout.Layout) -> None:
    last = each.boot.partitions[-1]
    backup = 33 if each.boot.table == "gpt" else 0
    assert last.start + last.size <= each.boot.sectors - backup


@pytest.mark.parametrize("each", layout.LAYOUTS, ids=lambda each: each.name)
def test_miniatures_are_small_and_of_the_same_shape(each: layout.Layout) -> None:
    small = layout.mini(each)
    assert small.size <= 256 << 20
    assert (small.table, small.slots, small.group, small.filesystem) == (
        each.table,
        each.slots,
        each.group,
        each.filesystem,
    )
    assert small.boot.sectors <= 65536 - 2048, "the boot disk must fit into the gap"


def test_unknown_layout() -> None:
    with pytest.raises(Unsupported, match="unknown layout"):
        layout.find("v1")


def test_every_variable_of_the_job_is_assigned() -> None:
    text = build.variables(layout.V9, 4096)
    assert "sector_size='4096'" in text
    assert "b3_start='94208'" in text
    assert all("=" in line for line in text.splitlines())
