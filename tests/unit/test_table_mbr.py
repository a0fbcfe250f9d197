"""The rules of MBR: what is a table, what is damage, what may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebay import table
from onebay.base.error import Refused, Unsupported
from onebay.base.step import apply
from onebay.block import FileVolume, create_disk
from onebay.layer import Suspect
from onebay.table import kinds
from onebay.table.mbr.record import EMPTY, Entry, chs, make_entry, pack_entries

MIB = 1 << 20


def disk(folder: Path, size: int = 64 * MIB) -> FileVolume:
    return create_disk(folder / "disk", size)


def put(volume: FileVolume, lba: int, *entries: Entry) -> None:
    four = [*entries, *[EMPTY] * (4 - len(entries))]
    volume.write(lba * 512 + 446, pack_entries(four))


def mbr_of(volume: FileVolume) -> table.MbrTable:
    found = table.probe(volume)
    assert isinstance(found, table.MbrTable)
    return found


def suspect_of(volume: FileVolume) -> Suspect:
    found = table.probe(volume)
    assert isinstance(found, Suspect)
    return found


@pytest.mark.parametrize("size", [1, 511, 512, 513, 4096])
def test_nothing_on_an_empty_or_tiny_disk(tmp_path: Path, size: int) -> None:
    assert table.probe(disk(tmp_path, size)) is None


def test_boot_sectors_of_file_systems_are_no_tables(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 2048, 4096))
    volume.write(3, b"NTFS    ")
    assert table.probe(volume) is None
    volume.write(0, b"\xeb\x3c\x90MSDOS5.0" + b"\x00\x02\x04\x01\x00\x02\x00\x02\x00\x80\xf8")
    assert table.probe(volume) is None


def test_boot_code_alone_is_no_table_but_a_signature_makes_one(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    volume.write(0, b"\xeb\x63\x90" + b"GRUB" * 20)  # as GRUB leaves it in a partition
    put(volume, 0)
    assert table.probe(volume) is None
    volume.write(440, b"\x78\x56\x34\x12")
    assert mbr_of(volume).partitions == ()
    assert mbr_of(volume).identity == "12345678"


def test_a_status_byte_that_is_none_means_no_table(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 2048, 4096))
    volume.write(446, b"\x01")
    assert table.probe(volume) is None


def test_a_partition_beyond_the_end_is_damage(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 2048, 1 << 20))
    found = suspect_of(volume)
    assert "p1 ends beyond the end of the disk" in found.evidence
    put(volume, 0, make_entry(0x83, 1 << 20, 4096), make_entry(0xFD, 1 << 21, 4096))  # a disk cut short
    assert "beyond" in suspect_of(volume).evidence


def test_a_partition_over_the_table_is_damage(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 0, 4096))
    assert "starts in the sector of the table" in suspect_of(volume).evidence


def test_overlap_is_a_table_that_is_not_written(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 2048, 8192), make_entry(0x83, 4096, 8192))
    found = mbr_of(volume)
    assert ("damage", "overlap") in {(f.severity, f.kind) for f in found.check()}
    with pytest.raises(Refused, match="p1 and p2 overlap"):
        table.plan_add(found, [table.NewPartition(32 * MIB, MIB, "0x83")])
    with pytest.raises(Refused, match="p1 and p2 overlap"):
        table.plan_convert(found)
    with pytest.raises(Refused, match="p1 and p2 overlap"):
        found.plan_grow()


def test_protective_without_gpt_is_damage(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0xEE, 1, 131071))
    found = suspect_of(volume)
    assert (found.kind, "no valid gpt header" in found.evidence) == ("gpt", True)


def chain(volume: FileVolume) -> None:
    """p1, extended p2 at 4096 with p5 and p6."""
    put(volume, 0, make_entry(0x83, 2048, 2048), make_entry(0x05, 4096, 32768))
    put(volume, 4096, make_entry(0x83, 64, 4096), make_entry(0x05, 8192, 8192))
    put(volume, 4096 + 8192, make_entry(0xFD, 64, 4096))


def test_chain(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    chain(volume)
    found = mbr_of(volume)
    assert [(p.number, p.start // 512) for p in found.partitions] == [
        (1, 2048),
        (2, 4096),
        (5, 4160),
        (6, 12352),
    ]
    assert found.check() == []


@pytest.mark.parametrize(
    ("ebr", "evidence"),
    [
        ([make_entry(0xFD, 64, 4096), make_entry(0x05, 0, 8192)], "loop"),
        ([make_entry(0xFD, 64, 4096), make_entry(0x05, 8192, 8192)], "loop"),
        ([make_entry(0xFD, 64, 4096), make_entry(0x05, 40000, 8192)], "leaves the extended partition"),
        ([make_entry(0xFD, 64, 4096), make_entry(0x83, 8192, 64)], "two data entries"),
        ([make_entry(0x05, 64, 4096), make_entry(0x05, 8192, 64)], "two links"),
        ([make_entry(0xFD, 64, 1 << 30)], "p6 ends beyond the end of the disk"),
        ([make_entry(0xFD, 64, 64), make_entry(0x05, 20000, 64)], "without magic"),
    ],
)
def test_broken_chains_are_damage(ebr: list[Entry], evidence: str, tmp_path: Path) -> None:
    volume = disk(tmp_path)
    chain(volume)
    put(volume, 4096 + 8192, *ebr)
    assert evidence in suspect_of(volume).evidence


def test_two_extended_partitions_are_damage(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x05, 2048, 2048), make_entry(0x0F, 4096, 2048))
    assert "two extended partitions, p1 and p2" in suspect_of(volume).evidence


def test_an_extended_partition_without_boot_record(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 2048, 2048), make_entry(0x0F, 4096, 2048))
    assert "ebr-missing" in {finding.kind for finding in mbr_of(volume).check()}


def test_logical_outside_is_damage(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    chain(volume)
    put(volume, 4096 + 8192, make_entry(0xFD, 64, 65536))
    assert "logical-outside" in {finding.kind for finding in mbr_of(volume).check()}


def test_slots(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    chain(volume)
    found = mbr_of(volume)
    free = [table.NewPartition((20 + n) * MIB, MIB, "0x0c") for n in range(3)]
    for step in table.plan_add(found, free[:2]):
        apply(step)
    found = mbr_of(volume)
    assert [p.number for p in found.partitions] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(Refused, match=r"all four primary slots are taken: p1 Linux, p2 extended, p3 FAT32"):
        table.plan_add(found, free[2:])


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (table.NewPartition(2 * MIB, MIB, "0x83"), "overlap p2"),
        (table.NewPartition(MIB, MIB, "0x83"), "overlap p1"),
        (table.NewPartition(32 * MIB + 100, MIB, "0x83"), "whole sectors"),
        (table.NewPartition(32 * MIB, 0, "0x83"), "whole sectors"),
        (table.NewPartition(63 * MIB, 2 * MIB, "0x83"), "outside the usable space"),
        (table.NewPartition(0, MIB, "0x83"), "outside the usable space"),
        (table.NewPartition(32 * MIB, MIB, "0x83", number=1), "slot 1 is taken"),
        (table.NewPartition(32 * MIB, MIB, "0x83", number=5), "slots 1 to 4"),
    ],
)
def test_additions_that_are_refused(new: table.NewPartition, why: str, tmp_path: Path) -> None:
    volume = disk(tmp_path)
    chain(volume)
    with pytest.raises(Refused, match=why):
        table.plan_add(mbr_of(volume), [new])


def test_active_moves_and_boot_code_stays(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    code = bytes(range(220)) * 2
    volume.write(0, code)
    put(volume, 0, make_entry(0x83, 2048, 2048, active=True))
    for step in table.plan_add(
        mbr_of(volume), [table.NewPartition(8 * MIB, MIB, "0x0e", active=True, number=4)]
    ):
        apply(step)
    found = mbr_of(volume)
    assert [(p.number, p.active) for p in found.partitions] == [(1, False), (4, True)]
    assert volume.read(0, 440) == code


def test_removing(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    chain(volume)
    found = mbr_of(volume)
    with pytest.raises(Unsupported, match="renumber"):
        table.plan_remove(found, [5])
    with pytest.raises(Refused, match="still holds p6"):
        table.plan_remove(found, [2, 5])
    with pytest.raises(Refused, match="no partition 3"):
        table.plan_remove(found, [3])
    for numbers, left in (([6], [1, 2, 5]), ([5], [1, 2]), ([1, 2], [])):
        for step in table.plan_remove(mbr_of(volume), numbers):
            apply(step)
        if left:
            assert [p.number for p in mbr_of(volume).partitions] == left
    assert table.probe(volume) is None  # neither entries nor a disk signature


def test_two_tebibytes_are_the_limit(tmp_path: Path) -> None:
    volume = disk(tmp_path, 3 << 40)
    put(volume, 0, make_entry(0x83, 2048, 1 << 30))
    found = mbr_of(volume)
    assert "mbr-limit" in {finding.kind for finding in found.check()}
    for step in found.plan_grow():
        apply(step)
    found = mbr_of(volume)
    assert found.partitions[0].end == (2 << 40) - MIB
    assert found.plan_grow() == []


@pytest.mark.parametrize(
    ("behind", "why"),
    [
        (make_entry(0xEF, 40000, 65536), "EFI System"),
        (make_entry(0x82, 40000, 65536), "Linux swap"),
        (make_entry(0x83, 40000, 4096), "small one behind the data"),
        (make_entry(0x0F, 40000, 4096), "empty extended"),
    ],
)
def test_boot_partitions_behind_the_data_block_growth(behind: Entry, why: str, tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 2048, 32768), behind)
    found = mbr_of(volume)
    assert found.plan_grow() == []
    assert found.data_partition is None
    assert any(f.kind == "growth-blocked" and why in f.text for f in found.check())


def test_a_stale_superblock_does_not_appear_at_the_new_end(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    volume.write(32 * MIB, b"\xff" * (32 * MIB))
    put(volume, 0, make_entry(0x83, 2048, 2048))
    for step in mbr_of(volume).plan_grow():
        apply(step)
    part = mbr_of(volume).partitions[0]
    assert part.end == 64 * MIB
    assert not any(part.volume.read(part.size - (128 << 10), 128 << 10))


def test_stale_gpt_is_noted(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 2048, 2048))
    volume.write(512, b"EFI PART")
    assert "gpt-stale" in {finding.kind for finding in mbr_of(volume).check()}


@pytest.mark.parametrize(("lba", "want"), [(0, (0, 1, 0)), (63, (1, 1, 0)), (16450560, (0xFE, 0xFF, 0xFF))])
def test_chs(lba: int, want: tuple[int, int, int]) -> None:
    assert chs(lba) == want


def test_convert_refuses_what_has_no_room_or_counterpart(tmp_path: Path) -> None:
    volume = disk(tmp_path)
    put(volume, 0, make_entry(0x83, 33, 64))
    with pytest.raises(Refused, match="p1 starts too early for a GPT"):
        table.plan_convert(mbr_of(volume))
    put(volume, 0, make_entry(0x83, 34, 131072 - 34 - 32))
    with pytest.raises(Refused, match="p1 ends too late for a GPT"):
        table.plan_convert(mbr_of(volume))
    put(volume, 0, make_entry(0xA5, 34, 131072 - 34 - 33))
    with pytest.raises(Unsupported, match="type 0xa5"):
        table.plan_convert(mbr_of(volume))
    put(volume, 0, make_entry(0xFD, 34, 131072 - 34 - 33))
    assert table.plan_convert(mbr_of(volume))
    chain(volume)
    with pytest.raises(Refused, match="chain"):
        table.plan_convert(mbr_of(volume), additions=[table.NewPartition(2 * MIB, 512, kinds.ESP)])
