"""onebay grow: make partition, RAID, LVM and file system fill the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.block import FileVolume, create_disk, open_disk
from onebay.cli.options import (
    PATH,
    check_place,
    confirm,
    dry_run_option,
    json_option,
    sector_option,
    show_plan,
    yes_option,
)
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.ops.grow import complete, grow, plan_grow
from onebay.ops.journal import MAX_BODY, Journal

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL_SIZE = MAX_BODY + (4 << 20)


@click.command()
@click.argument("disk", type=PATH)
@click.option("--journal", type=PATH, metavar="FILE", help="Keep the journal in FILE, not at the disk's end.")
@click.option("--drop-journal", is_flag=True, help="Forget an interrupted run; check the file system first.")
@dry_run_option
@yes_option
@json_option
@sector_option
@events_option
def command(
    disk: Path,
    journal: Path | None,
    drop_journal: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    sector_size: str | None,
    events: bool,
) -> None:
    """Grow the last data partition of DISK and everything on it to fill the disk.

    A run that was interrupted is completed first.
    """
    report = renderer(events=events)
    volume = open_disk(disk, writable=not dry_run, sector_size=int(sector_size) if sector_size else None)
    if dry_run:
        show_plan(plan_grow(volume), as_json=as_json)
        return
    store = open_journal(journal) if journal else None
    found = Journal(volume, store)
    interrupted = found.pending() is not None
    if interrupted:
        confirm(volume, "complete an interrupted change of", yes=yes)
        if drop_journal:
            found.erase()
        else:
            complete(found, report=report)
    plan = plan_grow(volume)
    if plan.steps:
        confirm(volume, "grow", yes=yes)
        grow(volume, plan=plan, store=store, report=report)
        volume.settle()
    if as_json:
        show_plan(plan, as_json=True)
        return
    for note in plan.notes:
        remark(f"note: {note}")
    what = "the interrupted change was forgotten" if drop_journal else "the interrupted change is completed"
    full = f"{what}; the disk is full" if interrupted else "the disk is full already; nothing was written"
    answer("grown" if plan.steps else full)


def open_journal(path: Path) -> FileVolume:
    """Open a journal file, or make one: sparse, so that only what is journaled takes space."""
    check_place(path)
    if not path.exists():
        return create_disk(path, JOURNAL_SIZE)
    store = open_disk(path, writable=True)
    if store.size != JOURNAL_SIZE:
        raise Refused("exists already and is no journal", volume=str(path))
    return store
