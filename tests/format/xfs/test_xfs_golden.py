"""XFS images made by xfsprogs and a kernel, judged by xfs_db, xfs_repair, blkid and that kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from onebay.base import tool
from onebay.base.error import Damaged, Unsupported
from onebay.base.extent import ExtentSet
from onebay.block import Overlay
from onebay.fs.xfs import Xfs, probe
from onebay.fs.xfs.freespace import stored_sum
from onebay.fs.xfs.log import Log
from onebay.fs.xfs.record import AGF, BTREE_BLOCK, SUPERBLOCK, Incompat
from onebay.layer import Suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.block import FileVolume

    Golden = Callable[[str, str], FileVolume]

CASES = json.loads((Path(__file__).parent / "expected.json").read_text("utf-8"))
CLEAN = sorted(name for name, said in CASES.items() if not said["dirty"] and name != "external")
GARBAGE = bytes(range(256)) * 4096


def opened(volume: FileVolume | Overlay) -> Xfs:
    layer = probe(volume)
    assert isinstance(layer, Xfs)
    return layer


def free_by_xfs_db(said: dict[str, Any]) -> ExtentSet:
    block, group = said["blocksize"], said["agblocks"]
    runs = (tuple(map(int, run.split())) for run in said["free"])
    return ExtentSet.of(
        ((agno * group + start) * block, (agno * group + start + length) * block)
        for agno, start, length in runs
    )


@pytest.mark.parametrize("name", sorted(CASES))
def test_facts(golden: Golden, name: str) -> None:
    layer, said = opened(golden("xfs", name)), CASES[name]
    facts = layer.facts()
    assert (facts["uuid"], facts["label"]) == (said["uuid"], said["label"])
    assert (facts["block_size"], facts["sector_size"]) == (said["blocksize"], said["sectsize"])
    assert (facts["groups"], facts["size"]) == (said["agcount"], said["dblocks"] * said["blocksize"])
    assert facts["log_size"] == said["logblocks"] * said["blocksize"]
    assert facts["version"] == (4 if name.startswith("v4") else 5)


@pytest.mark.parametrize("name", CLEAN)
def test_used_is_all_that_xfs_db_does_not_list_as_free(golden: Golden, name: str) -> None:
    layer, said = opened(golden("xfs", name)), CASES[name]
    whole = ExtentSet.single(0, said["dblocks"] * said["blocksize"])
    assert layer.keep_whole() is None
    assert layer.check() == []
    assert layer.used() == (whole - free_by_xfs_db(said),)
    used = layer.used_bytes()
    assert used is not None
    # the counter of the superblock has the blocks that are held for the btrees among the free ones
    assert 0 <= layer.used()[0].size - used <= said["agcount"] * 12 * said["blocksize"]


@pytest.mark.parametrize("name", CLEAN)
def test_a_copy_of_used_bytes_is_the_same_file_system(golden: Golden, name: str, tmp_path: Path) -> None:
    layer = opened(golden("xfs", name))
    copy = tmp_path / "copy.img"
    with copy.open("wb") as out:
        for at in range(0, layer.volume.size, len(GARBAGE)):
            out.write(GARBAGE[: layer.volume.size - at])
        for start, end in layer.used()[0]:
            out.seek(start)
            out.write(layer.volume.read(start, end - start))
    tool.run(["xfs_repair", "-n", "-f", copy])
    if layer.facts()["version"] == 5 and os.geteuid() == 0 and name in ("v5", "small-blocks"):
        mount = tmp_path / "mnt"
        mount.mkdir()
        tool.run(["mount", "-o", "loop,ro", copy, mount])
        try:
            same = (mount / "file-2").read_bytes()
            assert same == b"".join(b"%d\n" % number for number in range(1, 3001))
            assert len(list((mount / "folder").iterdir())) == 200
        finally:
            tool.run(["umount", mount])
    copy.unlink()


def test_some_case_has_a_tree_of_two_levels() -> None:
    assert CASES["small-blocks"]["levels"] == 2


def test_some_case_has_a_log_that_went_round(golden: Golden) -> None:
    layer = opened(golden("xfs", "log-many-passes"))
    assert log_of(layer).cycle(0) > 1


def test_a_dirty_log_keeps_everything(golden: Golden) -> None:
    layer = opened(golden("xfs", "dirty"))
    assert "not unmounted" in str(layer.keep_whole())
    assert [finding.kind for finding in layer.check()] == ["dirty"]


def test_an_external_log_keeps_everything(golden: Golden) -> None:
    assert opened(golden("xfs", "external")).keep_whole() == "its log is on another device"


def log_of(layer: Xfs) -> Log:
    block, sb = layer.sb.sb_blocksize, layer.sb
    group, start = divmod(sb.sb_logstart, 1 << sb.sb_agblklog)
    return Log(layer.volume, (group * sb.sb_agblocks + start) * block, sb.sb_logblocks * block // 512)


@pytest.mark.parametrize("name", ["v5", "log-many-passes", "v4-log1", "striped-log"])
def test_any_damage_to_the_last_record_is_a_dirty_log(golden: Golden, name: str) -> None:
    volume = golden("xfs", name)
    layer = opened(volume)
    log = log_of(layer)
    head = log.find_head()
    assert log.why_dirty(layer.sb.sb_uuid) is None
    for back in (1, 2):
        over = Overlay(volume)
        at = log.at + (head - back) % log.blocks * 512
        over.write(at, bytes(byte ^ 0xFF for byte in volume.read(at, 512)))
        assert "the log is dirty" in str(opened(over).keep_whole())
    # one more block written after the last record
    over = Overlay(volume)
    over.write(log.at + head * 512, log.cycle(0).to_bytes(4, "big"))
    assert "the log is dirty" in str(opened(over).keep_whole())


def reseal(volume: Overlay, at: int, size: int, crc_at: int) -> None:
    """Write the checksum anew, so that only the rule under test is broken."""
    expected = stored_sum(volume.read(at, size), crc_at)[1]
    volume.write(at + crc_at, expected.to_bytes(4, "little"))


def set_superblock(volume: Overlay, **changes: int) -> None:
    sb = SUPERBLOCK.unpack(volume.read(0, SUPERBLOCK.size))
    volume.write(0, SUPERBLOCK.pack(sb, **changes))
    reseal(volume, 0, sb.sb_sectsize, SUPERBLOCK.offset("sb_crc"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sb_features_incompat": 0x8000_0003}, "unknown features: 0x80000000"),
        ({"sb_features_incompat": int(Incompat.ZONED | Incompat.FTYPE)}, "unknown features: zoned"),
        ({"sb_features_incompat": int(Incompat.NEEDSREPAIR | Incompat.FTYPE)}, "needing xfs_repair"),
        ({"sb_features_log_incompat": 1}, "the log is dirty: it uses features 0x1"),
        ({"sb_inprogress": 1}, "interrupted"),
        ({"sb_rblocks": 4096}, "real-time"),
    ],
)
def test_what_is_not_understood_is_kept_whole(golden: Golden, changes: dict[str, int], says: str) -> None:
    over = Overlay(golden("xfs", "v5"))
    set_superblock(over, **changes)
    assert says in str(opened(over).keep_whole())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sb_versionnum": 0xB4A6}, "sb_versionnum"),
        ({"sb_blocksize": 8192}, "sb_blocksize"),
        ({"sb_blocklog": 40}, "sb_blocklog"),
        ({"sb_sectsize": 1024}, "sb_sectsize"),
        ({"sb_agblocks": 4097}, "sb_agblklog"),
        ({"sb_agcount": 9}, "sb_dblocks"),
        ({"sb_dblocks": 16385}, "sb_dblocks"),
        ({"sb_logstart": 1 << 40}, "sb_logstart"),
        ({"sb_agcount": 8, "sb_dblocks": 32768}, "the volume at"),
    ],
)
def test_a_broken_rule_makes_it_a_suspect(golden: Golden, changes: dict[str, int], field: str) -> None:
    over = Overlay(golden("xfs", "v5"))
    set_superblock(over, **changes)
    found = probe(over)
    assert isinstance(found, Suspect)
    assert field in found.evidence


def test_a_bad_checksum_makes_it_a_suspect(golden: Golden) -> None:
    over = Overlay(golden("xfs", "v5"))
    over.write(SUPERBLOCK.offset("sb_fdblocks"), bytes(8))
    found = probe(over)
    assert isinstance(found, Suspect)
    assert "superblock checksum" in found.evidence


@pytest.mark.parametrize(
    ("field", "raw", "says"),
    [
        ("agf_seqno", b"\0\0\0\5", "AGF version, number, length"),
        ("agf_freeblks", b"\0\0\0\5", "sum of free blocks"),
        ("agf_bno_root", b"\0\0\x10\0", "pointer"),
        ("agf_bno_root", b"\0\0\0\2", "expected 41423342"),
        ("agf_bno_level", b"\0\0\0\2", "level"),
        ("agf_bno_level", b"\0\0\0\xff", "levels"),
        ("agf_magicnum", b"XAGI", "AGF"),
    ],
)
def test_a_damaged_group_keeps_everything(golden: Golden, field: str, raw: bytes, says: str) -> None:
    over = Overlay(golden("xfs", "v5"))
    sector = CASES["v5"]["sectsize"]
    over.write(sector + AGF.offset(field), raw)
    reseal(over, sector, sector, AGF.offset("agf_crc"))
    layer = opened(over)
    assert says in str(layer.keep_whole())
    with pytest.raises(Damaged):
        layer.used()


def test_an_agf_with_a_bad_checksum_is_found(golden: Golden) -> None:
    over = Overlay(golden("xfs", "v5"))
    over.write(CASES["v5"]["sectsize"] + AGF.offset("agf_longest"), b"\1\2\3\4")
    layer = opened(over)
    assert "AGF" in str(layer.keep_whole())
    assert [finding.kind for finding in layer.check()] == ["xfs-group"]


@pytest.mark.parametrize("name", ["v5", "v4", "small-blocks"])
def test_records_that_overlap_or_leave_the_group_keep_everything(golden: Golden, name: str) -> None:
    volume = golden("xfs", name)
    layer = opened(volume)
    sb = layer.sb
    agf = AGF.unpack(volume.read(sb.sb_sectsize, AGF.size))
    root = agf.agf_bno_root * sb.sb_blocksize
    header = 16 if name == "v4" else 56
    for raw in (b"\0\0\0\0\0\0\0\1", b"\xff\xff\xff\xff\0\0\0\1", b"\0\0\1\0\xff\xff\xff\xff", bytes(8)):
        over = Overlay(volume)
        if agf.agf_bno_level == 1:
            over.write(root + header, raw)
        else:  # pointers stand behind the room for all keys; the first leaf becomes both children
            over.write(root + header + (sb.sb_blocksize - header) // 12 * 8, raw[:4] * 2)
        if name != "v4":
            reseal(over, root, sb.sb_blocksize, BTREE_BLOCK.size + 36)
        assert "free space btree" in str(opened(over).keep_whole())


def test_growing_is_left_to_a_kernel(golden: Golden) -> None:
    volume = golden("xfs", "v5")
    assert opened(volume).plan_grow() == []
    assert opened(Overlay(volume, size=volume.size + (1 << 20))).plan_grow() == []
    with pytest.raises(Unsupported, match="xfs grows only mounted"):
        opened(Overlay(volume, size=volume.size + (64 << 20))).plan_grow()
