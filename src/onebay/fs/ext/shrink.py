"""Shrink an ext file system: resize2fs works on a scratch copy of all used blocks, which is then what counts.

How small it can be, resize2fs says by itself; for that it reads metadata only. It moves data where it has to,
so e2fsck looks at the copy before and after.

Sources: e2fsprogs 1.47 resize/main.c, resize/resize2fs.c (calculate_minimum_resize_size).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent, Refused, ToolFailed
from onebay.base.extent import ExtentSet
from onebay.base.tool import run
from onebay.block import create_disk
from onebay.fs.ext.scratch import TIMEOUT, Change, fill, given_to, refuse_shortage

if TYPE_CHECKING:
    from onebay.block import Volume
    from onebay.fs.ext.geometry import Geometry
    from onebay.fs.ext.record import SuperBlock

MINIMUM = re.compile(r"minimum size of the filesystem: (\d+)")
WHOLE = "mend it with e2fsck, or capture the disk whole"


def floor(volume: Volume, superblock: SuperBlock, geometry: Geometry) -> int:
    """Return the fewest bytes that resize2fs would shrink the file system to.

    Needs scratch space for the metadata. Raises Refused without it, ToolMissing, ToolFailed.
    """
    change = Change(volume, superblock, geometry, ExtentSet(), ExtentSet(), geometry.blocks)
    given = given_to(change, whole=False)
    with tempfile.TemporaryDirectory(prefix="onebay-") as folder:
        refuse_shortage(Path(folder), given, volume.name)
        path = Path(folder) / "scratch"
        scratch = create_disk(path, geometry.size)
        try:
            fill(scratch, volume, given)
        finally:
            scratch.close()
        text = run(["resize2fs", "-P", path], timeout=TIMEOUT).text
    found = MINIMUM.search(text)
    if found is None:
        raise ToolFailed("resize2fs -P says no size", volume=volume.name, found=text[-200:])
    return min(int(found[1]), geometry.blocks) * geometry.block_size


def shrink_copy(path: Path, name: str, geometry: Geometry, blocks: int) -> None:
    """Shrink the copy at `path`, a file of exactly the file system's size, to `blocks` blocks.

    `name` is the volume that it was copied from. Raises Refused where the file system has errors,
    Inconsistent where it has some afterwards, ToolMissing, ToolFailed.
    """
    try:
        run(["e2fsck", "-fn", path], timeout=TIMEOUT)
    except ToolFailed as error:
        if not error.found:  # it did not come to its end
            raise
        raise Refused(f"the file system has errors: {error.what}", volume=name, hint=WHOLE) from error
    run(["resize2fs", "-f", path, str(blocks)], timeout=TIMEOUT)
    if geometry.cluster_blocks > 1:
        # resize2fs 1.47.0 counts free blocks and clusters into one number; preening counts anew.
        run(["e2fsck", "-fp", path], timeout=TIMEOUT, ok=(0, 1))
    try:
        run(["e2fsck", "-fn", path], timeout=TIMEOUT)
    except ToolFailed as error:
        raise Inconsistent(f"resize2fs left errors behind: {error.what}", volume=name) from error
