"""Whose bytes stand where a GPT and GRUB's core are to go: what nobody is known to own is not overwritten.

Boot loaders, disk managers and licence keepers use the sectors behind LBA 0 without any table saying so. Free
to be overwritten are zeros, a GRUB core, and what a conversion that was cut left there.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.base.extent import ExtentSet
from onebay.boot.core import KERNEL_SECTOR, bios_core, core_extents
from onebay.table.gpt.record import ENTRY, SIGNATURE, guid_text
from onebay.table.kinds import BIOS_BOOT

if TYPE_CHECKING:
    from onebay.block import Volume
    from onebay.table import Gap, MbrTable

SECTOR = 512
ARRAY = 128 * 128  # bytes of the entries that the GPT will have
TRIES = 256  # places that are looked at in a gap
GRUB = b"GRUB "  # in boot.img, and in no other boot code that points to a core
HINT = "if nothing needs it, overwrite it with zeros (dd), then convert"


def refuse_occupied(disk: Volume, table: MbrTable) -> None:
    """Raise Refused where the sectors of the primary GPT, behind LBA 0, hold what nobody is known to own."""
    end = min(part.start for part in table.partitions) if table.partitions else disk.size
    raw = disk.read(0, min(2 * disk.sector_size + ARRAY, end))
    grub = grub_sectors(disk)
    for at in range(disk.sector_size, len(raw), SECTOR):
        piece = raw[at : at + SECTOR]
        if not any(piece) or grub.covers(at, at + SECTOR):
            continue
        if at < 2 * disk.sector_size:
            fine = piece.startswith(SIGNATURE)  # of an interrupted conversion
        else:
            fine = all(is_entry_of(piece[skip : skip + ENTRY.size], table) for skip in range(0, SECTOR, 128))
        if not fine:
            raise occupied(disk, at)


def refuse_foreign(disk: Volume, start: int, core: bytes) -> None:
    """Raise Refused where GRUB's `core` would overwrite, at byte `start`, what is no part of a GRUB."""
    grub = grub_sectors(disk)
    there = disk.read(start, len(core))
    for at in range(0, len(core), SECTOR):
        piece = there[at : at + SECTOR]
        mine = piece == core[at : at + SECTOR] or grub.covers(start + at, start + at + SECTOR)
        if any(piece) and not mine:
            raise occupied(disk, start + at)


def occupied(disk: Volume, at: int) -> Refused:
    """Return the refusal of a sector that somebody uses."""
    return Refused(
        "something that is neither GRUB nor a GPT stands before the first partition, where the GPT or "
        "GRUB's core has to go",
        volume=disk.name,
        at=at,
        hint=HINT,
    )


def grub_sectors(disk: Volume) -> ExtentSet:
    """Return the sectors of the core that boot code points to, and of the one at sector 1, where it was."""
    code = disk.read(0, SECTOR)
    places = {1, struct.unpack_from("<Q", code, KERNEL_SECTOR)[0]} if GRUB in code else {1}
    found = ExtentSet()
    for first in places:
        pointer = bytearray(SECTOR)
        struct.pack_into("<Q", pointer, KERNEL_SECTOR, first)
        core, _ = bios_core(disk, bytes(pointer))
        if core:
            found |= core_extents(core[:SECTOR], first)
    return found


def is_entry_of(raw: bytes, table: MbrTable) -> bool:
    """Whether 128 bytes are an entry that a conversion of `table` writes, or zeros."""
    if not any(raw):
        return True
    entry, sector = ENTRY.unpack(raw), table.volume.sector_size
    place = (entry.starting_lba * sector, entry.end_lba * sector)
    return guid_text(entry.partition_type_guid) == BIOS_BOOT or any(
        place == (part.start, part.end) for part in table.partitions
    )


def free_piece(disk: Volume, gap: Gap, size: int, *, keep: int) -> int | None:
    """Return where in `gap`, on a MiB, `size` bytes are all zeros; or byte `keep`, where that is in it."""
    free = gap.aligned()
    if free.start <= keep <= free.end - size and keep % size == 0:
        return keep
    for at in range(free.start, min(free.end - size, free.start + TRIES * size) + 1, size):
        if not any(any(disk.read(start, end - start)) for start, end in disk.data(at, at + size)):
            return at
    return None
