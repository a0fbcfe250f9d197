"""CRC-32C: published vectors, the bitwise definition, and the arithmetic that makes it fast."""

import random
import time

import pytest

from onebay.fs.crc32c import GENERATOR, SPARSE, crc32c, raw

# RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms (CRC-32/ISCSI).
VECTORS = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c000000000000000000000000000001400000000000400000000140000001828000000000000000200000000000000"
        ),
        0xD9963A56,
    ),
]


def slow(data: bytes, seed: int = 0) -> int:
    """The definition, one bit at a time."""
    value = seed ^ 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (GENERATOR if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("terms", SPARSE)
def test_sparse_polynomials_are_multiples_of_the_generator(terms: tuple[int, ...]) -> None:
    power, powers = 1, []
    for _ in range(terms[0] + 1):
        powers.append(power)
        power = (power << 1) ^ (0x11EDC6F41 if power >> 31 else 0)
    total = 0
    for term in terms:
        total ^= powers[term]
    assert total == 0
    assert terms[1] * 2 <= terms[0]


def test_every_length_equals_the_definition() -> None:
    noise = random.Random(1).randbytes(6000)
    for size in [*range(160), 700, 711, 712, 713, 1023, 1024, 1025, 1431, 4092, 4096, 5999]:
        assert crc32c(noise[:size]) == slow(noise[:size]), size


def test_seed_chains_over_chunk_borders() -> None:
    noise = random.Random(2).randbytes(200_001)
    whole = slow(noise)
    assert crc32c(noise) == whole
    for cut in (0, 1, 7, 65535, 65536, 65537, 131073, 200_001):
        assert crc32c(memoryview(noise)[cut:], crc32c(noise[:cut])) == whole


def test_raw_is_the_register_without_inversions() -> None:
    assert raw(b"123456789", 0xFFFFFFFF) == 0xE3069283 ^ 0xFFFFFFFF
    assert raw(b"", 0x1234) == 0x1234


def test_fast_enough_for_metadata() -> None:
    block = random.Random(3).randbytes(4096)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(200):
            crc32c(block)
        best = max(best, 200 * 4096 / (time.perf_counter() - start))
    assert best > 15e6
