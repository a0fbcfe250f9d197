"""onebay shrink: the same disk, as small as it can be or as asked, as a new file."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.base.units import human
from onebay.block import is_device
from onebay.cli.boot import cache_option
from onebay.cli.options import (
    PATH,
    check_place,
    dry_run_option,
    json_option,
    parse_size,
    reading_options,
    sector_option,
)
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.machine.btrfs import shrink_btrfs
from onebay.ops.capture import refuse_busy
from onebay.ops.disk import open_any
from onebay.ops.shrink import ShrinkPlan, find_route, plan_shrink
from onebay.ops.shrinkdisk import shrunk, warn_losses
from onebay.ops.shrinkwrite import write_file

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import Reading
    from onebay.ops.shrinkdisk import Kernel

scratch_option = click.option(
    "--scratch", type=PATH, metavar="DIR", help="Folder for the scratch copy of a file system that shrinks."
)


@click.command()
@click.argument("disk", type=PATH)
@click.option("--output", type=PATH, help="The new file; DISK itself is never written.")
@click.option(
    "--to", callback=parse_size, metavar="SIZE", help="Size of the new disk; without it, its floor, on a MiB."
)
@scratch_option
@dry_run_option
@json_option
@sector_option
@reading_options
@cache_option
@events_option
def command(
    disk: Path,
    output: Path | None,
    to: int | None,
    scratch: Path | None,
    dry_run: bool,
    as_json: bool,
    sector_size: int | None,
    reading: Reading,
    cache: Path,
    events: bool,
) -> None:
    """Make a smaller disk of DISK (a disk, or an image of ours) in a new file.

    Its last data partition, what stands on it, and the file system become shorter; everything below keeps its
    place and its identity. There is no shrinking in place: moving data cannot be made safe against power
    cuts. `onebay capture --minimize` makes an image of the smaller disk at once.
    """
    if output is None and not dry_run:
        raise click.UsageError("give --output: a disk cannot be shrunk in place without risking its data")
    if output is not None:
        check_place(output)
        if output.exists() or is_device(output):
            raise Refused("exists already", volume=str(output), hint="another name")
    report = renderer(events=events)
    with closing(open_any(disk, reading, sector_size=sector_size, report=report)) as source:
        refuse_busy(source)
        plan = plan_shrink(find_route(source), to)
        if dry_run:
            show(plan, as_json=as_json)
            return
        assert output is not None
        warn_losses(plan, report)
        folder = scratch_folder(scratch, output.parent)
        with shrunk(plan, folder=folder, kernel=kernel_of(cache, report), to=to, report=report) as made:
            plan = made.plan
            written = write_file(made, output, report=report)
    if as_json:
        answer(json.dumps({**plan.document(), "output": str(output), "written": written}, indent=2))
        return
    tell_notes(plan)
    answer(f"{output}: {human(plan.cut.size)} ({plan.cut.size} bytes), was {human(plan.route.disk.size)}")


def kernel_of(cache: Path, report: Report) -> Kernel:
    """Return what shrinks a btrfs here."""
    return lambda path, want: shrink_btrfs(path, want, cache=cache, report=report)


def scratch_folder(scratch: Path | None, default: Path) -> Path:
    """Return where scratch files go; raises Refused where that is no folder."""
    folder = scratch or default
    if not folder.is_dir():
        raise Refused("no such folder", volume=str(folder))
    return folder


def tell_notes(plan: ShrinkPlan) -> None:
    """Print what the user should know, losses aside (warned of before), and why the disk is no smaller."""
    for note in plan.remarks:
        remark(f"note: {note}")
    if plan.smallest and plan.reason:
        remark(f"note: no smaller, because {plan.reason}")


def show(plan: ShrinkPlan, *, as_json: bool) -> None:
    """Print a plan for people or for programs."""
    if as_json:
        answer(json.dumps(plan.document(), indent=2))
        return
    lines = [f"note: {note}" for note in plan.notes]
    lines += [
        f"{volume.name}: {volume.size} -> {size} bytes"
        for volume, size in zip(plan.route.volumes, plan.cut.sizes, strict=True)
    ]
    about = "" if plan.exact else "at least "
    lines.append(f"floor: {about}{plan.floor} bytes ({human(plan.floor)}), because {plan.reason}")
    if plan.fs_shrinks:
        lines.append(f"scratch space: at most {human(plan.scratch())}")
    lines.append(
        f"{plan.route.disk.name}: {plan.route.disk.size} -> {plan.cut.size} bytes; nothing was written"
    )
    answer("\n".join(lines))
