"""Look into a GRUB core: which modules it has, and the configuration that tells what it looks for.

Sources: grub 2.06: include/grub/i386/pc/boot.h and kernel.h, util/mkimage.c (where a core keeps its LZMA
stream: raw LZMA1, lc 3, lp 0, pb 2), include/grub/kernel.h (module headers); PE/COFF specification 8.3
(section headers). A core of another build with other offsets is "not readable", not damaged.
"""

from __future__ import annotations

import lzma
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.extent import ExtentSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import Volume

SECTOR = 512
BLOCK_LIST = SECTOR - 12
KERNEL_SECTOR = 0x5C
SEGMENT = 0x820
MAX_CORE = 2 << 20
MAX_PLAIN = 1 << 20
MODULE_MAGIC = b"mimg"
MODULE, CONFIG, PREFIX = 0, 2, 3
# decompressor header, in bytes from the start of the core's second sector
COMPRESSED_SIZE, PLAIN_SIZE = 0x08, 0x0C
# where its end can be, in bytes from the start of the core
DECOMPRESSOR = (SECTOR + 0x400, SECTOR + 0x2000)
FILTER = {"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 1 << 20}


@dataclass(frozen=True, slots=True)
class Core:
    """What a core says: `config` is its embedded configuration, `prefix` where it looks for modules."""

    config: str
    prefix: str
    modules: int

    @property
    def uuid(self) -> str:
        """The file system UUID that the embedded configuration searches for, "" for none."""
        for line in self.config.splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "search.fs_uuid":
                return words[1]
        return ""


def bios_core(disk: Volume, code: bytes) -> tuple[bytes, str]:
    """Return the core that GRUB's boot code `code` (LBA 0) would load, and "", or b"" and what is wrong.

    The disk's 512-byte sectors are meant, as BIOS counts them.
    """
    first = struct.unpack_from("<Q", code, KERNEL_SECTOR)[0]
    if not 0 < first * SECTOR <= disk.size - SECTOR:
        return b"", f"boot code points at sector {first}, beyond the disk"
    head = disk.read(first * SECTOR, SECTOR)
    core = bytearray(head)
    for number, (start, count, segment) in enumerate(block_list(head)):
        end = (start + count) * SECTOR
        if (number == 0 and segment != SEGMENT) or end > disk.size or len(core) > MAX_CORE:
            return b"", f"no GRUB core at sector {first}, where the boot code points"
        core += disk.read(start * SECTOR, count * SECTOR)
    if len(core) == SECTOR or not any(core[SECTOR : 2 * SECTOR]):
        return b"", f"no GRUB core at sector {first}, where the boot code points"
    return bytes(core), ""


def block_list(head: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (first sector, sectors, segment) of what a core's first sector loads."""
    for at in range(BLOCK_LIST, 0x100, -12):  # the list grows downwards and ends with a length of zero
        start, count, segment = struct.unpack_from("<QHH", head, at)
        if count == 0:
            return
        yield start, count, segment


def core_extents(head: bytes, first: int) -> ExtentSet:
    """Return the bytes of the core whose first sector, number `first`, is `head`."""
    rest = [(start * SECTOR, (start + count) * SECTOR) for start, count, _ in block_list(head)]
    return ExtentSet.of([(first * SECTOR, (first + 1) * SECTOR), *rest])


def read_bios_core(core: bytes) -> Core | None:
    """Unpack a core and read its module headers; None where it is damaged or of an unknown make."""
    if len(core) < 3 * SECTOR:
        return None
    packed, plain = struct.unpack_from("<II", core, SECTOR + COMPRESSED_SIZE)
    if not 0 < packed <= len(core) or not 0 < plain <= MAX_PLAIN:
        return None
    # the stream follows the decompressor, whose size differs by build; every LZMA stream begins with a zero
    for at in range(DECOMPRESSOR[0], min(DECOMPRESSOR[1], len(core) - packed + 1)):
        if core[at] == 0 and any(core[at + 1 : at + 5]):  # a cleared core would decode at length to nothing
            found = unpack(core[at : at + packed], plain)
            if found is not None:
                return found
    return None


def unpack(stream: bytes, plain: int) -> Core | None:
    """Decompress one candidate for the LZMA stream; None where it is none."""
    try:
        data = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=[FILTER]).decompress(stream, plain)
    except (lzma.LZMAError, EOFError):
        return None
    return read_modules(data) if len(data) >= plain - 16 else None


def read_modules(data: bytes) -> Core | None:
    """Read the module headers in a plain core or in a PE section; None where there are none.

    The magic also stands in GRUB's own code, so its other fields must fit too.
    """
    start = data.find(MODULE_MAGIC)
    while start >= 0:
        # struct grub_module_info32 or 64: magic, (padding,) offset of the first header, size of everything
        for form, length in (("<4xII", 12), ("<8xQQ", 24)):
            if start + length <= len(data):
                offset, size = struct.unpack_from(form, data, start)
                if offset == length and length < size <= len(data) - start:
                    return read_headers(data[start + offset : start + size])
        start = data.find(MODULE_MAGIC, start + 1)
    return None


def read_headers(data: bytes) -> Core | None:
    """Read consecutive module headers; None where one is broken, for then the core is damaged."""
    config = prefix = ""
    at = count = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if length < 8 or at + length > len(data):
            return None
        body = data[at + 8 : at + length].split(b"\0", 1)[0] if kind in (CONFIG, PREFIX) else b""
        if kind == CONFIG:
            config = body.decode("utf-8", "replace")
        elif kind == PREFIX:
            prefix = body.decode("utf-8", "replace")
        elif kind == MODULE:
            count += 1
        at += length
    return Core(config, prefix, count)


def pe_machine(data: bytes) -> int | None:
    """Return the machine type of a PE program, None where it is none."""
    if len(data) < 64 or data[:2] != b"MZ":
        return None
    at = struct.unpack_from("<I", data, 60)[0]
    if at + 24 > len(data) or data[at : at + 4] != b"PE\0\0":
        return None
    return int(struct.unpack_from("<H", data, at + 4)[0])


def read_efi_core(data: bytes) -> Core | None:
    """Read the module headers of a GRUB for UEFI (PE section "mods"); None where it is not GRUB."""
    if pe_machine(data) is None:
        return None
    at = struct.unpack_from("<I", data, 60)[0]
    count, optional = struct.unpack_from("<H", data, at + 6)[0], struct.unpack_from("<H", data, at + 20)[0]
    first = at + 24 + optional
    for header in range(first, min(first + 40 * min(count, 96), len(data) - 40 + 1), 40):
        if data[header : header + 8].rstrip(b"\0") == b"mods":
            size, start = struct.unpack_from("<II", data, header + 16)
            return read_modules(data[start : start + size])
    return None
