"""Whether a file still has all of the disk that its own tables say it holds.

qemu gives zeros for whatever lies behind the end of a file, and none of its commands tells: `qemu-img check`
passes a VDI cut in half, `qemu-img map` says nothing of compressed clusters, of tables that are gone, or of a
file that a disk is spread over. So the tables are followed here, to the highest byte that they lead to.

Only files that qemu has opened come here: it has checked every length in the headers, the blocks of a VHDX,
and that the footer of a streamed VMDK is there. Sources: qemu docs/interop/qcow2.txt, block/vmdk.c and
block/vdi.c; VMware "Virtual Disk Format 5.0"; Microsoft "Virtual Hard Disk Image Format Specification" and
MS-VHDX 2.2.3.
"""

from __future__ import annotations

import struct
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from onebay.base.error import Truncated
from onebay.block.container import (
    DATA_FILE,
    DYNAMIC,
    EXTENT,
    MAX_DESCRIPTOR,
    SECTOR,
    detect,
    footer,
    readable,
)
from onebay.block.file import FileVolume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onebay.block.container import Container
    from onebay.block.volume import Volume

MAX_CHAIN = 64  # files that lead to one another; qemu itself finds those that go in circles
PIECE = 1 << 16  # numbers of a table that are read at once
QCOW2 = struct.Struct(">20xIQIIQ24xQ")  # cluster_bits, size, crypt_method, l1_size, l1_table_offset; features
VERSION_2 = b"\0\0\0\2"
OFFSET = 0x00FFFFFFFFFFFE00
COMPRESSED, ZERO = 1 << 62, 1
EXTENDED_L2 = 0b10000
DATA_FILE_NAME = 0x44415441
VMDK = struct.Struct("<8xIQQ16xI8xQ")  # flags, capacity, grainSize, numGTEsPerGT, gdOffset
AT_END = (1 << 64) - 1
VMDK_ZERO_GRAINS, VMDK_COMPRESSED, VMDK_MARKERS = 1 << 2, 1 << 16, 1 << 17
MARKER = struct.Struct("<QI")  # lba, size of the compressed grain behind it in bytes
VDI = struct.Struct("<340xII20xQI")  # offset_bmap, offset_data, disk_size, block_size
VDI_FREE = 0xFFFFFFFE  # and what follows it
VHD_TABLE = struct.Struct(">16xQ4xII")  # Table Offset, Max Table Entries, Block Size
VHD_FREE = 0xFFFFFFFF
VHDX_REGIONS, VHDX_REGION = 192 << 10, struct.Struct("<16xQII")
MAX_REGIONS = 2047


def refuse_short(path: Path, limit: int, *, depth: int = 0) -> None:
    """Raise Truncated where a file that qemu reads, or one that it leads to, ends before its disk does.

    `limit` are the bytes of the disk that matter. Raises what opening the files raises.
    """
    with closing(FileVolume(path)) as file:
        found = detect(file)
        if found is None:
            return  # nothing says how long a raw disk should be
        ends = ENDS.get(found.kind)
        need = max(ends(file, limit), default=0) if ends else 0
        if need > file.size:
            raise short(file.name, found.kind, need, file.size)
        others = list(spread(path, file, found, limit))
    for other, least in others if depth < MAX_CHAIN else ():
        size = length(other)
        if size is None:
            continue  # a device, or a name that qemu alone understands
        if least > size:
            raise short(str(other), found.kind, least, size)
        if not least:
            refuse_short(other, limit, depth=depth + 1)


def length(path: Path) -> int | None:
    """Return the bytes of an ordinary file, None for anything else."""
    with suppress(OSError, ValueError):
        if path.is_file():
            return path.stat().st_size
    return None


def short(name: str, kind: str, need: int, size: int) -> Truncated:
    """Return the error for a file that ends early."""
    return Truncated(
        f"the {kind} ends early, a part of its disk is missing",
        volume=name,
        at=size,
        expected=f">= {need} bytes",
        found=size,
        hint="copy the file again from where it came",
    )


