"""Where a smaller disk goes: into a new file, or from an image straight to its target."""

from __future__ import annotations

from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

from onebay.base.error import NOTHING_WRITTEN
from onebay.base.event import Began, Ended, Moved, silent
from onebay.base.extent import ExtentSet
from onebay.base.newfile import hidden_name, put_in_place
from onebay.block import create_disk
from onebay.ops.need import needed
from onebay.ops.readback import not_given_back
from onebay.ops.run import on_failure
from onebay.ops.target import Target, filled
from onebay.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import FileVolume
    from onebay.image import Image
    from onebay.ops.shrinkdisk import Shrunk

OP = "write the smaller disk"
CHUNK = 2 << 20


def pieces(made: Shrunk, keep: ExtentSet) -> Iterator[tuple[int, int]]:
    """Yield the ranges of `keep` in order, none longer than 2 MiB or across a multiple of it."""
    for start, end in keep.clip(0, made.disk.size):
        at = start
        while at < end:
            stop = min(end, (at // CHUNK + 1) * CHUNK)
            yield at, stop
            at = stop


def write_file(made: Shrunk, path: Path, *, report: Report = silent) -> int:
    """Write what matters of the disk to a new sparse file and return its bytes; holes read as zeros.

    The file gets its name when it is whole. Raises Refused where there is one already, or no space.
    """
    keep = needed(made.tree)
    part = hidden_name(path)
    report(Began(OP, str(path), keep.size))
    written = done = 0
    with on_failure(f"{NOTHING_WRITTEN} to the disk; the unfinished file was removed", str(path)):
        try:
            with closing(create_disk(part, made.disk.size, sector_size=made.disk.sector_size)) as out:
                for start, end in pieces(made, keep):
                    data = memoryview(made.disk.read(start, end - start))
                    for first, last in filled(data):
                        out.write(start + first, data[first:last])
                        written += last - first
                    done += end - start
                    report(Moved(OP, done))
                out.flush()
            put_in_place(part, path, replace=False)
        finally:
            part.unlink(missing_ok=True)
    report(Ended(OP, 0.0, f"{written} bytes written"))
    return written


def identity(image: Image, size: int) -> bytes:
    """Return the 32 bytes that name the restore of `image` to a smaller disk of `size` bytes."""
    return sha256(image.manifest.digest + size.to_bytes(8, "big")).digest()


def restore_smaller(
    made: Shrunk, image: Image, disk: FileVolume, *, verify: bool = False, report: Report = silent
) -> int:
    """Write the smaller disk to `disk`, tables last, and return the bytes written.

    `verify` reads everything back before the disk becomes bootable. A target of an interrupted run is written
    anew: what comes out of shrinking is not the same twice. Raises BadChecksum.
    """
    keep = needed(made.tree, ends=True)
    table = made.tree.on(made.disk)
    late = table.used()[0] if isinstance(table, Table) else ExtentSet()
    target = Target(disk, keep, late, identity(image, disk.size), image_size=made.disk.size)
    report(Began(OP, disk.name, keep.size))
    incomplete = f"{disk.name} is incomplete and cannot boot; run the same command again"
    written = done = 0
    with on_failure(incomplete, disk.name):
        resumed = target.begin()
        for start, end in pieces(made, keep):
            data = made.disk.read(start, end - start)
            clean = disk.fresh and not resumed
            if data.count(0) < len(data):
                written += target.put(start, data, known_zero=clean)
            else:
                target.zero(start, end, known_zero=clean)
            done += end - start
            report(Moved(OP, done))
        if verify:
            read_back(made, target.early, disk)
        target.finish()
    if verify:
        with on_failure(f"{disk.name} is written, but does not hold what it should", disk.name):
            read_back(made, target.late & keep, disk)
    report(Ended(OP, 0.0, f"{written} bytes written"))
    return written


def read_back(made: Shrunk, extents: ExtentSet, disk: FileVolume) -> None:
    """Raise BadChecksum where the disk gives back other bytes than the smaller disk has."""
    disk.flush()
    disk.forget()
    for start, end in pieces(made, extents):
        if disk.read(start, end - start) != made.disk.read(start, end - start):
            raise not_given_back(disk, start)
