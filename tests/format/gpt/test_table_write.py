"""After each of our writes the field's own tools find the table sound and see what we meant."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from onebay import table
from onebay.base.error import Refused, ToolFailed, Unsupported
from onebay.base.step import apply
from onebay.base.tool import find, run
from onebay.block import FileVolume
from onebay.table import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = Path(__file__).parents[1]
MIB = 1 << 20
pytestmark = pytest.mark.skipif(
    find("sgdisk") is None or find("sfdisk") is None, reason="sgdisk or sfdisk is not installed"
)


def unpack(name: str, folder: Path, *, sector_size: int = 512, more: int = 0) -> FileVolume:
    path = folder / "disk.img"
    with (FORMATS / f"{name}.img.zst").open("rb") as packed, path.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(packed, out)
    volume = FileVolume(path, writable=True, sector_size=sector_size)
    volume.resize(volume.size + more)
    return volume


def probe(volume: FileVolume) -> table.Table:
    found = table.probe(volume)
    assert isinstance(found, table.Table), found
    return found


@contextmanager
def seen_by_tools(volume: FileVolume) -> Iterator[str]:
    """What to name to sfdisk and sgdisk: the file, or a loop device with 4096-byte sectors."""
    volume.flush()
    if volume.sector_size == 512:
        yield volume.name
        return
    try:
        loop = run(["losetup", "-b", "4096", "-f", "--show", volume.name]).text.strip()
    except ToolFailed as error:
        pytest.skip(f"no loop device with 4096-byte sectors: {error}")
    try:
        yield loop
    finally:
        run(["losetup", "-d", loop])


def sound(volume: FileVolume) -> dict[str, Any]:
    """Let the tools check the disk, and return what `sfdisk -J` says."""
    found = probe(volume)
    assert not [finding for finding in found.check() if finding.severity != "note"]
    with seen_by_tools(volume) as name:
        if found.kind == "gpt":
            said = run(["sgdisk", "-v", name]).text
            assert "No problems found" in said, said
            assert "Caution" not in said
            assert "Warning" not in said
        said = run(["sfdisk", "--verify", name]).text
        assert "No errors detected" in said, said
        document: dict[str, Any] = json.loads(run(["sfdisk", "-J", name]).text)["partitiontable"]
    assert document["sectorsize"] == volume.sector_size
    listed = [(part["start"], part["size"]) for part in document.get("partitions", ())]
    sector = volume.sector_size
    assert listed == [(p.start // sector, p.size // sector) for p in found.partitions]
    return document


def carry_out(volume: FileVolume, steps: list[Any]) -> None:
    code = volume.read(0, 440)
    for step in steps:
        apply(step)
    assert volume.read(0, 440) == code


@pytest.mark.parametrize("more", [0, 16 * 512, 33 * 512, 200 * MIB + 512])
@pytest.mark.parametrize("name", ["plain", "primary-bad", "primary-array-bad", "backup-bad", "grown", "many"])
def test_grow_gpt(name: str, more: int, tmp_path: Path) -> None:
    volume = unpack(f"gpt/{name}", tmp_path, more=more)
    before = probe(volume)
    carry_out(volume, before.plan_grow())
    document = sound(volume)
    assert document["id"] == before.identity
    assert document["lastlba"] == volume.size // 512 - 34 - (32 if name == "many" else 0)
    after = probe(volume)
    last, was = after.last_partition, before.last_partition
    assert last is not None
    assert was is not None
    assert was.end <= last.end <= volume.size
    assert volume.size - last.end < MIB + 65 * 512
    assert [p.uuid for p in after.partitions] == [p.uuid for p in before.partitions]
    assert after.plan_grow() == []


def test_grow_gpt_4096(tmp_path: Path) -> None:
    volume = unpack("gpt/sector4096", tmp_path, sector_size=4096, more=40 * MIB)
    carry_out(volume, probe(volume).plan_grow())
    assert sound(volume)["lastlba"] == volume.size // 4096 - 1 - 5
    assert probe(volume).plan_grow() == []


@pytest.mark.parametrize(
    ("name", "sector"), [("primary", 512), ("chain", 512), ("hole", 512), ("sector4096", 4096)]
)
def test_grow_mbr(name: str, sector: int, tmp_path: Path) -> None:
    volume = unpack(f"mbr/{name}", tmp_path, sector_size=sector, more=77 * MIB + 512 * 8)
    carry_out(volume, probe(volume).plan_grow())
    sound(volume)
    last = probe(volume).last_partition
    assert last is not None
    assert last.end == (64 + 77) * MIB


@pytest.mark.parametrize(
    ("name", "sector"),
    [("primary", 512), ("chain", 512), ("hole", 512), ("order", 512), ("sector4096", 4096)],
)
def test_convert(name: str, sector: int, tmp_path: Path) -> None:
    volume = unpack(f"mbr/{name}", tmp_path, sector_size=sector)
    before = probe(volume)
    assert isinstance(before, table.MbrTable)
    gap = before.gaps()[0]
    boot = table.NewPartition(256 * sector // 2, 512 << 10 if sector == 4096 else 256 << 10, kinds.BIOS_BOOT)
    assert gap.start <= boot.start < boot.end <= gap.end
    carry_out(volume, table.plan_convert(before, additions=[boot]))
    document = sound(volume)
    assert document["label"] == "gpt"
    after = probe(volume)
    kept = {p.number: (p.start, p.size) for p in before.partitions if not p.is_extended}
    assert kept.items() <= {p.number: (p.start, p.size) for p in after.partitions}.items()
    assert [p for p in after.partitions if p.type == kinds.BIOS_BOOT]
    assert volume.read(440, 4).hex() == bytes.fromhex(before.identity)[::-1].hex()


def test_convert_maps_types(tmp_path: Path) -> None:
    volume = unpack("mbr/chain", tmp_path)
    before = probe(volume)
    assert isinstance(before, table.MbrTable)
    carry_out(volume, table.plan_convert(before))
    assert [(part["node"][-1], part["type"]) for part in sound(volume)["partitions"]] == [
        ("1", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"),
        ("5", "A19D880F-05FC-4D3B-A006-743F0F84911E"),
        ("6", "E6D6D379-F507-44C2-A23C-238F2A3DF928"),
        ("7", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
    ]


@pytest.mark.parametrize("name", ["plain", "primary-bad", "backup-bad", "hybrid"])
def test_add_and_remove_gpt(name: str, tmp_path: Path) -> None:
    volume = unpack(f"gpt/{name}", tmp_path)
    guid = "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE"
    new = table.NewPartition(5 * MIB, MIB, kinds.ESP, name="fold", uuid=guid, active=True)
    carry_out(
        volume, table.plan_add(probe(volume), [new, table.NewPartition(6 * MIB, MIB, kinds.BASIC_DATA)])
    )
    parts = {part["node"][-1]: part for part in sound(volume)["partitions"]}
    assert parts["3"] == {
        "node": f"{volume.name}3",
        "start": 10240,
        "size": 2048,
        "type": kinds.ESP,
        "uuid": guid,
        "name": "fold",
        "attrs": "LegacyBIOSBootable",
    }
    assert parts["4"]["type"] == kinds.BASIC_DATA
    with pytest.raises(Refused, match=r"GUID .* is in use"):
        table.plan_add(probe(volume), [table.NewPartition(7 * MIB, MIB, kinds.ESP, uuid=guid.lower())])
    with pytest.raises(Refused, match="slot 3 is taken"):
        table.plan_add(probe(volume), [table.NewPartition(7 * MIB, MIB, kinds.ESP, number=3)])
    if name == "hybrid":
        with pytest.raises(Unsupported, match="hybrid MBR"):
            table.plan_remove(probe(volume), [3])
        return
    carry_out(volume, table.plan_remove(probe(volume), [3, 1]))
    assert [part["node"][-1] for part in sound(volume)["partitions"]] == ["2", "4", "5"]


def test_add_and_remove_mbr(tmp_path: Path) -> None:
    volume = unpack("mbr/chain", tmp_path)
    new = table.NewPartition(6 * MIB, MIB, "0x0e", active=True)
    carry_out(volume, table.plan_add(probe(volume), [new]))
    parts = {part["node"][-1]: part for part in sound(volume)["partitions"]}
    assert parts["3"] == {
        "node": f"{volume.name}3",
        "start": 12288,
        "size": 2048,
        "type": "e",
        "bootable": True,
    }
    carry_out(volume, table.plan_remove(probe(volume), [7, 3]))
    assert [part["node"][-1] for part in sound(volume)["partitions"]] == ["1", "2", "5", "6"]
    carry_out(volume, table.plan_remove(probe(volume), [2, 5, 6]))
    assert [part["node"][-1] for part in sound(volume)["partitions"]] == ["1"]


def test_a_disk_that_became_shorter_gets_its_backup_back(tmp_path: Path) -> None:
    volume = unpack("gpt/plain", tmp_path)
    volume.resize(60 * MIB)
    found = probe(volume)
    assert "gpt-disk-shorter" in {finding.kind for finding in found.check()}
    carry_out(volume, found.plan_grow())
    sound(volume)


def test_no_room_for_the_backup_is_refused(tmp_path: Path) -> None:
    volume = unpack("gpt/plain", tmp_path)
    volume.resize((98304 + 8) * 512)
    with pytest.raises(Refused, match="p5 leaves no room for the partition table"):
        probe(volume).plan_grow()
