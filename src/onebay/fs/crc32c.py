"""CRC-32C (Castagnoli, RFC 3720 appendix B.4), fast without a C extension.

A CRC is the remainder of a polynomial over GF(2). Python's large integers shift and xor quickly, so the data,
taken as one integer, is first reduced by *sparse multiples* of the generator: any x^a + x^b + .. + 1 that the
generator divides may be subtracted anywhere, and so may its squares x^2a + x^2b + .. + 1, to any power. Each
round halves the data with a few shifts; the last bytes go through the usual table. 200 MB/s on long data, 130
on 4 KiB.

SPARSE was found by a search over all sums of 4 and of 6 powers; tests/unit/test_crc32c.py proves it anew.
"""

from __future__ import annotations

GENERATOR = 0x82F63B78  # reflected: bit 31 is x^0
# Exponents of multiples of the generator; highest first, the second at most half of it.
SPARSE = ((5685, 1362, 426, 0), (290, 136, 113, 107, 32, 0))
CHUNK = 1 << 16
ALL = 0xFFFFFFFF


def table() -> tuple[int, ...]:
    """Return the remainders of all bytes."""
    entries = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (GENERATOR if byte & 1 else 0)  # noqa: PLW2901
        entries.append(byte)
    return tuple(entries)


TABLE = table()


def reduce(value: int, bits: int) -> tuple[int, int]:
    """Shorten a reflected polynomial of `bits` bits, bit 0 first, to one of the same remainder."""
    for terms in SPARSE:
        top, second = terms[0], terms[1]
        power = max(bits // top, 1).bit_length() - 1
        while power >= 0:
            if bits <= (top << power) + 64:
                power -= 1
                continue
            count = min((top - second) << power, bits - (top << power)) & ~7
            low = value & ((1 << count) - 1)
            value >>= count
            bits -= count
            for term in terms[1:]:
                value ^= low << (((top - term) << power) - count)
    return value, bits


def raw(data: bytes | bytearray | memoryview, state: int) -> int:
    """Return the CRC register after `data`, without the inversions; `state` is the register before.

    This is the kernel's crc32c() (include/linux/crc32c.h), which ext4 starts with ~0 and does not invert.
    """
    view = memoryview(data)
    for at in range(0, len(view), CHUNK):
        part = view[at : at + CHUNK]
        value, bits = reduce(int.from_bytes(part, "little") ^ state, len(part) * 8 + 32)
        for _ in range((bits - 32) // 8):
            value = (value >> 8) ^ TABLE[value & 0xFF]
        state = value
    return state


def crc32c(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """Return the CRC-32C of `data`; `seed` is the CRC of what came before it, as in zlib.crc32."""
    return raw(data, seed ^ ALL) ^ ALL
