"""The mark of a journal: one sector before the first partition, where nobody else writes.

It says that a change of the disk is under way, and where the journal is that completes it: at a byte of this
disk, also when the disk has become larger since, or in a file. It is written when the journal counts already,
before the first write of the change, and cleared after the last one, before the journal is: a mark whose
journal is gone means a change that cannot be completed. Only a sector that is all zeros is taken, and it is
zeros again afterwards.

A journal in a file may be any disk's, so the mark is there before the file is written and after it is cleared
too, as a settled one: nothing waits, and what the file holds is this disk's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

from onebay.base.error import Error
from onebay.base.record import Layout
from onebay.table import Table, probe
from onebay.table.kinds import BIOS_BOOT
from onebay.tree import discover

if TYPE_CHECKING:
    from onebay.base.extent import ExtentSet
    from onebay.block import Volume

MAGIC = b"1BYJMRK1"
IN_FILE = 1
SETTLED = 2
PLACES = 8  # sectors before the first partition that may be taken; boot loaders fill the gap from its start
# These leave the first 1024 bytes of their volume to boot loaders: ext4 layout, "Layout"; btrfs-dev.
BOOT_BLOCK = frozenset({"ext", "btrfs"})


@dataclass(frozen=True)
class Mark:
    """Where the journal is: `head_at` is a byte of the disk or of the file, `head_sha` that of its head."""

    magic: Annotated[bytes, "8s"]
    flags: Annotated[int, "I"]
    name_size: Annotated[int, "I"]
    head_at: Annotated[int, "Q"]
    disk_size: Annotated[int, "Q"]
    head_sha: Annotated[bytes, "32s"]
    name: Annotated[bytes, "416s"]
    mark_sha: Annotated[bytes, "32s"]

    @property
    def in_file(self) -> bool:
        """Whether the journal is in a file."""
        return bool(self.flags & IN_FILE)

    @property
    def settled(self) -> bool:
        """Whether the change has not begun, or is complete."""
        return bool(self.flags & SETTLED)

    @property
    def file(self) -> str:
        """Name of the journal's file, as far as it fits, for messages."""
        text = self.name[: self.name_size].decode("utf-8", "replace")
        return "".join(char if char.isprintable() else "?" for char in text)


MARK = Layout(Mark, order="<", size=512)
NAME = 416


def places(disk: Volume) -> list[int]:
    """Return the bytes of the disk at which a mark may be, whatever is there; none on a damaged table."""
    try:
        found = probe(disk)
    except Error:
        return []
    sector = disk.sector_size
    if isinstance(found, Table):
        return before_first(found, sector)
    if found is None and sector == MARK.size < disk.size:
        layer = discover([disk]).on(disk)
        return [sector] if layer is not None and layer.kind in BOOT_BLOCK else []
    return []


def before_first(table: Table, sector: int) -> list[int]:
    """Return the last sectors before the first partition, and before the first that is no BIOS boot one.

    A conversion to GPT makes such a partition in the gap, between the mark and the end of the change.
    """
    free = table.outside() - table.metadata()
    firsts = {
        min((part.start for part in parts), default=0)
        for parts in (table.partitions, [part for part in table.partitions if part.type != BIOS_BOOT])
    }
    return [
        at
        for first in sorted(firsts, reverse=True)
        for at in range(first - sector, max(0, first - (PLACES + 1) * sector), -sector)
        if free.covers(at, at + sector)
    ]


def free_place(disk: Volume, taken: ExtentSet, after: Volume | None = None) -> int | None:
    """Return where a mark can be put, away from the bytes `taken`; None where there is no such place.

    It is found on `after` as well: the disk as the change will leave it, perhaps with another table.
    """
    size = disk.sector_size
    found, later = places(disk), None if after is None else places(after)
    free = (at for at in found if (later is None or at in later) and not taken.overlaps(at, at + size))
    return next((at for at in free if not any(disk.read(at, size))), None)


def find_mark(disk: Volume) -> tuple[int, Mark] | None:
    """Return the byte at which the disk has a mark, and the mark; None where it has none."""
    for at in places(disk):
        raw = disk.read(at, MARK.size)
        if raw.startswith(MAGIC) and sha256(raw[:-32]).digest() == raw[-32:]:
            return at, MARK.unpack(raw)
    return None


def pack_mark(
    disk: Volume, head_at: int, head_sha: bytes, file: str | None, *, settled: bool = False
) -> bytes:
    """Return the sector of a mark; `file` names the journal's file where it is not on the disk."""
    name = (file or "").encode("utf-8", "replace")[:NAME]
    flags = (IN_FILE if file is not None else 0) | (SETTLED if settled else 0)
    return sealed(Mark(MAGIC, flags, len(name), head_at, disk.size, head_sha, name, bytes(32)), disk)


def pack_settled(mark: Mark, disk: Volume) -> bytes:
    """Return the sector of a mark whose change is complete or given up."""
    return sealed(replace(mark, flags=mark.flags | SETTLED), disk)


def sealed(mark: Mark, disk: Volume) -> bytes:
    """Return a mark with its digest, as long as a sector of `disk`."""
    raw = MARK.pack(mark)[:-32]
    return (raw + sha256(raw).digest()).ljust(disk.sector_size, b"\0")
