"""Folded disks to start from: kept as their pages, for a disk of 12 GiB unpacks too slowly as a stream.

A file is zstd of the size and sector size of the disk, then of (page number, page) of every page that is not
zero; numbers are little-endian, of eight bytes.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import zstandard

from fuzz.disk import PAGE, Seed
from onebay.block import open_disk

FOLDER = Path(__file__).parent / "folded"
HEAD = struct.Struct("<QQ")
NUMBER = struct.Struct("<Q")
LOST = 16 << 20  # bytes; more than a kit of the tests takes, and less than lies before the backup GPT


def unpack(name: str) -> Seed:
    """Read the seed `folded/NAME`; raises FileNotFoundError."""
    packed = (FOLDER / f"{name}.pages.zst").read_bytes()
    data = zstandard.ZstdDecompressor().decompress(packed)
    size, sector_size = HEAD.unpack_from(data)
    pages = {
        NUMBER.unpack_from(data, at)[0]: data[at + NUMBER.size : at + NUMBER.size + PAGE]
        for at in range(HEAD.size, len(data), NUMBER.size + PAGE)
    }
    return Seed(f"folded/{name}", (size,), sector_size, pages)


def pack(disk: Path, without: range) -> bytes:
    """Return what `unpack` reads of a disk image with sectors of 512 bytes, leaving out a range of bytes."""
    volume = open_disk(disk)
    out = bytearray(HEAD.pack(volume.size, volume.sector_size))
    for start, end in volume.data(0, volume.size):
        for number in range(start // PAGE, -(-end // PAGE)):
            if number * PAGE in without:
                continue
            page = volume.read(number * PAGE, min(PAGE, volume.size - number * PAGE)).ljust(PAGE, b"\0")
            if page.strip(b"\0"):
                out += NUMBER.pack(number) + page
    volume.close()
    return zstandard.ZstdCompressor(level=19).compress(bytes(out))


def main() -> None:
    """Make the seeds anew: PYTHONPATH=tests/op python -m fuzz.folded (needs the tools of the tests).

    One keeps the copy of its boot kit in the tail; the other has lost it, and is half as large.
    """
    import repairkit  # type: ignore[import-not-found]  # noqa: PLC0415

    FOLDER.mkdir(exist_ok=True)
    for name in ("v8-mbr", "v9-gpt"):
        with tempfile.TemporaryDirectory() as scratch:
            disk = repairkit.build(Path(scratch) / name, name)
            tail = disk.places["tail"]
            packed = pack(disk.path, range(tail, tail + LOST if name == "v9-gpt" else tail))
        (FOLDER / f"{name}.pages.zst").write_bytes(packed)


if __name__ == "__main__":
    main()