def numbers(file: Volume, at: int, count: int, code: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield (index of the first, numbers) of a table, as far as the file reaches; `code` is of struct."""
    width = struct.calcsize(code)
    count = min(count, max(file.size - at, 0) // width)
    for first in range(0, count, PIECE):
        part = min(PIECE, count - first)
        raw = file.read(at + first * width, part * width)
        yield first, struct.unpack(f"{code[0]}{part}{code[1]}", raw)


def qcow2_ends(file: Volume, limit: int, *, outside: bool = False) -> Iterator[int]:
    """Yield where tables and those clusters end that may lie behind the end of the file.

    With `outside`, yield where the clusters end in an external data file.
    """
    head = file.read(0, min(QCOW2.size, file.size)).ljust(QCOW2.size, b"\0")
    bits, size, _, count, at, features = QCOW2.unpack(head)
    cluster, size = 1 << bits, min(size, limit)
    if head[4:8] == VERSION_2:
        features = 0
    width = 2 if features & EXTENDED_L2 else 1
    per_table = cluster // (8 * width)
    count = min(count, -(-size // (cluster * per_table)))
    yield at + 8 * count
    seen: set[int] = set()
    for first, entries in numbers(file, at, count, ">Q"):
        for number, entry in enumerate(entries, first):
            table, last = entry & OFFSET, number == count - 1
            if not table or (table in seen and not last):
                continue
            seen.add(table)
            yield table + cluster
            start = number * per_table * cluster
            if bool(features & DATA_FILE) == outside:
                yield from clusters(file, table, (bits, width, 0 if outside else file.size), size - start)


def clusters(file: Volume, table: int, shape: tuple[int, int, int], size: int) -> Iterator[int]:
    """Yield the ends of what an L2 table leads to, where they may lie behind byte `shape[2]`.

    `size` are the bytes of the disk from the table's first cluster on.
    """
    bits, width, beyond = shape
    cluster = 1 << bits
    count = min(cluster // 8, -(-size // cluster) * width)
    low = beyond - cluster
    for first, found in numbers(file, table, count, ">Q"):
        far = [n for n, e in enumerate(found[::width]) if e & OFFSET > low or e & COMPRESSED]
        for number in far:
            bitmap = found[2 * number + 1] if width == 2 else None
            here = (first // width + number) * cluster
            yield cluster_end(found[width * number], bitmap, bits, min(cluster, size - here))


def cluster_end(entry: int, bitmap: int | None, bits: int, size: int) -> int:
    """Return where a cluster with `size` bytes of the disk ends, 0 where it has none."""
    if entry & COMPRESSED:
        shift = 62 - (bits - 8)
        at = entry & ((1 << shift) - 1)
        more = (entry & (COMPRESSED - 1)) >> shift
        return at // SECTOR * SECTOR + (more + 1) * SECTOR
    at = entry & OFFSET
    if bitmap is not None:  # which of its 32 parts are allocated, from the lowest bit on
        return at + min(size, (bitmap & 0xFFFFFFFF).bit_length() << bits - 5) if bitmap & 0xFFFFFFFF else 0
    return at + size if at and not entry & ZERO else 0


def vmdk_ends(file: Volume, limit: int) -> Iterator[int]:
    """Yield where tables and those grains end that may lie behind the end of the file."""
    if file.read(0, 4) != b"KDMV":
        return  # a descriptor alone
    flags, capacity, grain, per_table, at = VMDK.unpack(file.read(0, VMDK.size))
    if at == AT_END:
        flags, capacity, grain, per_table, at = VMDK.unpack(file.read(file.size - 2 * SECTOR, VMDK.size))
    grain, size = grain * SECTOR, min(capacity * SECTOR, limit)
    if not grain or not per_table:
        return
    count = -(-size // (grain * per_table))
    yield at * SECTOR + 4 * count
    beyond = file.size - 2 * grain - MARKER.size  # qemu takes compressed grains up to twice their size
    seen: set[int] = set()
    for first, tables in numbers(file, at * SECTOR, count, "<I"):
        for number, table in enumerate(tables, first):
            if not table or (table in seen and number < count - 1):
                continue
            seen.add(table)
            yield table * SECTOR + 4 * per_table
            start = number * per_table * grain
            wanted = min(per_table, -(-(size - start) // grain))
            for index, grains in numbers(file, table * SECTOR, wanted, "<I"):
                for each, place in enumerate(grains, index):
                    if place * SECTOR > beyond and not (place == 1 and flags & VMDK_ZERO_GRAINS):
                        yield grain_end(file, place * SECTOR, flags, min(grain, size - start - each * grain))


def grain_end(file: Volume, at: int, flags: int, size: int) -> int:
    """Return where a grain with `size` bytes of the disk ends, 0 where there is none."""
    if not at or not flags & VMDK_COMPRESSED:
        return at + size if at else 0
    if not flags & VMDK_MARKERS or at + MARKER.size > file.size:
        return at + MARKER.size
    size = MARKER.unpack(file.read(at, MARKER.size))[1]
    return at + MARKER.size + size


def vdi_ends(file: Volume, limit: int) -> Iterator[int]:
    """Yield where the block map and the blocks end."""
    at, data, size, block = VDI.unpack(file.read(0, VDI.size))
    size = min(size, limit)
    count = -(-size // block) if block else 0
    yield at + 4 * count
    for first, blocks in numbers(file, at, count, "<I"):
        for number, place in enumerate(blocks, first):
            if place < VDI_FREE:
                yield data + place * block + min(block, size - number * block)


def vhd_ends(file: Volume, limit: int) -> Iterator[int]:
    """Yield where the table and the blocks of a dynamic VHD end; a fixed one is known by its end."""
    found = footer(file.read(0, SECTOR))
    if found is None or found[1] != DYNAMIC:
        return
    size = min(found[0], limit)
    header = int.from_bytes(file.read(16, 8), "big")
    at, _, block = VHD_TABLE.unpack(file.read(header, VHD_TABLE.size))
    bitmap = -(-block // (SECTOR * 8 * SECTOR)) * SECTOR
    count = -(-size // block) if block else 0
    yield at + 4 * count
    for first, blocks in numbers(file, at, count, ">I"):
        for number, place in enumerate(blocks, first):
            if place != VHD_FREE:
                yield place * SECTOR + bitmap + min(block, size - number * block)


def vhdx_ends(file: Volume, limit: int) -> Iterator[int]:  # noqa: ARG001
    """Yield where the regions end, and where qemu, which counts sectors, takes the file to end."""
    yield -(-file.size // SECTOR) * SECTOR
    signature, _, count, _ = struct.unpack("<4sIII", file.read(VHDX_REGIONS, 16))
    for number in range(min(count, MAX_REGIONS) if signature == b"regi" else 0):
        at, size, _ = VHDX_REGION.unpack(file.read(VHDX_REGIONS + 16 + 32 * number, VHDX_REGION.size))
        yield at + size


ENDS = {"qcow2": qcow2_ends, "vmdk": vmdk_ends, "vdi": vdi_ends, "vpc": vhd_ends, "vhdx": vhdx_ends}


def spread(path: Path, file: Volume, found: Container, limit: int) -> Iterator[tuple[Path, int]]:
    """Yield the other files of a disk: (path, fewest bytes), 0 where the file itself says how long it is."""
    listed: set[str] = set()
    if found.kind == "qcow2" and (name := data_file(file)):
        yield path.parent / name, max(qcow2_ends(file, limit, outside=True), default=0)
    elif found.kind == "vmdk" and found.others:
        text = file.read(0, min(file.size, MAX_DESCRIPTOR))
        for sectors, kind, raw, at in EXTENT.findall(text):
            listed.add(readable(raw))
            least = (int(sectors[:18]) + int(at[:18] or 0)) * SECTOR if kind in (b"FLAT", b"VMFS") else 0
            yield path.parent / readable(raw), least
    for other in found.others:
        if other not in listed:
            yield path.parent / other, 0


def data_file(file: Volume) -> str:
    """Return the name of a qcow2's external data file, "" where it has none."""
    head = file.read(0, min(file.size, 1 << 16)).ljust(112, b"\0")
    if head[4:8] == VERSION_2 or not int.from_bytes(head[72:80], "big") & DATA_FILE:
        return ""
    at = int.from_bytes(head[100:104], "big")
    while at + 8 <= len(head):
        kind, size = struct.unpack_from(">II", head, at)
        if kind in (0, DATA_FILE_NAME):
            return readable(head[at + 8 : at + 8 + size]) if kind else ""
        at += 8 + -(-size // 8) * 8
    return ""
