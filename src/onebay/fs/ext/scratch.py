"""A scratch copy of an ext file system on which resize2fs may work.

The copy is a sparse file of the new size. It holds the metadata that resize2fs reads when it moves nothing,
or every allocated block.

Sources: e2fsprogs 1.47 resize/resize2fs.c, lib/ext2fs/res_gdt.c, lib/ext2fs/unix_io.c (UNIX_IO_NOZEROOUT).
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent, Refused
from onebay.base.extent import ExtentSet
from onebay.base.tool import run
from onebay.block import FileVolume, create_disk
from onebay.fs.ext.read import read_groups
from onebay.fs.ext.record import SUPER_AT, SUPER_SIZE, Compat, GroupFlag, Incompat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import Volume
    from onebay.fs.ext.geometry import Geometry
    from onebay.fs.ext.record import SuperBlock

CHUNK = 1 << 20
# Written zeros must show as data of the scratch file; libext2fs would punch holes instead.
ENVIRONMENT = {"UNIX_IO_NOZEROOUT": "1"}
TIMEOUT = 6 * 3600.0
MARGIN = 64 << 20
RESIZE_INODE = 7
DIND_AT = 40 + 13 * 4  # i_block[EXT2_DIND_BLOCK] in an inode
GOOD_OLD_FIRST_INO = 11


@dataclass(frozen=True)
class Change:
    """What to grow: `superblock`, `old` and `allocated` are as it is, `blocks` is what it shall have.

    `needed` is the part of `allocated` that the old file system reads, both in bytes.
    """

    volume: Volume
    superblock: SuperBlock
    old: Geometry
    allocated: ExtentSet
    needed: ExtentSet
    blocks: int


def given_to(change: Change, *, whole: bool) -> ExtentSet:
    """Return the bytes that the scratch file gets from the volume."""
    head = ExtentSet.single(0, max(SUPER_AT + SUPER_SIZE, change.old.block_size))
    return head | (change.needed if whole else metadata_read(change))


@contextmanager
def resized(change: Change, given: ExtentSet, *, whole: bool) -> Iterator[FileVolume]:
    """Give the scratch file with `given` in it, after resize2fs; it is gone afterwards.

    A `whole` one is checked by e2fsck. Raises Refused where it does not fit, ToolMissing, ToolFailed.
    """
    with tempfile.TemporaryDirectory(prefix="onebay-") as folder:
        refuse_shortage(Path(folder), given, change.volume.name)
        path = Path(folder) / "scratch"
        scratch = create_disk(path, change.blocks * change.old.block_size)
        try:
            fill(scratch, change.volume, given)
        finally:
            scratch.close()
        run(["resize2fs", "-f", path, str(change.blocks)], timeout=TIMEOUT, env=ENVIRONMENT)
        if whole and change.old.cluster_blocks > 1:
            # resize2fs 1.47.0 counts free blocks and clusters into one number; preening counts anew.
            run(["e2fsck", "-fp", path], timeout=TIMEOUT, ok=(0, 1))
        if whole:
            run(["e2fsck", "-fn", path], timeout=TIMEOUT)
        scratch = FileVolume(path)
        try:
            yield scratch
        finally:
            scratch.close()


def refuse_shortage(folder: Path, given: ExtentSet, name: str) -> None:
    """Raise Refused where the scratch file would not fit."""
    free = shutil.disk_usage(folder).free
    need = given.align(4096).size + given.size // 16 + MARGIN
    if free < need:
        raise Refused(
            f"growing needs scratch space in {folder.parent}",
            volume=name,
            expected=f"{need} bytes",
            found=free,
            hint="set TMPDIR to a folder with more space",
        )


def metadata_read(change: Change) -> ExtentSet:
    """Return, in bytes, the metadata that resize2fs reads when it moves nothing."""
    old, size, sb = change.old, change.old.block_size, change.superblock
    blocks: list[tuple[int, int]] = [(old.desc_block(number), 1) for number in range(old.desc_blocks)]
    blocks += [(start, length) for start, length in old.head(0)]
    for group in read_groups(change.volume, old):
        if not group.flags & GroupFlag.BLOCK_UNINIT:
            blocks.append((group.block_bitmap, 1))
        if not group.flags & GroupFlag.INODE_UNINIT:
            blocks.append((group.inode_bitmap, 1))
        if group.number == 0:
            inodes = sb.s_first_ino if sb.s_rev_level else GOOD_OLD_FIRST_INO
            length = -(-inodes * old.inode_size // size)
            blocks.append((group.inode_table, min(length, old.table_blocks)))
            blocks += resize_inode_blocks(change, group.inode_table)
    if sb.s_feature_incompat & Incompat.MMP and old.first_block <= sb.s_mmp_block < old.blocks:
        blocks.append((sb.s_mmp_block, 1))
    return ExtentSet.of((start * size, (start + length) * size) for start, length in blocks)


def resize_inode_blocks(change: Change, table: int) -> list[tuple[int, int]]:
    """Return the double indirect block of the resize inode; what it points to follows the superblock."""
    old = change.old
    if not change.superblock.s_feature_compat & Compat.RESIZE_INODE:
        return []
    at = table * old.block_size + (RESIZE_INODE - 1) * old.inode_size + DIND_AT
    block = int.from_bytes(change.volume.read(at, 4), "little")
    if not old.first_block <= block < old.blocks:
        raise Inconsistent(
            "double indirect block of the resize inode",
            volume=change.volume.name,
            at=at,
            expected=f"{old.first_block}..{old.blocks}",
            found=block,
        )
    return [(block, 1)]


def fill(scratch: FileVolume, volume: Volume, given: ExtentSet) -> None:
    """Copy `given` from the volume, leaving holes where it has some."""
    for start, end in given:
        for first, last in volume.data(start, end):
            for at in range(first, last, CHUNK):
                scratch.write(at, volume.read(at, min(CHUNK, last - at)))
