"""onebay fold: put the boot disk into free space of the data disk."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebay.base.error import NOTHING_WRITTEN, Error, Refused
from onebay.base.newfile import hidden_name, put_in_place
from onebay.block import FileVolume, Reading, Volume, create_disk, is_device, open_disk
from onebay.cli.options import (
    PATH,
    check_fingerprint,
    check_place,
    confirm,
    dry_run_option,
    expect_options,
    json_option,
    reading_options,
    sector_option,
    show_plan,
    yes_option,
)
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.ops.capture import refuse_busy
from onebay.ops.disk import open_any
from onebay.ops.fold import FoldPlan, plan_fold
from onebay.ops.identity import warn_twins
from onebay.ops.run import execute, on_failure

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.cli.options import Expected

CHUNK = 1 << 30


@click.command()
@click.option("--boot", type=PATH, required=True, help="The boot disk (USB stick, DOM, loader.img).")
@click.option("--data", type=PATH, required=True, help="The data disk.")
@click.option("--output", type=PATH, help="Write a copy of the data disk here and leave both inputs alone.")
@click.option("--in-place", is_flag=True, help="Work on the data disk itself.")
@click.option("--table", type=click.Choice(["gpt"]), help="Convert an MBR on the data disk to GPT.")
@click.option(
    "--partuuid-unchecked",
    is_flag=True,
    help="With --table gpt: convert also where something may refer to the MBR's PARTUUIDs.",
)
@click.option("--keep-ids", is_flag=True, help="Keep the UUIDs of the boot disk's file systems.")
@click.option(
    "--expect-boot",
    metavar="TEXT",
    help="Refuse where the boot disk has not this fingerprint, as with --expect-disk.",
)
@dry_run_option
@expect_options
@yes_option
@json_option
@sector_option
@events_option
@reading_options
def command(
    boot: Path,
    data: Path,
    output: Path | None,
    in_place: bool,
    table: str | None,
    partuuid_unchecked: bool,
    keep_ids: bool,
    expect_boot: str | None,
    dry_run: bool,
    expected: Expected,
    yes: bool,
    as_json: bool,
    sector_size: int | None,
    events: bool,
    reading: Reading,
) -> None:
    """Fold the boot disk into unpartitioned space of the data disk, so that one disk boots by itself."""
    if not dry_run and (output is None) == (not in_place):
        raise click.UsageError("give either --output or --in-place")
    if output is not None:
        check_place(output)
    if output is not None and (output.exists() or is_device(output)):
        raise Refused("exists already", volume=str(output))
    report = renderer(events=events)
    with tempfile.TemporaryDirectory(prefix="onebay-") as name, ExitStack() as stack:
        source = stack.enter_context(closing(open_boot(boot, reading, expect_boot)))
        writable = in_place and not dry_run
        target = stack.enter_context(
            closing(open_data(data, reading, writable=writable, sector_size=sector_size))
        )
        expected.check(target)
        plan = plan_fold(
            source,
            target,
            scratch=Path(name),
            table=table,
            keep_ids=keep_ids,
            unchecked=partuuid_unchecked,
        )
        stack.callback(plan.close)
        warn_twins(target, beside=(source,), report=report)
        if dry_run:
            show_plan(plan, as_json=as_json)
            return
        if not as_json:
            for note in plan.notes:
                remark(note)
        if output is None:
            if plan.steps:
                confirm(target, "fold into", yes=yes)
                execute(plan, report=report)
        else:
            carry_out_on_copy(plan, target, output, report=report)
    if as_json:
        answer(json.dumps(summary(plan, output or data), indent=2))
    else:
        remark(f"{output or data} boots by itself" if plan.steps or output else "nothing was written")


def open_unused(path: Path, reading: Reading, *, sector_size: int | None = None) -> Volume:
    """Open a disk to be read; raises Refused where somebody uses it."""
    return unused(open_any(path, reading, sector_size=sector_size, report=renderer()))


def open_boot(path: Path, reading: Reading, expected: str | None) -> Volume:
    """Open the boot disk; raises Refused where its device or file is not the one that was expected."""
    disk = open_unused(path, reading)
    try:
        if expected is not None:
            with closing(open_disk(path)) as named:  # the file itself, whatever the format of the disk in it
                check_fingerprint(named, expected)
    except Error:
        disk.close()
        raise
    return disk


def open_data(path: Path, reading: Reading, *, writable: bool, sector_size: int | None) -> Volume:
    """Open the data disk, which only as a raw disk can be written; raises Refused where somebody uses it."""
    if not writable:
        return open_unused(path, reading, sector_size=sector_size)
    return unused(open_disk(path, writable=True, sector_size=sector_size))


def unused(disk: Volume) -> Volume:
    """Return the disk; closes it and raises Refused where somebody uses it."""
    try:
        refuse_busy(disk)
    except Refused:
        disk.close()
        raise
    return disk


def carry_out_on_copy(plan: FoldPlan, source: Volume, output: Path, *, report: Report) -> None:
    """Copy the data disk and fold there; the copy gets the name `output` when it is whole.

    A failed fold leaves no file behind; one that was cut by power leaves a hidden one, NAME.part.
    """
    part = hidden_name(output)
    target = create_disk(part, source.size, sector_size=source.sector_size)
    target.name = str(output)
    try:
        with on_failure(f"{NOTHING_WRITTEN}; the unfinished copy was removed", target.name):
            copy_sparse(source, target)
            plan.retarget(target)
            execute(plan, report=report)
            target.flush()
            put_in_place(part, output, replace=False)
    finally:
        target.close()
        part.unlink(missing_ok=True)


def copy_sparse(source: Volume, target: FileVolume) -> None:
    """Copy a disk into a new file of its size: holes stay holes, blocks are shared where possible.

    Raises Refused where there is no space left.
    """
    for start, end in source.data(0, source.size):
        at = start
        while at < end:
            done = copy_blocks(source, target, at, min(CHUNK, end - at))
            if not done:
                data = source.read(at, min(1 << 20, end - at))
                target.write(at, data)
                done = len(data)
            at += done


def copy_blocks(source: Volume, target: FileVolume, at: int, size: int) -> int:
    """Let the system copy up to `size` bytes; return how many it did, 0 where it cannot."""
    if not isinstance(source, FileVolume):
        return 0
    try:
        return os.copy_file_range(source.fd, target.fd, size, at, at)
    except OSError:
        return 0  # another file system, or a block device: by hand


def summary(plan: FoldPlan, disk: Path) -> dict[str, object]:
    """Return what was done, for programs."""
    return {
        "disk": str(disk),
        "strategy": plan.strategy,
        "why": plan.why,
        "changes": plan.changes,
        "warnings": plan.warnings,
        "steps": len(plan.steps),
        "bytes": plan.size,
    }
