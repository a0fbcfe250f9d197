"""Grow an ext file system: resize2fs works on a scratch copy, the differences become steps.

resize2fs must not work on the disk itself: on `file?offset=` it cuts the file short, and it writes in an
order in which an interruption leaves neither the old nor the new file system. So a sparse file of the new
size gets the old metadata, resize2fs grows that, and what it changed is written to the volume in this order:

1. What the old file system does not look at: new groups behind its end, blocks that it has free, descriptors
   behind its last group; then backups of superblock and descriptors. After each of these writes the old file
   system is whole, and the same command starts anew.
2. Behind a barrier, what it does look at: the descriptor and bitmap of its last group (the padding behind a
   short group must be ones), descriptors that take over reserved blocks (which are indirect blocks of the
   resize inode until then), the resize inode, bitmaps of older groups that hold tables of new ones (flex_bg).
3. Behind another barrier, the primary superblock, which makes all of it count.

An interruption within 2 leaves neither. The steps of 2 and 3 have a `why` that begins with "critical:"; they
are consecutive but for the barrier between them, and an executor must protect all of them by one redo
journal: once that is complete, writing them again from the first to the last is always right.

Data blocks are holes in the scratch file, and it stays small, as long as new descriptors fit into the blocks
reserved for them. Otherwise resize2fs moves data, and the scratch file gets every allocated block. So it does
with bigalloc, where resize2fs leaves wrong counts behind that e2fsck must mend.

Sources: e2fsprogs 1.47 resize/resize2fs.c (adjust_fs_info, blocks_to_move, inode_scan_and_fix),
lib/ext2fs/closefs.c (ext2fs_flush2), e2fsck/super.c (check_resize_inode, check_backup_super_block).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent, Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, Step, Write, Zero
from onebay.fs.ext.geometry import Geometry, compute, fitting
from onebay.fs.ext.read import head_extents, metadata, scan
from onebay.fs.ext.record import SUPER, SUPER_AT, SUPER_SIZE, external_journal
from onebay.fs.ext.scratch import CHUNK, Change, given_to, resized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import FileVolume, Volume
    from onebay.fs.ext.read import Scan
    from onebay.fs.ext.record import SuperBlock

SPARE = "ext: new block groups, where nothing is yet"
BACKUP = "ext: backups of superblock and descriptors"
INSIDE = "critical: ext: descriptors, bitmaps and inodes in use"


class Moved(Exception):  # noqa: N818
    """resize2fs touched blocks that the scratch file does not have; never leaves this module."""


class Sorted:
    """Steps by what they touch; neighbours of one kind become one step.

    Equal data is shared: a large file system has some 20 copies of megabytes of descriptors.
    """

    def __init__(self, volume: Volume, borders: set[int]) -> None:
        self.volume, self.borders = volume, borders
        self.steps: dict[str, list[Step]] = {SPARE: [], BACKUP: [], INSIDE: []}
        self.seen: dict[bytes, bytes] = {}
        self.run = bytearray()
        self.at, self.why, self.zeros = 0, SPARE, True

    def add(self, at: int, data: bytes, why: str) -> None:
        """Take a block; blocks come in ascending order. A block in `borders` is written by itself."""
        alone = at in self.borders or self.at in self.borders
        full = len(self.run) >= CHUNK
        same = (at, why, blank(data)) == (self.at + len(self.run), self.why, self.zeros)
        if alone or full or not same:
            self.close()
            self.at, self.why, self.zeros = at, why, blank(data)
        self.run += data

    def close(self) -> None:
        """Turn the blocks collected so far into a step."""
        if not self.run:
            return
        steps = self.steps[self.why]
        if self.zeros:
            last = steps[-1] if steps else None
            start = last.at if isinstance(last, Zero) and last.at + last.size == self.at else self.at
            if start < self.at:
                steps.pop()
            steps.append(Zero(self.volume, start, self.at + len(self.run) - start, self.why))
        else:
            data = bytes(self.run)
            steps.append(Write(self.volume, self.at, self.seen.setdefault(data, data), self.why))
        self.run = bytearray()


def blank(data: bytes) -> bool:
    """Whether all bytes are zero."""
    return data.count(0) == len(data)


def plan_grow(volume: Volume, superblock: SuperBlock, geometry: Geometry, found: Scan) -> list[Step]:
    """Return the steps that make a clean file system fill its volume; an empty list where it does.

    Needs scratch space for the metadata, or for all allocated blocks where data must move. Raises Refused
    with the sizes where there is too little, Unsupported where data must move and the journal is elsewhere,
    ToolMissing or ToolFailed from resize2fs.
    """
    blocks = fitting(geometry, volume.size)
    if blocks <= geometry.blocks:
        return []
    change = Change(volume, superblock, geometry, found.allocated, found.needed, blocks)
    if geometry.cluster_blocks == 1 and not needs_move(geometry, blocks):
        try:
            return attempt(change, whole=False)
        except Moved:
            pass
    if external_journal(superblock):
        # e2fsck would have to look at the result; it wants the journal, and looks for it on this machine
        raise Unsupported("data would have to move, and the journal is on another device", volume=volume.name)
    return attempt(change, whole=True)


def needs_move(geometry: Geometry, blocks: int) -> bool:
    """Whether descriptors for `blocks` blocks do not fit into the descriptor blocks in use and reserved."""
    groups = -(-(blocks - geometry.first_block) // geometry.group_blocks)
    need = -(-groups // geometry.descs_per_block)
    meta_bg = geometry.first_meta_bg < geometry.desc_blocks
    return not meta_bg and need > geometry.desc_blocks + geometry.reserved_desc_blocks


def attempt(change: Change, *, whole: bool) -> list[Step]:
    """Resize a scratch file with the metadata, or all allocated blocks; return the ordered differences."""
    given = given_to(change, whole=whole)
    with resized(change, given, whole=whole) as scratch:
        data = scratch.read(SUPER_AT, SUPER_SIZE)
        new = compute(SUPER.unpack(data))
        if new.blocks <= change.old.blocks:
            return []
        if not new.size <= min(scratch.size, change.volume.size):
            raise Inconsistent("resized file system", volume=change.volume.name, expected=change.blocks,
                               found=new.blocks)  # fmt: skip
        if not whole:
            refuse_moves(change, scratch, new)
        steps = sort_differences(change, scratch, new, given)
    volume = change.volume
    what = f"critical: ext: superblock: {change.old.blocks} -> {new.blocks} blocks of {new.block_size}"
    return [
        *steps[SPARE],
        Flush(volume),
        *steps[BACKUP],
        Flush(volume),
        *steps[INSIDE],
        Flush(volume),
        Write(volume, SUPER_AT, data, what),
        Flush(volume),
    ]


def refuse_moves(change: Change, scratch: FileVolume, new: Geometry) -> None:
    """Raise Moved where resize2fs gave away or took blocks of the old part for anything but metadata."""
    old, grid = change.old, new.block_size * new.cluster_blocks
    now = scan(scratch, new).allocated
    tables = metadata(scratch, new)
    if new.cluster_blocks > 1:
        tables = tables.align(grid)
    gone = change.allocated - now - backups_of(old)
    taken = now.clip(0, old.size) - change.allocated - tables
    if gone or taken:
        raise Moved


def backups_of(geometry: Geometry) -> ExtentSet:
    """Return the bytes of backup superblocks and descriptors, those reserved for growing included."""
    size = geometry.block_size
    primary = ExtentSet.of(
        (block * size, (block + 1) * size) for block in map(geometry.desc_block, range(geometry.desc_blocks))
    )
    return head_extents(geometry, range(1, geometry.groups)) - primary


def sort_differences(
    change: Change, scratch: FileVolume, new: Geometry, given: ExtentSet
) -> dict[str, list[Step]]:
    """Compare the scratch file with the volume block by block, but for the primary superblock.

    Raises Moved where a block changed that is in use and was not given.
    """
    size = new.block_size
    supers = {new.super_block(group) * size for group in range(new.groups) if new.has_super(group)}
    found = Sorted(change.volume, supers)
    backups = backups_of(change.old)
    for at, fresh, stale in differing(change.volume, scratch, new):
        if at <= SUPER_AT < at + size:
            continue
        why = kind_of(change, at, fresh, stale, given=given, backups=backups)
        if why:
            found.add(at, fresh, why)
    found.close()
    return found.steps


def differing(volume: Volume, scratch: FileVolume, new: Geometry) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (byte offset, new content, old content) of all blocks that differ where the scratch has data."""
    size = new.block_size
    for start, end in ExtentSet.of(scratch.data(0, new.size)).align(size):
        for at in range(start, end, CHUNK):
            length = min(CHUNK, end - at)
            fresh, stale = scratch.read(at, length), volume.read(at, length)
            if fresh == stale:
                continue
            for skip in range(0, length, size):
                one, two = fresh[skip : skip + size], stale[skip : skip + size]
                if one != two:
                    yield at + skip, one, two


def kind_of(
    change: Change, at: int, fresh: bytes, stale: bytes, *, given: ExtentSet, backups: ExtentSet
) -> str | None:
    """Say what a change of one block is to the old file system; None where it is no change at all.

    A hole beside written blocks reads as zeros, for data comes in pages; so zeros say nothing about a block
    in use that was not given.
    """
    old, end = change.old, at + len(fresh)
    if at >= old.size or not change.needed.overlaps(at, end):
        return SPARE
    if backups.covers(at, end):
        return BACKUP if given.covers(at, end) or not blank(fresh) else None
    if not given.covers(at, end):
        if blank(fresh):
            return None
        raise Moved
    return SPARE if behind_last_group(old, at, fresh, stale) else INSIDE


def behind_last_group(old: Geometry, at: int, fresh: bytes, stale: bytes) -> bool:
    """Whether a block of primary descriptors differs only behind the descriptor of the last old group."""
    number = old.desc_blocks - 1
    if at != old.desc_block(number) * old.block_size:
        return False
    inside = (old.groups - number * old.descs_per_block) * old.desc_size
    return fresh[:inside] == stale[:inside]
