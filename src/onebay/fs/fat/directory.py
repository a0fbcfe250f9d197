"""Directories of a FAT, with VFAT's long names, read-only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.fs.fat.record import (
    ATTR_DIR,
    ATTR_LONG_NAME,
    ATTR_MASK,
    ATTR_VOLUME,
    CASE_LOWER_BASE,
    CASE_LOWER_EXT,
    DIR_ENTRY,
    SLOT_ENTRY,
    DirEntry,
    SlotEntry,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DELETED = 0xE5
END = 0x00
MAX_DIRECTORY = 65536 * DIR_ENTRY.size


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder: `size` in bytes (0 for folders), `cluster` where it starts (0: it is empty)."""

    name: str
    short_name: str
    is_dir: bool
    size: int
    cluster: int


def parse_directory(raw: bytes) -> Iterator[Entry]:
    """Yield files and folders, without labels and without `.` and `..`."""
    slots: list[SlotEntry] = []
    for record in DIR_ENTRY.unpack_all(raw):
        if record.name[0] == END:
            return
        if record.name[0] == DELETED:
            slots = []
        elif record.attr & ATTR_MASK == ATTR_LONG_NAME:
            slots.append(SLOT_ENTRY.unpack(DIR_ENTRY.pack(record)))
        else:
            if not record.attr & ATTR_VOLUME and record.name[:1] != b".":
                yield entry_of(record, slots)
            slots = []


def entry_of(record: DirEntry, slots: list[SlotEntry]) -> Entry:
    """Combine a short entry with the long name before it."""
    short = short_name(record)
    folder = bool(record.attr & ATTR_DIR)
    return Entry(
        name=long_name(slots, checksum(record.name)) or short,
        short_name=short,
        is_dir=folder,
        size=0 if folder else record.size,
        cluster=record.starthi << 16 | record.start,
    )


def label_of(raw: bytes) -> str | None:
    """Return the volume label in the root directory, or None."""
    for record in DIR_ENTRY.unpack_all(raw):
        if record.name[0] == END:
            return None
        kind = record.attr & ATTR_MASK
        if record.name[0] != DELETED and kind != ATTR_LONG_NAME and kind & (ATTR_VOLUME | ATTR_DIR) == 8:
            return text(record.name)
    return None


def text(raw: bytes) -> str:
    """Decode a padded name; the first byte 0x05 stands for 0xE5."""
    if raw[:1] == b"\x05":
        raw = b"\xe5" + raw[1:]
    return raw.decode("cp437").rstrip(" ")


def short_name(record: DirEntry) -> str:
    """Return the 8.3 name in the case that Windows NT's flags ask for."""
    base, suffix = text(record.name[:8]), text(record.name[8:])
    if record.lcase & CASE_LOWER_BASE:
        base = base.lower()
    if record.lcase & CASE_LOWER_EXT:
        suffix = suffix.lower()
    return f"{base}.{suffix}" if suffix else base


def checksum(name: bytes) -> int:
    """Checksum of the 11 bytes of a short name, by which long names belong to it."""
    total = 0
    for byte in name:
        total = ((total >> 1) + ((total & 1) << 7) + byte) & 0xFF
    return total


def long_name(slots: list[SlotEntry], expected: int) -> str | None:
    """Return the long name, or None where the slots are not a complete set of this short entry."""
    if not slots or slots[0].id != len(slots) | 0x40:
        return None
    if [slot.id for slot in slots[1:]] != list(range(len(slots) - 1, 0, -1)):
        return None
    if any(slot.alias_checksum != expected for slot in slots):
        return None
    raw = b"".join(slot.name0_4 + slot.name5_10 + slot.name11_12 for slot in reversed(slots))
    return raw.decode("utf-16-le", "replace").split("\0", 1)[0] or None
