"""A journal on a device of its own, and whether the file systems that need one have theirs on this disk.

The device begins with an ext superblock that has the feature journal_dev; the journal's own superblock stands
in the block behind it, in big-endian numbers. It is small and kept whole. A file system names its journal by
UUID, and by a device number that is right on the machine only on which it was last checked.

Sources: linux v6.18 include/linux/jbd2.h (struct journal_superblock_s), fs/ext4/super.c
(ext4_get_dev_journal); e2fsprogs 1.47 lib/ext2fs/mkjournal.c (ext2fs_create_journal_superblock2).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from onebay.base.error import Error
from onebay.base.record import Layout
from onebay.fs.ext.filesystem import ExtFs, text
from onebay.fs.ext.record import SUPER_AT
from onebay.layer import Finding, Whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onebay.block import Volume
    from onebay.fs.ext.record import SuperBlock
    from onebay.layer import Layer, Value

MAGIC = 0xC03B3998
USERS_MAX = 48
UUID_SIZE = 16
U32 = Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class JournalSuper:
    """struct journal_superblock_s, version 2; `s_start` is 0 where nothing waits to be replayed."""

    h_magic: U32
    h_blocktype: U32
    h_sequence: U32
    s_blocksize: U32
    s_maxlen: U32
    s_first: U32
    s_sequence: U32
    s_start: U32
    s_errno: U32
    s_feature_compat: U32
    s_feature_incompat: U32
    s_feature_ro_compat: U32
    s_uuid: Annotated[bytes, "16s"]
    s_nr_users: U32
    s_dynsuper: U32
    s_max_transaction: U32
    s_max_trans_data: U32
    s_rest: Annotated[bytes, "176s"]
    s_users: Annotated[bytes, "768s"]


JOURNAL = Layout(JournalSuper, order=">", size=1024)


class ExtJournal(Whole):
    """A journal device; `users` are the UUIDs of the file systems that it is said to serve."""

    def __init__(self, volume: Volume, superblock: SuperBlock) -> None:
        self.uuid = str(uuid.UUID(bytes=superblock.s_uuid))
        self.fault = ""
        self.at = place(superblock)
        facts: dict[str, Value] = {"uuid": self.uuid, "label": text(superblock.s_volume_name)}
        try:
            record = JOURNAL.unpack(volume.read(self.at, JOURNAL.size), volume=volume.name)
        except Error as error:
            self.fault = str(error)
        else:
            if record.h_magic != MAGIC:
                self.fault = f"magic: expected {MAGIC:#x}, found {record.h_magic:#x}"
            facts["size"] = record.s_maxlen * record.s_blocksize
            facts["users"] = [*users(record)]
            facts["needs_recovery"] = record.s_start != 0
        super().__init__("ext journal", volume, facts)

    def check(self) -> list[Finding]:
        if not self.fault:
            return []
        what = f"the superblock of the journal is damaged: {self.fault}"
        return [Finding("damage", "journal-damaged", what, self.below[0].name, self.at)]


def place(superblock: SuperBlock) -> int:
    """Return the byte at which the journal's superblock stands: in the block behind the ext superblock."""
    size = 1024 << min(superblock.s_log_block_size, 6)
    return (SUPER_AT // size + 1) * size


def users(record: JournalSuper) -> Iterator[str]:
    """Yield the UUIDs of the file systems that use a journal."""
    for number in range(min(record.s_nr_users, USERS_MAX)):
        start = number * UUID_SIZE
        yield str(uuid.UUID(bytes=record.s_users[start : start + UUID_SIZE]))


def journal_findings(layers: Iterable[Layer]) -> list[Finding]:
    """Say which file systems have their journal on no volume of these layers, or on more than one."""
    every = list(layers)
    journals = [layer for layer in every if isinstance(layer, ExtJournal)]
    found: list[Finding] = []
    for fs in every:
        if not isinstance(fs, ExtFs) or fs.journal() != "external":
            continue
        name = fs.journal_uuid
        here = [journal.below[0].name for journal in journals if journal.uuid == name]
        journal = f"the journal, UUID {name}," if name else "the journal, which has no UUID,"
        if not here:
            what = f"{journal} is not on this disk: without it the file system cannot be mounted for writing"
            found.append(Finding("warning", "journal-elsewhere", what, fs.volume.name, SUPER_AT))
        elif len(here) > 1:
            what = f"{journal} is on {' and on '.join(here)}: which of them is taken is chance"
            found.append(Finding("warning", "journal-twice", what, fs.volume.name, SUPER_AT))
    return found
