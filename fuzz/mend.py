"""Make checksums right again after fields were changed, so that what they cover is looked at.

Every function gets the disk and the places that the parser read of the unchanged seed.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

from onebay.base.error import Error
from onebay.fs.btrfs.csum import CSUMS, sealed
from onebay.fs.btrfs.record import SUPER_PLACES, SUPER_SIZE
from onebay.fs.crc32c import raw
from onebay.fs.ext.checksum import descriptor_sums, superblock_sum
from onebay.fs.ext.geometry import compute
from onebay.fs.ext.read import CSUM_HI_END, parse_group, read_descriptors
from onebay.fs.ext.record import GROUP_DESC, GROUP_DESC_HIGH
from onebay.fs.ext.record import SUPER as EXT_SUPER
from onebay.fs.xfs.freespace import stored_sum
from onebay.fs.xfs.record import AGF, SUPERBLOCK
from onebay.stack.luks import LUKS2
from onebay.stack.lvm.record import crc
from onebay.stack.md.record import checksum0, checksum1

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.disk import Disk
    from onebay.fs.ext.geometry import Geometry

    Places = list[tuple[int, int]]
    Mender = Callable[[Disk, Places], None]

MAX_ARRAY = 1 << 20
MAX_GROUPS = 256
MD_MAGIC = bytes.fromhex("fc4e2ba9")


def number(disk: Disk, at: int, size: int) -> int:
    """Read a little-endian number."""
    return int.from_bytes(disk.peek(at, size), "little")


def little(value: int, size: int = 4) -> bytes:
    """Pack a checksum."""
    return (value % (1 << 8 * size)).to_bytes(size, "little")


def gpt(disk: Disk, places: Places) -> None:
    """Mend every GPT header that is where one was read, and the sum of its array."""
    sector = disk.sector_size
    for at in {sector, disk.size - sector, *(at for at, size in places if size in (512, 4096))}:
        if at < 0 or disk.peek(at, 8) != b"EFI PART":
            continue
        size = number(disk, at + 12, 4)
        array = number(disk, at + 72, 8) * sector
        length = number(disk, at + 80, 4) * number(disk, at + 84, 4)
        if length <= MAX_ARRAY and array + length <= disk.size:
            disk.put(at + 88, little(zlib.crc32(disk.peek(array, length))))
        if 92 <= size <= sector:
            disk.put(at + 16, bytes(4))
            disk.put(at + 16, little(zlib.crc32(disk.peek(at, size))))


def md(disk: Disk, places: Places) -> None:
    """Mend md superblocks of both versions."""
    for at in {at for at, size in places if size >= 256}:
        block = disk.peek(at, 4096)
        if block[:4] != MD_MAGIC:
            continue
        if block[4:8] == bytes(4):
            disk.put(at + 152, little(checksum0(block)))
        elif block[4:8] == b"\1\0\0\0" and (devices := int.from_bytes(block[220:224], "little")) <= 1920:
            disk.put(at + 216, little(checksum1(block, devices)))


def lvm(disk: Disk, places: Places) -> None:
    """Mend LVM labels, metadata areas and texts."""
    for base in {at for at, _ in places}:
        for at in range(base, base + 2048, 512):
            if disk.peek(at, 8) == b"LABELONE":
                disk.put(at + 16, little(crc(disk.peek(at + 20, 492))))
        if b"LVM2 x[5A%r0N*>" not in disk.peek(base, 32):
            continue
        length, offset, size = (number(disk, base + at, 8) for at in (32, 40, 48))
        if 512 <= offset < length <= disk.size and size <= min(length - 512, MAX_ARRAY):
            first = min(size, length - offset)
            text = disk.peek(base + offset, first) + disk.peek(base + 512, size - first)
            disk.put(base + 56, little(crc(text)))
        disk.put(base, little(crc(disk.peek(base + 4, 508))))


def ext(disk: Disk, places: Places) -> None:  # noqa: ARG001
    """Mend the superblock, then the descriptors and bitmaps that it leads to."""
    disk.put(1024 + EXT_SUPER.offset("s_checksum"), little(superblock_sum(disk.peek(1024, 1024))))
    try:
        geometry = compute(EXT_SUPER.unpack(disk.peek(1024, 1024)))
        if geometry.groups <= MAX_GROUPS:
            for first, count, table in read_descriptors(disk, geometry):
                fresh = descriptors(disk, geometry, bytearray(table), range(first, first + count))
                disk.put(geometry.desc_block(first // geometry.descs_per_block) * geometry.block_size, fresh)
    except Error:
        return


def descriptors(disk: Disk, geometry: Geometry, table: bytearray, groups: range) -> bytes:
    """Return group descriptors with the sums of bitmaps, and then their own, right."""
    for index, group in enumerate(groups):
        at = index * geometry.desc_size
        bitmap = parse_group(bytes(table), at, group, geometry)[0].block_bitmap * geometry.block_size
        if geometry.metadata_csum and bitmap < disk.size:
            bits = geometry.group_blocks // geometry.cluster_blocks
            value = raw(disk.peek(bitmap, bits // 8), geometry.csum_seed)
            low = at + GROUP_DESC.offset("bg_block_bitmap_csum_lo")
            table[low : low + 2] = little(value, 2)
            if geometry.desc_size >= CSUM_HI_END:
                high = at + GROUP_DESC.size + GROUP_DESC_HIGH.offset("bg_block_bitmap_csum_hi")
                table[high : high + 2] = little(value >> 16, 2)
    for index, value in enumerate(descriptor_sums(geometry, bytes(table), groups.start) or []):
        at = index * geometry.desc_size + GROUP_DESC.offset("bg_checksum")
        table[at : at + 2] = little(value, 2)
    return bytes(table)


def btrfs(disk: Disk, places: Places) -> None:
    """Mend superblocks and the tree blocks that were read and changed."""
    kind = number(disk, SUPER_PLACES[0] + 0xC4, 2)
    if kind >= len(CSUMS):
        return
    for at, size in places:
        pages = range(at // 4096, (at + size + 4095) // 4096)
        if size < SUPER_SIZE or size > 65536 or not any(page in disk.changed for page in pages):
            continue
        disk.put(at, sealed(kind, disk.peek(at, size)))


def xfs(disk: Disk, places: Places) -> None:
    """Mend superblocks, AGF headers and blocks of the free space btree."""
    sums = {
        b"XFSB": SUPERBLOCK.offset("sb_crc"),
        b"XAGF": AGF.offset("agf_crc"),
        b"AB3B": 52,
    }
    for at, size in places:
        crc_at = sums.get(disk.peek(at, 4))
        if crc_at is not None and crc_at + 4 <= size:
            disk.put(at + crc_at, little(stored_sum(disk.peek(at, size), crc_at)[1]))


def luks(disk: Disk, places: Places) -> None:
    """Mend both headers of LUKS2."""
    for at in {at for at, _ in places}:
        if disk.peek(at, 6) not in (b"LUKS\xba\xbe", b"SKUL\xba\xbe") or disk.peek(at + 6, 2) != b"\0\2":
            continue
        header = LUKS2.unpack(disk.peek(at, LUKS2.size))
        algorithm = header.checksum_alg.split(b"\0")[0].decode("latin-1")
        if algorithm in hashlib.algorithms_guaranteed and not algorithm.startswith("shake"):
            size = min(header.hdr_size, 4 << 20)
            area = disk.peek(at + LUKS2.size, max(0, size - LUKS2.size))
            digest = hashlib.new(algorithm, LUKS2.pack(header, csum=bytes(64)) + area).digest()
            disk.put(at + LUKS2.offset("csum"), digest)


def everything(disk: Disk, places: Places) -> None:
    """Mend whatever is known and lies where the parsers look; partitions included."""
    for mender in (md, lvm, luks, gpt, btrfs_anywhere, xfs, ext_anywhere):
        mender(disk, places)


def btrfs_anywhere(disk: Disk, places: Places) -> None:
    """Mend the superblocks of btrfs, wherever the volume starts."""
    for at in {at for at, size in places if size == SUPER_SIZE}:
        if disk.peek(at + 64, 8) == b"_BHRfS_M" and (kind := number(disk, at + 0xC4, 2)) < len(CSUMS):
            disk.put(at, sealed(kind, disk.peek(at, SUPER_SIZE)))


def ext_anywhere(disk: Disk, places: Places) -> None:
    """Mend the superblocks of ext, wherever the volume starts."""
    for at in {at for at, size in places if size == 1024}:
        if disk.peek(at + 56, 2) == b"\x53\xef":
            disk.put(at + EXT_SUPER.offset("s_checksum"), little(superblock_sum(disk.peek(at, 1024))))
