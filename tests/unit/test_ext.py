"""ext2/3/4: arithmetic of the layout, names of features, checksums, runs of bitmaps."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from onebay.base.error import Inconsistent
from onebay.fs.crc32c import raw
from onebay.fs.ext.bitmap import runs
from onebay.fs.ext.checksum import crc16, descriptor_sums, superblock_sum
from onebay.fs.ext.geometry import Geometry, compute, fitting
from onebay.fs.ext.record import SUPER, Compat, Incompat, RoCompat, SuperBlock, feature_names

if TYPE_CHECKING:
    from collections.abc import Mapping

BLANK = SUPER.unpack(bytes(1024))


def superblock(**changes: int | bytes) -> SuperBlock:
    """A valid superblock: 4 KiB blocks, 10 groups, 64-byte descriptors, as mke2fs 1.47 writes it."""
    fields: Mapping[str, int | bytes] = {
        "s_rev_level": 1,
        "s_log_block_size": 2,
        "s_log_cluster_size": 2,
        "s_blocks_count_lo": 327_680,
        "s_blocks_per_group": 32_768,
        "s_clusters_per_group": 32_768,
        "s_inodes_per_group": 8192,
        "s_inodes_count": 81_920,
        "s_inode_size": 256,
        "s_first_ino": 11,
        "s_magic": 0xEF53,
        "s_state": 1,
        "s_desc_size": 64,
        "s_reserved_gdt_blocks": 100,
        "s_feature_compat": 0x3C,
        "s_feature_incompat": 0x2C2,
        "s_feature_ro_compat": 0x46B,
        "s_uuid": bytes(range(16)),
    }
    return replace(BLANK, **{**fields, **changes})  # type: ignore[arg-type]


def geometry(**changes: int | bytes) -> Geometry:
    return compute(superblock(**changes))


# dumpe2fs names these groups for a file system of 3,000 groups made with the feature.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625, 729, 2187, 2401]),
        ({"s_feature_ro_compat": 0x46A}, list(range(3000))),
        (
            {"s_feature_compat": 0x3C | Compat.SPARSE_SUPER2, "s_backup_bgs": struct.pack("<2I", 1, 2999)},
            [0, 1, 2999],
        ),
    ],
)
def test_groups_with_superblocks(changes: dict[str, int | bytes], expected: list[int]) -> None:
    found = geometry(**changes)
    assert [group for group in range(3000) if found.has_super(group)] == expected


def test_heads_of_plain_groups() -> None:
    found = geometry()
    assert list(found.head(0)) == [(0, 1), (1, 101)]
    assert list(found.head(1)) == [(32_768, 1), (32_769, 101)]
    assert list(found.head(2)) == []


def test_heads_with_meta_bg() -> None:
    """Descriptors in the first two and the last group (Documentation/filesystems/ext4/blockgroup.rst)."""
    groups = 200
    found = geometry(
        s_feature_incompat=0x2C2 | Incompat.META_BG,
        s_first_meta_bg=1,
        s_blocks_count_lo=groups * 32_768,
        s_inodes_count=groups * 8192,
    )
    assert found.descs_per_block == 64
    assert list(found.head(0)) == [(0, 1), (1, 1)]
    assert list(found.head(63)) == []
    assert list(found.head(64)) == [(64 * 32_768, 1)]
    assert list(found.head(65)) == [(65 * 32_768, 1)]
    assert list(found.head(81)) == [(81 * 32_768, 1)]
    assert list(found.head(127)) == [(127 * 32_768, 1)]
    assert [found.desc_block(number) for number in range(4)] == [1, 64 * 32_768, 128 * 32_768, 192 * 32_768]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("s_rev_level", 2),
        ("s_log_block_size", 7),
        ("s_blocks_count_lo", 0),
        ("s_first_data_block", 1),
        ("s_blocks_per_group", 0),
        ("s_blocks_per_group", 248),
        ("s_blocks_per_group", 32_769),
        ("s_blocks_per_group", 65_536),
        ("s_inodes_per_group", 0),
        ("s_inodes_per_group", 40_000),
        ("s_inodes_count", 81_919),
        ("s_inode_size", 100),
        ("s_inode_size", 192),
        ("s_inode_size", 8192),
        ("s_desc_size", 16),
        ("s_desc_size", 48),
        ("s_desc_size", 2048),
        ("s_reserved_gdt_blocks", 1025),
    ],
)
def test_impossible_fields_are_named(field: str, value: int) -> None:
    with pytest.raises(Inconsistent) as caught:
        geometry(**{field: value})
    assert str(value) in str(caught.value) or field == "s_blocks_per_group"


def test_blocks_that_fit() -> None:
    found = geometry()
    assert fitting(found, 327_680 * 4096) == 327_680
    assert fitting(found, 327_680 * 4096 + 4095) == 327_680
    # Group 10 has no superblock: it needs 2 bitmaps, 512 blocks of inodes and 50 more (resize2fs 1.47).
    assert fitting(found, (327_680 + 563) * 4096) == 327_680
    assert fitting(found, (327_680 + 564) * 4096) == 327_680 + 564
    # Without 64bit block numbers end at 32 bits; inode numbers always do: 2^32 / 8192 groups of 128 MiB.
    narrow = geometry(s_feature_incompat=0x242, s_inodes_per_group=256, s_inodes_count=2560)
    assert fitting(narrow, 1 << 60) == 0xFFFFFFFF
    assert fitting(found, 1 << 60) == (0xFFFFFFFF // 8192) * 32_768


def test_feature_names_are_those_of_e2fsprogs() -> None:
    names = " ".join(feature_names(superblock(s_feature_incompat=0x800002C2)))
    assert names == (
        "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg incompat 0x80000000 "
        "sparse_super large_file huge_file dir_nlink extra_isize metadata_csum"
    )
    everything = superblock(
        s_feature_compat=sum(Compat), s_feature_incompat=sum(Incompat), s_feature_ro_compat=sum(RoCompat)
    )
    assert len(feature_names(everything)) == len(Compat) + len(Incompat) + len(RoCompat)


def test_crc16_check_value() -> None:
    assert crc16(b"123456789", 0) == 0xBB3D  # CRC-16/ARC in the catalogue of CRC algorithms


@pytest.mark.parametrize(("ro_compat", "size"), [(0x46B, 64), (0x46B, 32), (0x7B, 64), (0x7B, 32)])
def test_descriptor_sums_side_by_side_are_those_one_by_one(ro_compat: int, size: int) -> None:
    incompat = 0x2C2 if size == 64 else 0x242
    found = geometry(s_feature_ro_compat=ro_compat, s_feature_incompat=incompat)
    table = bytes(zlib.crc32(bytes([n & 255, n >> 8])) & 255 for n in range(7 * size))
    expected = []
    for index in range(7):
        one = table[index * size : (index + 1) * size]
        number = struct.pack("<I", 1000 + index)
        if found.metadata_csum:
            data = number + one[:0x1E] + bytes(2) + one[0x20:]
            expected.append(raw(data, raw(bytes(range(16)), 0xFFFFFFFF)) & 0xFFFF)
        else:
            expected.append(crc16(bytes(range(16)) + number + one[:0x1E] + one[0x20:], 0xFFFF))
    assert descriptor_sums(found, table, 1000) == expected


def test_no_sums_without_the_features() -> None:
    assert descriptor_sums(geometry(s_feature_ro_compat=0x6B), bytes(64), 0) is None


def test_superblock_sum_leaves_its_own_field_out() -> None:
    data = bytes(range(256)) * 4
    assert superblock_sum(data) == superblock_sum(data[:1020] + b"\0\0\0\0") == raw(data[:1020], 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("bitmap", "count", "expected"),
    [
        (b"\0\0", 16, []),
        (b"\xff\xff", 16, [(0, 16)]),
        (b"\xff\xff", 11, [(0, 11)]),
        (b"\x01\x80", 16, [(0, 1), (15, 16)]),
        (b"\xa5", 8, [(0, 1), (2, 3), (5, 6), (7, 8)]),
        (b"\xf0\x0f", 16, [(4, 12)]),
        (b"\x00\x80", 15, []),
        (b"", 0, []),
    ],
)
def test_runs(bitmap: bytes, count: int, expected: list[tuple[int, int]]) -> None:
    assert list(runs(bitmap, count)) == expected
