"""Gaps, overlaps and alignment, as pure functions; and the corners of GPT that no golden disk has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from onebay import table
from onebay.base.error import BadChecksum, BadMagic, Damaged, Inconsistent, Refused, Unsupported
from onebay.base.step import apply
from onebay.block import FileVolume, create_disk
from onebay.layer import Suspect
from onebay.table import kinds
from onebay.table.gpt import read, record
from onebay.table.mbr.record import make_entry, pack_entries
from onebay.table.partition import Gap, find_gaps

MIB = 1 << 20


@pytest.mark.parametrize(
    ("taken", "want"),
    [
        ([], [(10, 100, "tail")]),
        ([(20, 30)], [(10, 20, "before-first"), (30, 100, "tail")]),
        ([(10, 100)], []),
        ([(50, 60), (20, 30)], [(10, 20, "before-first"), (30, 50, "between"), (60, 100, "tail")]),
        ([(20, 60), (30, 40), (50, 70)], [(10, 20, "before-first"), (70, 100, "tail")]),
        ([(20, 30), (30, 40)], [(10, 20, "before-first"), (40, 100, "tail")]),
        ([(0, 15), (90, 200)], [(15, 90, "between")]),
        ([(200, 300)], [(10, 100, "before-first")]),
    ],
)
def test_find_gaps(taken: list[tuple[int, int]], want: list[tuple[int, int, str]]) -> None:
    assert [(g.start, g.end, g.kind) for g in find_gaps(taken, 10, 100)] == want


def test_aligned_gap_may_be_empty() -> None:
    assert Gap(1, 3 * MIB + 1, "tail").aligned() == Gap(MIB, 3 * MIB, "tail")
    assert Gap(MIB + 1, 2 * MIB - 1, "tail").aligned().size == 0


def disk(folder: Path) -> tuple[FileVolume, table.GptTable]:
    """An empty GPT disk, made from an empty MBR one."""
    volume = create_disk(folder / "disk", 64 * MIB)
    volume.write(440, b"\1\2\3\4")
    volume.write(510, b"\x55\xaa")
    found = table.probe(volume)
    assert isinstance(found, table.MbrTable)
    for step in table.plan_convert(found):
        apply(step)
    return volume, gpt_of(volume)


def gpt_of(volume: FileVolume) -> table.GptTable:
    found = table.probe(volume)
    assert isinstance(found, table.GptTable), found
    return found


def put_header(volume: FileVolume, lba: int, **changes: object) -> None:
    """Change a header, with a right checksum."""
    sector = volume.read(lba * 512, 512)
    header = replace(record.HEADER.unpack(sector), **changes)  # type: ignore[arg-type]
    volume.write(lba * 512, record.pack_header(header, sector[92:]))


def put_entries(volume: FileVolume, *entries: record.Entry) -> None:
    """Replace the entries of both copies, with right checksums."""
    array = b"".join(record.ENTRY.pack(entry) for entry in entries).ljust(128 * 128, b"\0")
    last = volume.size // 512 - 1
    volume.write(1024, array)
    volume.write((last - 32) * 512, array)
    for lba in (1, last):
        put_header(volume, lba, partition_entry_array_crc32=crc32(array))


def entry(number: int, start: int, end: int) -> record.Entry:
    guid = f"00000000-0000-4000-8000-{number:012}"
    return record.make_entry(kinds.LINUX_RAID, guid, start, end, f"p{number}", active=False)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"revision": 0x20000}, Unsupported),
        ({"my_lba": 2}, Inconsistent),
        ({"first_usable_lba": 1 << 40}, Inconsistent),
        ({"sizeof_partition_entry": 64}, Inconsistent),
        ({"sizeof_partition_entry": 8192}, Inconsistent),
        ({"sizeof_partition_entry": 0}, Inconsistent),
        ({"num_partition_entries": 0}, Inconsistent),
        ({"num_partition_entries": 0xFFFFFFFF}, Inconsistent),
        ({"partition_entry_lba": 1}, Inconsistent),
        ({"partition_entry_lba": 0}, Inconsistent),
        ({"partition_entry_lba": (1 << 64) - 1}, Inconsistent),
        ({"partition_entry_array_crc32": 1}, BadChecksum),
    ],
)
def test_a_header_that_breaks_a_rule_is_named(
    changes: dict[str, int], error: type[Damaged], tmp_path: Path
) -> None:
    volume, before = disk(tmp_path)
    put_header(volume, 1, **changes)
    with pytest.raises(error):
        read.read_copy(volume, 1)
    found = gpt_of(volume)
    assert found.identity == before.identity
    assert {f.kind for f in found.check()} == {"gpt-primary-bad"}


def test_signature_header_size_and_crc_are_checked(tmp_path: Path) -> None:
    volume, _ = disk(tmp_path)
    for at, error in ((0, BadMagic), (12, Inconsistent), (16, BadChecksum), (60, BadChecksum)):
        good = volume.read(512, 512)
        volume.write(512 + at, b"\xff\xff")
        with pytest.raises(error):
            read.read_copy(volume, 1)
        volume.write(512, good)


@pytest.mark.parametrize(("start", "end"), [(0, 2048), (2048, 1 << 30), (4096, 2048), (2048, 2048)])
def test_a_partition_that_is_not_on_the_disk_is_damage(start: int, end: int, tmp_path: Path) -> None:
    volume, _ = disk(tmp_path)
    put_entries(volume, entry(1, start, end))
    found = table.probe(volume)
    assert isinstance(found, Suspect)
    assert "p1 is not on the disk" in found.evidence


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ([entry(1, 2048, 8192), entry(2, 4096, 16384)], "overlap"),
        ([entry(1, 33, 8192)], "outside-usable"),
        ([entry(1, 10, 20)], "covers-table"),
    ],
)
def test_what_must_not_be_written(entries: list[record.Entry], kind: str, tmp_path: Path) -> None:
    volume, _ = disk(tmp_path)
    put_entries(volume, *entries)
    found = gpt_of(volume)
    assert ("damage", kind) in {(f.severity, f.kind) for f in found.check()}
    for plan in (
        found.plan_grow,
        lambda: table.plan_add(found, [table.NewPartition(32 * MIB, MIB, kinds.ESP)]),
        lambda: table.plan_remove(found, [1]),
    ):
        with pytest.raises(Refused):
            plan()


def test_copies_that_disagree(tmp_path: Path) -> None:
    volume, _ = disk(tmp_path)
    put_entries(volume, entry(1, 2048, 8192))
    last = volume.size // 512 - 1
    array = record.ENTRY.pack(entry(1, 2048, 4096)).ljust(128 * 128, b"\0")
    volume.write((last - 32) * 512, array)
    put_header(volume, last, partition_entry_array_crc32=crc32(array))
    found = gpt_of(volume)
    assert found.partitions[0].size == 6144 * 512
    assert [f.kind for f in found.check()] == ["gpt-disagree"]
    for step in found.plan_grow():
        apply(step)
    assert gpt_of(volume).check() == []


def test_a_backup_of_another_disk_is_ignored_but_never_chosen_blindly(tmp_path: Path) -> None:
    volume, before = disk(tmp_path)
    last = volume.size // 512 - 1
    volume.resize(80 * MIB)
    foreign = volume.size // 512 - 1
    volume.write((foreign - 32) * 512, volume.read((last - 32) * 512, 33 * 512))
    put_header(volume, foreign, my_lba=foreign, partition_entry_lba=foreign - 32, disk_guid=b"x" * 16)
    found = gpt_of(volume)
    assert found.identity == before.identity
    assert {f.kind for f in found.check()} == {"gpt-backup-misplaced"}
    volume.write(512, bytes(512))
    suspect = table.probe(volume)
    assert isinstance(suspect, Suspect)
    assert "two backups differ" in suspect.evidence


def test_without_protective_mbr(tmp_path: Path) -> None:
    volume, before = disk(tmp_path)
    volume.write(0, bytes(512))
    found = gpt_of(volume)
    assert found.identity == before.identity
    assert [(f.severity, f.kind) for f in found.check()] == [("damage", "pmbr-missing")]
    volume.write(512, bytes(512))  # a wiped start: the backup says nothing
    assert table.probe(volume) is None


def test_an_mbr_outranks_a_stale_gpt(tmp_path: Path) -> None:
    volume, _ = disk(tmp_path)
    volume.write(446, pack_entries([make_entry(0x83, 2048, 4096), *[make_entry(0x83, 8192, 4096)] * 3]))
    assert isinstance(table.probe(volume), table.MbrTable)


def test_names_and_guids() -> None:
    assert record.name_text(record.name_bytes("Größe 磁盘 💾")) == "Größe 磁盘 💾"
    assert record.name_text(b"\x00\xd8" * 36) == "\ufffd" * 36  # lone surrogates
    with pytest.raises(ValueError, match="not a partition name"):
        record.name_bytes("x" * 37)
    with pytest.raises(ValueError, match="badly formed"):
        record.guid_bytes("no guid")
    assert record.guid_text(bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")) == kinds.ESP
