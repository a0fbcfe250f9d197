"""Members of md arrays in states that a golden image would not show: spares, reshapes, unknown features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onebay.base.error import Unsupported
from onebay.block import Overlay, create_disk
from onebay.block.volume import Volume
from onebay.layer import Member, Suspect
from onebay.stack import md
from onebay.stack.md.record import MAX_SECTOR, SUPER1, Feature, Super1, checksum1

SIZE = 8 << 20
BASE = Super1(
    magic=0xA92B4EFC,
    major_version=1,
    feature_map=0,
    pad0=0,
    set_uuid=bytes(range(16)),
    set_name=b"nas:2".ljust(32, b"\0"),
    ctime=1,
    level=1,
    layout=0,
    size=SIZE // 512 - 2048,
    chunksize=0,
    raid_disks=2,
    bitmap_offset=0,
    new_level=0,
    reshape_position=0,
    delta_disks=0,
    new_layout=0,
    new_chunk=0,
    new_offset=0,
    data_offset=2048,
    data_size=SIZE // 512 - 2048,
    super_offset=8,
    recovery_offset=0,
    dev_number=0,
    cnt_corrected_read=0,
    device_uuid=bytes(16),
    devflags=0,
    bblog_shift=0,
    bblog_size=0,
    bblog_offset=0,
    utime=1,
    events=10,
    resync_offset=MAX_SECTOR,
    sb_csum=0,
    max_dev=4,
    pad3=bytes(32),
)
ROLES = (0, 1, 0xFFFF, 0xFFFE)


@pytest.fixture
def blank(tmp_path: Path) -> Volume:
    return create_disk(tmp_path / "blank.img", SIZE)


def member(blank: Volume, roles: tuple[int, ...] = ROLES, **changes: object) -> Member:
    record = replace(BASE, **changes)  # type: ignore[arg-type]
    raw = SUPER1.pack(record) + b"".join(role.to_bytes(2, "little") for role in roles)
    raw = raw.ljust(4096, b"\0")
    raw = SUPER1.pack(record, sb_csum=checksum1(raw, record.max_dev)) + raw[256:]
    volume = Overlay(blank, name=f"m{record.dev_number}")
    volume.write(record.super_offset * 512, raw)
    found = md.probe(volume)
    assert isinstance(found, Member), found
    return found


def array(*members: Member) -> md.MdArray:
    made = md.assemble(members)
    assert isinstance(made, md.MdArray), made
    return made


def kinds(made: md.MdArray) -> list[str]:
    return sorted(finding.kind for finding in made.check())


def test_spare_is_kept_as_far_as_its_superblock_goes(blank: Volume) -> None:
    made = array(member(blank), member(blank, dev_number=1), member(blank, dev_number=2))
    assert [sb.slot for sb in made.members] == [0, 1, -1]
    assert made.used()[2].size == 1 << 20
    assert made.check() == []
    with pytest.raises(Unsupported):
        made.plan_grow()


def test_recovering_member_is_not_read(blank: Volume) -> None:
    recovering = member(blank, dev_number=0, feature_map=int(Feature.RECOVERY_OFFSET))
    made = array(recovering, member(blank, dev_number=1))
    assert made.above[0].name == "m1:md"
    assert kinds(made) == ["md-degraded", "md-stale-member"]


def test_member_one_event_behind_counts(blank: Volume) -> None:
    made = array(member(blank, events=9), member(blank, dev_number=1))
    assert made.check() == []
    made = array(member(blank, events=8), member(blank, dev_number=1))
    assert kinds(made) == ["md-degraded", "md-stale-member"]
    assert made.above[0].name == "m1:md"


def test_no_member_in_sync_is_incomplete(blank: Volume) -> None:
    made = array(member(blank, dev_number=2))
    assert made.above == ()
    assert kinds(made) == ["md-incomplete"]
    assert made.keep_whole()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"feature_map": 1 << 20}, "unknown feature bits 0x100000"),
        ({"feature_map": int(Feature.RESHAPE_ACTIVE)}, "a reshape is in progress"),
        ({"feature_map": int(Feature.JOURNAL)}, "a write journal"),
        ({"level": 10}, "md raid10 is known by name only"),
        ({"level": -5}, "md level -5 is known by name only"),
        ({"size": 0}, "the array has no size"),
        ({"size": 1 << 60}, "claims more than"),
    ],
)
def test_what_is_not_understood_is_kept_whole(blank: Volume, changes: dict[str, object], why: str) -> None:
    made = array(member(blank, **changes), member(blank, dev_number=1, **changes))
    assert made.above == ()
    assert why in str(made.keep_whole())
    assert all(used.size == SIZE for used in made.used())
    with pytest.raises(Unsupported):
        made.plan_grow()


def test_bad_blocks_and_a_dirty_stop_are_said(blank: Volume) -> None:
    changes = {"feature_map": int(Feature.BAD_BLOCKS), "resync_offset": 0, "raid_disks": 1}
    assert kinds(array(member(blank, **changes))) == ["md-bad-blocks", "md-dirty"]


def test_members_that_disagree_are_a_suspect(blank: Volume) -> None:
    found = md.assemble([member(blank), member(blank, dev_number=1, level=5, events=9)])
    assert isinstance(found, Suspect)
    assert "level" in found.evidence


def test_superblock_of_another_place_is_a_suspect(blank: Volume) -> None:
    moved = Overlay(blank)
    there = member(blank).volume
    moved.write(0, there.read(4096, 4096))
    found = md.probe(moved)
    assert isinstance(found, Suspect)
    assert "sector 8" in found.evidence


def test_bitmap_that_is_none_keeps_the_array_from_growing(blank: Volume) -> None:
    changes = {"feature_map": int(Feature.BITMAP_OFFSET), "bitmap_offset": 8, "raid_disks": 1}
    half = {"size": BASE.size // 2}
    with pytest.raises(Unsupported, match="no bitmap"):
        array(member(blank, **changes, **half)).plan_grow()


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 8191, 65535, 65536, 131072])
def test_small_volumes_are_nothing(tmp_path: Path, size: int) -> None:
    assert md.probe(create_disk(tmp_path / "small.img", size)) is None


def test_spare_that_claims_too_much_is_kept_whole(blank: Volume) -> None:
    made = array(member(blank), member(blank, dev_number=1), member(blank, dev_number=2, data_size=1 << 62))
    assert made.used()[2].size == SIZE
    assert kinds(made) == ["md-size-mismatch"]
