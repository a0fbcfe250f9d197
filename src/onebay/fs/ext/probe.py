"""Looking for ext: a file system, a journal of one, or what is left of either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent
from onebay.fs.ext.checksum import superblock_sum
from onebay.fs.ext.filesystem import ExtFs
from onebay.fs.ext.geometry import compute
from onebay.fs.ext.journal import ExtJournal
from onebay.fs.ext.record import MAGIC, SUPER, SUPER_AT, SUPER_SIZE, Incompat, RoCompat
from onebay.layer import Suspect

if TYPE_CHECKING:
    from onebay.block import Volume


def probe(volume: Volume) -> ExtFs | ExtJournal | Suspect | None:
    """Look for a superblock at byte 1024; the magic number with impossible fields beside it is a Suspect."""
    if volume.size < SUPER_AT + SUPER_SIZE:
        return None
    data = volume.read(SUPER_AT, SUPER_SIZE)
    superblock = SUPER.unpack(data)
    if superblock.s_magic != MAGIC:
        return None
    if superblock.s_feature_ro_compat & RoCompat.METADATA_CSUM:
        expected = superblock_sum(data)
        if expected != superblock.s_checksum:
            found = superblock.s_checksum
            return Suspect(
                "ext",
                volume,
                f"superblock checksum: expected {expected:#010x}, found {found:#010x}",
                SUPER_AT,
            )
    if superblock.s_feature_incompat & Incompat.JOURNAL_DEV:
        return ExtJournal(volume, superblock)
    try:
        return ExtFs(volume, superblock, compute(superblock))
    except Inconsistent as error:
        return Suspect("ext", volume, f"superblock: {error}", SUPER_AT)
