"""Pure parts of XFS: records, feature names, cycles of the log."""

from __future__ import annotations

import pytest

from onebay.fs.xfs import features
from onebay.fs.xfs.log import cycle_of, header_blocks, last_record, why_no_unmount
from onebay.fs.xfs.record import (
    AGF,
    BTREE_BLOCK,
    BTREE_BLOCK_CRC,
    LOG_RECORD,
    SUPERBLOCK,
    Incompat,
    RoCompat,
)

UUID = bytes(range(16))


@pytest.mark.parametrize("layout", [SUPERBLOCK, AGF, BTREE_BLOCK, BTREE_BLOCK_CRC, LOG_RECORD])
def test_records_keep_every_byte(layout) -> None:
    raw = bytes((7 * n + 3) % 256 for n in range(layout.size))
    assert layout.pack(layout.unpack(raw)) == raw


def test_offsets_that_the_kernel_asserts() -> None:
    # fs/xfs/libxfs/xfs_ondisk.h: sizes of xfs_agf 224, xfs_dsb 264 (v5), crc places of xfs_format.h
    assert (SUPERBLOCK.offset("sb_crc"), AGF.offset("agf_crc")) == (224, 216)
    assert BTREE_BLOCK.size + BTREE_BLOCK_CRC.offset("bb_crc") == 52
    assert (LOG_RECORD.offset("h_fs_uuid"), LOG_RECORD.offset("h_size")) == (304, 320)


def test_every_unknown_bit_is_named() -> None:
    for bit in range(32):
        sb = SUPERBLOCK.unpack(
            SUPERBLOCK.pack(SUPERBLOCK.unpack(bytes(264)), sb_versionnum=5, sb_features_incompat=1 << bit)
        )
        known = bit in (0, 1, 2, 3, 5, 6, 7, 8)
        named = features.unknown(sb)
        assert named == [] if known or bit == 4 else len(named) == 1
        assert len(features.feature_names(sb)) == 1
    assert features.names(0x8000_0200, Incompat) == ["zoned", "0x80000000"]
    assert features.names(0x11, RoCompat) == ["finobt", "0x10"]


def block(cycle: int, *, record: bool = False) -> bytes:
    words = (0xFEEDBABE, cycle) if record else (cycle, 0)
    return b"".join(word.to_bytes(4, "big") for word in words).ljust(512, b"\0")


def test_cycles() -> None:
    assert cycle_of(block(7)) == 7
    assert cycle_of(block(9, record=True)) == 9
    assert last_record(block(1, record=True) + block(1) + block(1)) == 0
    assert last_record(block(1) * 3) is None


def unmount(**changes: int | bytes) -> bytes:
    blank = LOG_RECORD.unpack(bytes(512))
    fields = {"h_magicno": 0xFEEDBABE, "h_cycle": 1, "h_version": 2, "h_len": 512, "h_num_logops": 1}
    header = LOG_RECORD.pack(blank, **{**fields, "h_fs_uuid": UUID, "h_size": 32768, **changes})
    data = bytearray(block(1))
    data[9] = 0x20
    return header.ljust(512, b"\0") + bytes(data)


def test_an_unmount_record_is_exact() -> None:
    assert why_no_unmount(unmount(), UUID) is None
    assert why_no_unmount(unmount(), bytes(15) + b"\1") is not None
    assert why_no_unmount(unmount(h_len=1024), UUID) is not None
    assert why_no_unmount(unmount(h_len=0), UUID) is not None
    assert why_no_unmount(unmount(h_num_logops=2), UUID) is not None
    assert why_no_unmount(unmount(h_size=65536), UUID) is not None
    assert why_no_unmount(unmount()[:521] + b"\0" + unmount()[522:], UUID) is not None


def test_long_headers() -> None:
    sizes = {0: 1, 32768: 1, 65536: 2, 262144: 8}
    for size, blocks in sizes.items():
        assert header_blocks(LOG_RECORD.unpack(unmount(h_size=size))) == blocks
        assert header_blocks(LOG_RECORD.unpack(unmount(h_size=size, h_version=1))) == 1
