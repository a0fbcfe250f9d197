"""onebay grow: make partition, RAID, LVM and file system fill the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onebay.block import open_disk
from onebay.cli.options import (
    PATH,
    confirm,
    dry_run_option,
    json_option,
    sector_option,
    show_plan,
    yes_option,
)
from onebay.cli.progress import events_option, renderer
from onebay.ops.grow import plan_grow
from onebay.ops.run import execute

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("disk", type=PATH)
@dry_run_option
@yes_option
@json_option
@sector_option
@events_option
def command(
    disk: Path, dry_run: bool, yes: bool, as_json: bool, sector_size: str | None, events: bool
) -> None:
    """Grow the last data partition of DISK and everything on it to fill the disk."""
    volume = open_disk(disk, writable=not dry_run, sector_size=int(sector_size) if sector_size else None)
    plan = plan_grow(volume)
    if dry_run:
        show_plan(plan, as_json=as_json)
        return
    if plan.steps:
        confirm(volume, "grow", yes=yes)
        execute(plan, report=renderer(events=events))
        volume.settle()
    if as_json:
        show_plan(plan, as_json=True)
        return
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
    if not plan.steps:
        click.echo("the disk is full already; nothing was written")
