"""DSM layouts, cut by sfdisk to the numbers of public reports; and what growing leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebay import table
from onebay.base.step import Write, apply
from onebay.base.tool import find, run
from onebay.block import FileVolume, create_disk
from onebay.table import dsm

GIB = 1 << 30
MIB = 1 << 20
needs_sfdisk = pytest.mark.skipif(find("sfdisk") is None, reason="sfdisk is not installed")
P12 = {
    "v7": ("256,4980480", "4980736,4194304"),
    "v8": ("2048,4980480", "4982528,4194304"),
    "v9": ("8192,16777216", "16785408,4194304"),
}
DATA = {"v7": 9437184, "v8": 9437184, "v9": 21241856}


def cut(path: Path, label: str, lines: list[str], size: int) -> FileVolume:
    volume = create_disk(path, size)
    head = [f"label: {label}", *(["first-lba: 34"] if label == "gpt" else [])]
    text = "\n".join([*head, *lines, ""])
    run(["sfdisk", "-q", path], stdin=text.encode())
    return volume


def line(start_size: str, kind: str) -> str:
    start, size = start_size.split(",")
    return f"start={start}, size={size}, type={kind}"


@needs_sfdisk
@pytest.mark.parametrize("label", ["dos", "gpt"])
@pytest.mark.parametrize("name", P12)
def test_generation_basic(name: str, label: str, tmp_path: Path) -> None:
    kind = "fd" if label == "dos" else table.kinds.LINUX_RAID
    lines = [line(part, kind) for part in P12[name]]
    lines.append(line(f"{DATA[name]},4096000", kind))
    found = table.probe(cut(tmp_path / "disk", label, lines, 16 * GIB))
    assert isinstance(found, table.Table)
    layout = dsm.generation(found)
    assert layout is not None
    assert (layout.name, dsm.is_shr(found)) == (name, False)
    gap = dsm.reserved_gap(found)
    assert gap is not None
    # what synopartition prints as "Reserved size"
    assert gap.size // 512 == {"v7": 262144, "v8": 260352, "v9": 262144}[name]
    assert layout.gap_size == gap.size
    assert found.facts()["dsm_layout"] == name


@needs_sfdisk
def test_shr_grows_from_the_outside_in_and_keeps_the_tail(tmp_path: Path) -> None:
    lines = [line(part, "fd") for part in P12["v8"]]
    lines += ["start=9437184, size=15523840, type=f", "start=9453280, size=6000000, type=fd"]
    lines += ["start=15469376, size=9491648, type=fd"]
    volume = cut(tmp_path / "disk", "dos", lines, 12 * GIB)
    found = table.probe(volume)
    assert isinstance(found, table.Table)
    assert dsm.is_shr(found)
    assert found.plan_grow() == []
    volume.resize(40 * GIB)
    found = table.probe(volume)
    assert isinstance(found, table.Table)
    before = found.partitions
    for step in found.plan_grow():
        apply(step)
    after = table.probe(volume)
    assert isinstance(after, table.MbrTable)
    last = after.partition(6)
    assert last is not None
    assert last.end == 40 * GIB - 100 * MIB
    assert after.extended is not None
    assert after.extended.end == last.end
    assert [p for p in after.partitions if p.number in (1, 2, 5)] == [
        p for p in before if p.number in (1, 2, 5)
    ]
    assert after.plan_grow() == []
    assert "No errors detected" in run(["sfdisk", "--verify", tmp_path / "disk"]).text
    listed = run(["sfdisk", "-d", tmp_path / "disk"]).text
    assert f"start=    15469376, size= {(last.size // 512):>11}, type=fd" in listed


@needs_sfdisk
@pytest.mark.parametrize(
    ("name", "end_sectors", "disk_sectors"),
    [("v8", 7813832352, 7814037168), ("v9", 11720840352, 11721045168)],
)
def test_a_native_disk_is_full_already(
    name: str, end_sectors: int, disk_sectors: int, tmp_path: Path
) -> None:
    lines = [line(part, table.kinds.LINUX_RAID) for part in P12[name]]
    lines.append(line(f"{DATA[name]},{end_sectors - DATA[name]}", table.kinds.LINUX_RAID))
    found = table.probe(cut(tmp_path / "disk", "gpt", lines, disk_sectors * 512))
    assert isinstance(found, table.Table)
    assert dsm.generation(found) is not None
    assert not [step for step in found.plan_grow() if isinstance(step, Write)]
    assert found.data_partition == found.partition(3)


@needs_sfdisk
def test_other_numbers_are_no_dsm(tmp_path: Path) -> None:
    lines = [line("2048,4980480", "fd"), line("4982528,4194296", "fd")]
    found = table.probe(cut(tmp_path / "disk", "dos", lines, 12 * GIB))
    assert isinstance(found, table.Table)
    assert dsm.generation(found) is None
    assert dsm.reserved_gap(found) is None


@needs_sfdisk
def test_system_partitions_never_grow(tmp_path: Path) -> None:
    lines = [line(part, "fd") for part in P12["v8"]]
    found = table.probe(cut(tmp_path / "disk", "dos", lines, 12 * GIB))
    assert isinstance(found, table.Table)
    assert found.plan_grow() == []
    assert found.data_partition is None
    assert "growth-blocked" in {finding.kind for finding in found.check()}
