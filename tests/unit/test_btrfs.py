"""Checksums, records and chunk arithmetic of btrfs."""

from __future__ import annotations

import hashlib

import pytest
import zstandard

from onebay.base.error import Inconsistent, Truncated
from onebay.base.extent import ExtentSet
from onebay.fs.btrfs.chunk import ChunkMap, Mapping, Place, parse_chunk
from onebay.fs.btrfs.csum import csum, matches, sealed, xxh64
from onebay.fs.btrfs.read import on_devices
from onebay.fs.btrfs.record import CHUNK, INCOMPAT, STRIPE, SUPER, Chunk, Stripe, names, unknown

MIB = 1 << 20


@pytest.mark.parametrize(
    ("data", "seed", "want"),
    [  # from the xxHash project's own sanity tests and documentation
        (b"", 0, 0xEF46DB3751D8E999),
        (b"a", 0, 0xD24EC4F1A98C6E5B),
        (b"abc", 0, 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
        (b"xxhash", 20141025, 0xB559B98D844E0635),
    ],
)
def test_xxh64_vectors(data: bytes, seed: int, want: int) -> None:
    assert xxh64(data, seed) == want


@pytest.mark.parametrize("size", [*range(70), 255, 4064, 16352])
def test_xxh64_agrees_with_zstd(size: int) -> None:
    """The checksum of a zstd frame is the low half of the content's XXH64."""
    data = hashlib.shake_128(size.to_bytes(4, "little")).digest(size)
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    assert xxh64(data) & 0xFFFFFFFF == int.from_bytes(frame[-4:], "little")


@pytest.mark.parametrize("kind", range(4))
def test_sealed_blocks_match(kind: int) -> None:
    block = sealed(kind, b"\xff" * 32 + bytes(range(256)) * 15)
    assert matches(kind, block)
    assert len(block) == 32 + 256 * 15
    assert len(csum(kind, block)) == (4, 8, 32, 32)[kind]
    for at in (0, 32, 1000, len(block) - 1):
        assert not matches(kind, block[:at] + bytes((block[at] ^ 1,)) + block[at + 1 :])


def test_superblock_offsets() -> None:
    """As the table in the kernel's documentation of the on-disk format."""
    for field, at in {
        "fsid": 0x20,
        "magic": 0x40,
        "chunk_root": 0x58,
        "total_bytes": 0x70,
        "nodesize": 0x94,
        "incompat_flags": 0xBC,
        "csum_type": 0xC4,
        "dev_item": 0xC9,
        "label": 0x12B,
        "metadata_uuid": 0x23B,
        "sys_chunk_array": 0x32B,
        "super_roots": 0xB2B,
    }.items():
        assert SUPER.offset(field) == at, field


def test_names_of_bits() -> None:
    assert names(0x40000001, INCOMPAT) == ["mixed-backref", "0x40000000"]
    assert unknown(0x40000001, INCOMPAT) == ["0x40000000"]


def on(devid: int, *places: int) -> tuple[Place, ...]:
    return tuple(Place(devid, place) for place in places)


def chunk(length: int, kind: int, *places: int) -> bytes:
    head = Chunk(length, 2, 65536, kind, 4096, 4096, 4096, len(places), 1)
    return CHUNK.pack(head) + b"".join(STRIPE.pack(Stripe(1, place, b"u" * 16)) for place in places)


def test_parse_chunk() -> None:
    raw = chunk(8 * MIB, 2 | 32, 22 * MIB, 30 * MIB)
    assert parse_chunk(raw, 0, 5 * MIB, 4096) == (
        Mapping(5 * MIB, 13 * MIB, 34, on(1, 22 * MIB, 30 * MIB)),
        len(raw),
    )
    for length in range(len(raw)):
        with pytest.raises(Truncated):
            parse_chunk(raw[:length], 0, 5 * MIB, 4096)


@pytest.mark.parametrize(
    "raw",
    [
        chunk(0, 1, MIB),
        chunk(MIB + 1, 1, MIB),
        chunk(MIB, 1, MIB + 512),
        chunk(MIB, 1, (1 << 64) - 4096),
        chunk(MIB, 1, MIB, 3 * MIB),
        chunk(MIB, 1 | 32, MIB),
    ],
    ids=["empty", "length", "place", "beyond", "single-of-two", "dup-of-one"],
)
def test_bad_chunks(raw: bytes) -> None:
    with pytest.raises(Inconsistent):
        parse_chunk(raw, 0, MIB, 4096)


def test_map_places() -> None:
    chunks = ChunkMap(
        [
            Mapping(20 * MIB, 24 * MIB, 1, on(1, 100 * MIB)),
            Mapping(8 * MIB, 10 * MIB, 36, on(1, 50 * MIB, 2 * MIB)),
            Mapping(30 * MIB, 31 * MIB, 9, on(1, 70 * MIB)),
        ]
    )
    assert chunks.places(9 * MIB, 4096) == on(1, 51 * MIB, 3 * MIB)
    assert chunks.places(24 * MIB - 4096, 4096) == on(1, 104 * MIB - 4096)
    for at in (0, 10 * MIB, 24 * MIB - 1, 25 * MIB, 1 << 63):
        with pytest.raises(Inconsistent):
            chunks.places(at, 4096)
    with pytest.raises(Inconsistent, match="raid0"):
        chunks.places(30 * MIB, 4096)


def test_extents_map_to_every_copy_in_device_order() -> None:
    chunks = ChunkMap(
        [
            Mapping(10 * MIB, 12 * MIB, 36, on(1, 50 * MIB, 2 * MIB)),
            Mapping(12 * MIB, 14 * MIB, 1, on(1, 4 * MIB)),
        ]
    )
    extents = ExtentSet.of([(11 * MIB, 13 * MIB)])  # touches across the border of two chunks
    want = ExtentSet.of([(3 * MIB, 5 * MIB), (51 * MIB, 52 * MIB)])
    assert on_devices(extents, chunks) == {1: want}
    with pytest.raises(Inconsistent):
        on_devices(ExtentSet.of([(13 * MIB, 15 * MIB)]), chunks)


def test_overlaps_are_refused() -> None:
    with pytest.raises(Inconsistent, match="chunks overlap"):
        ChunkMap([Mapping(0, 2 * MIB, 1, on(1, 0)), Mapping(MIB, 3 * MIB, 1, on(1, 9 * MIB))])
    chunks = ChunkMap([Mapping(0, 2 * MIB, 36, on(1, 0, MIB))])
    with pytest.raises(Inconsistent, match="stripes overlap"):
        chunks.stripes()
