"""What stands beside an export: the block map of bmaptool, and SHA256SUMS.

Source: bmap-tools 3.6, bmaptool/BmapCreate.py (template of version 2.0) and BmapCopy.py (what it checks).
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from onebay.base.error import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.extent import ExtentSet
    from onebay.block import Volume

BLOCK = 4096
GRID = 64 << 10  # ranges start and end at multiples of this, lest a disk has millions of them
CHUNK = 4 << 20
MAX_SUMS = 1 << 20
NO_SUM = "0" * 64


def write_bmap(path: Path, view: Volume, mapped: ExtentSet) -> None:
    """Write the block map, version 2.0, of a disk whose bytes `mapped` must be written, zeros among them.

    Blocks that are not in the map do not matter: bmaptool leaves on its target what was there.
    """
    ranges: list[str] = []
    blocks = 0
    for start, end in mapped.align(GRID).clip(0, -(-view.size // BLOCK) * BLOCK):
        first, last = start // BLOCK, -(-end // BLOCK) - 1
        blocks += last - first + 1
        place = f"{first}-{last}" if last > first else str(first)
        ranges.append(f'        <Range chksum="{view_sum(view, start, end)}"> {place} </Range>\n')
    text = (
        '<?xml version="1.0" ?>\n'
        "<!-- The raw disk can be written with bmaptool, which leaves out what is not in this map. -->\n"
        '<bmap version="2.0">\n'
        f"    <ImageSize> {view.size} </ImageSize>\n"
        f"    <BlockSize> {BLOCK} </BlockSize>\n"
        f"    <BlocksCount> {-(-view.size // BLOCK)} </BlocksCount>\n"
        f"    <MappedBlocksCount> {blocks} </MappedBlocksCount>\n"
        "    <ChecksumType> sha256 </ChecksumType>\n"
        f"    <BmapFileChecksum> {NO_SUM} </BmapFileChecksum>\n"
        "    <BlockMap>\n" + "".join(ranges) + "    </BlockMap>\n</bmap>\n"
    )
    # the map's own checksum is that of the map with zeros in its place
    own = sha256(text.encode()).hexdigest()
    path.write_text(text.replace(NO_SUM, own, 1), "ascii")


def view_sum(view: Volume, start: int, end: int) -> str:
    """Return the SHA-256 of `start..end`, cut off at the disk's end."""
    digest = sha256()
    end = min(end, view.size)
    for at in range(start, end, CHUNK):
        digest.update(view.read(at, min(CHUNK, end - at)))
    return digest.hexdigest()


def file_sum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def write_sums(listing: Path, part: Path, hashes: dict[str, str]) -> None:
    """Write to `part` what `listing` says, with the sums of the files in `hashes`; raises Refused."""
    lines: list[str] = []
    if listing.exists():
        if not listing.is_file() or listing.stat().st_size > MAX_SUMS:
            raise Refused("not a list of checksums", volume=str(listing))
        lines = listing.read_text("utf-8", "surrogateescape").splitlines()
    # coreutils: 64 digits, a space, a space or a star, the name
    kept = [line for line in lines if line[66:] not in hashes]
    kept += [f"{digest}  {name}" for name, digest in hashes.items()]
    part.write_text("".join(f"{line}\n" for line in kept), "utf-8", "surrogateescape")
