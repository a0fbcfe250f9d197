"""What onebay restore does where the target is smaller than the image's disk."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebay.base.error import Error, Refused
from onebay.block import create_disk, is_device, open_disk
from onebay.cli.options import Expected, confirm
from onebay.cli.shrink import kernel_of, scratch_folder
from onebay.image import ImageVolume, Stream
from onebay.ops.identity import signs_in, warn_twins
from onebay.ops.shrink import find_route, plan_shrink
from onebay.ops.shrinkdisk import shrunk, warn_losses
from onebay.ops.shrinkwrite import identity, restore_smaller
from onebay.ops.target import marker

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.block import FileVolume
    from onebay.image import Image
    from onebay.ops.shrink import ShrinkPlan


def room_on(target: Path, size: int | None, need: int, expected: Expected) -> int:
    """Return the bytes that a target has or will get; `need` is what a new file has without `size`.

    Raises Refused where the target is another disk than is `expected`.
    """
    if not target.exists():
        expected.check_new(target)
        return size or need
    with closing(open_disk(target)) as disk:
        expected.check(disk)
        return max(size or 0, disk.size)


def plan_smaller(opened: Image | Stream, target: Path, room: int) -> ShrinkPlan:
    """Return how the image's disk becomes `room` bytes; raises Refused for a pipe, and below the floor."""
    if isinstance(opened, Stream):
        raise Refused(
            "the target is too small for this image, and what can be read only once (a pipe, or a server "
            "without ranges) cannot be shrunk on the way",
            volume=str(target),
            expected=f"at least {opened.disk_size}",
            found=room,
            hint="give the image as a file; shrinking reads it more than once",
        )
    return plan_shrink(find_route(ImageVolume(opened)), room)


def restore_here(
    opened: Image,
    plan: ShrinkPlan,
    target: Path,
    room: int,
    *,
    scratch: Path | None,
    cache: Path,
    verify: bool,
    yes: bool,
    expected: Expected,
    report: Report,
) -> dict[str, Any]:
    """Shrink and write, and return the answer for programs; nothing is written before all is shrunk."""
    began = time.monotonic()
    warn_losses(plan, report)
    folder = scratch_folder(scratch, Path(tempfile.gettempdir()))
    with ExitStack() as stack:
        disk = None
        if target.exists():
            disk = open_existing(opened, target, yes=yes, expected=expected, report=report)
            stack.enter_context(closing(disk))
        made = stack.enter_context(
            shrunk(plan, folder=folder, kernel=kernel_of(cache, report), to=room, report=report)
        )
        if disk is None:
            disk = create_disk(target, room, sector_size=opened.manifest.sector_size)
            stack.enter_context(closing(disk))
        written = restore_smaller(made, opened, disk, verify=verify, report=report)
        disk.settle()
        return {
            "target": str(target),
            "size": disk.size,
            "written": written,
            "resumed": False,
            "seconds": round(time.monotonic() - began, 3),
            "notes": list(made.plan.notes),
        }


def open_existing(
    opened: Image, target: Path, *, yes: bool, expected: Expected, report: Report
) -> FileVolume:
    """Open a target that is there and have it confirmed; raises Refused."""
    sector_size = opened.manifest.sector_size
    disk = open_disk(target, writable=True, sector_size=None if is_device(target) else sector_size)
    try:
        expected.check(disk)
        if disk.sector_size != sector_size:
            raise Refused(
                "sector size of the target", volume=disk.name, expected=sector_size, found=disk.sector_size
            )
        mark = marker(identity(opened, disk.size))
        if is_device(target):
            warn_twins(disk, own=signs_in(opened.facts.layers), report=report)
            confirm(disk, "overwrite", yes=yes)
        elif not yes and disk.read(0, len(mark)) != mark and any(disk.data(0, disk.size)):
            raise Refused("exists already", volume=str(target), hint="another name, or --yes to overwrite it")
    except (Error, KeyboardInterrupt):
        disk.close()
        raise
    return disk
