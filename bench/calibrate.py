"""Fixed work to measure a machine by: `data` is zstd, SHA-256 and writing, `python` the language."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from hashlib import sha256

import zstandard

MIB = 1 << 20


def data() -> None:
    """Do what capture and restore spend their time with."""
    rng = random.Random(8)
    words = [rng.randbytes(rng.randint(2, 9)) for _ in range(2000)]
    block = b"".join(rng.choices(words, k=MIB // 4)) + rng.randbytes(MIB // 2)
    pack, unpack = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    with tempfile.TemporaryFile() as file:
        for _ in range(60):
            stored = pack.compress(block)
            sha256(block)
            sha256(stored)
            file.write(unpack.decompress(stored))


def python() -> None:
    """Do what starting and planning spend their time with."""
    total = 0
    for number in range(60_000):
        fields = {"at": number, "size": number * 512, "name": f"p{number}"}
        total += len(json.dumps(fields)) + hash(tuple(sorted(fields)))
    assert total


if __name__ == "__main__":
    {"data": data, "python": python}[sys.argv[1]]()
