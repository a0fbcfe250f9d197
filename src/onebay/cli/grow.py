"""onebay grow: make partition, RAID, LVM and file system fill the disk."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.block import FileVolume, create_disk, open_disk
from onebay.cli.boot import cache_option
from onebay.cli.growing import foresee, grow_inside, read_key
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
from onebay.ops.identity import warn_twins
from onebay.ops.journal import FILE_SIZE, Journal
from onebay.ops.togpt import plan_to_gpt

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.ops.run import Plan


@click.command()
@click.argument("disk", type=PATH)
@click.option("--journal", type=PATH, metavar="FILE", help="Keep the journal in FILE, not at the disk's end.")
@click.option(
    "--table",
    type=click.Choice(["gpt"]),
    help="First turn an MBR into a GPT in place, boot paths included: the way past 2 TiB.",
)
@click.option(
    "--key-file", type=PATH, help="Opens LUKS on the last partition, so that what is in it grows as well."
)
@click.option("--drop-journal", is_flag=True, help="Only forget an interrupted run that cannot be completed.")
@dry_run_option
@yes_option
@json_option
@sector_option
@cache_option
@events_option
def command(
    disk: Path,
    journal: Path | None,
    table: str | None,
    key_file: Path | None,
    drop_journal: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    sector_size: int | None,
    cache: Path,
    events: bool,
) -> None:
    """Grow the last data partition of DISK and everything on it to fill the disk.

    A run that was interrupted is completed first.
    """
    report = renderer(events=events)
    key = read_key(key_file) if key_file else b""
    with ExitStack() as stack:
        volume = stack.enter_context(closing(open_disk(disk, writable=not dry_run, sector_size=sector_size)))
        store = stack.enter_context(closing(open_journal(journal))) if journal and journal.exists() else None
        found = Journal(volume, store)
        if drop_journal and not dry_run:
            forget(found, volume, yes=yes)
            return
        interrupted = found.pending() is not None
        found.refuse_foreign()
        if dry_run:
            plan = rehearse(volume, convert=table == "gpt")
            foresee(plan, key)
            if interrupted:
                plan.notes.insert(
                    0, "an interrupted change would be completed first; the plan is made before"
                )
            show_plan(plan, as_json=as_json)
            return
        warn_twins(volume, report=report)
        if interrupted or found.settled():
            confirm(volume, "complete an interrupted change of", yes=yes)
            complete(found, report=report)
        if journal and store is None:
            store = stack.enter_context(closing(open_journal(journal)))
        plan, converted = carry_out(volume, store, convert=table == "gpt", yes=yes, report=report)
        yes = yes or bool(plan.steps)
        inside = grow_inside(volume, plan, cache=cache, key=key, store=store, yes=yes, report=report)
    if as_json:
        show_plan(plan, as_json=True, also={"completed": interrupted})
        return
    for note in plan.notes:
        remark(f"note: {note}")
    grown = inside or len(plan.steps) > converted
    answer(outcome(converted=converted > 0, grown=grown, interrupted=interrupted))


def outcome(*, converted: bool, grown: bool, interrupted: bool) -> str:
    """Say what was done."""
    if converted:
        return "converted to GPT and grown" if grown else "converted to GPT; nothing left to grow"
    if grown:
        return "grown"
    if interrupted:
        return "the interrupted change is completed; the disk is full"
    return "the disk is full already; nothing was written"


def carry_out(
    volume: FileVolume, store: FileVolume | None, *, convert: bool, yes: bool, report: Report
) -> tuple[Plan, int]:
    """Grow the disk, where `convert` after it became a GPT.

    Return one plan of everything that was done, and how many of its steps, the first ones, convert.
    """
    before: list[Step] = []
    notes: list[str] = []
    if convert:
        converted = plan_to_gpt(volume)
        before, notes = converted.steps, converted.notes
        if before:
            confirm(volume, "turn the MBR into a GPT and grow", yes=yes)
            yes = True
            grow(volume, plan=converted, store=store, report=report)
            volume.settle()
    plan = plan_grow(volume)
    if plan.steps:
        confirm(volume, "grow", yes=yes)
        grow(volume, plan=plan, store=store, report=report)
        volume.settle()
    plan.notes[:0] = notes
    plan.steps[:0] = before
    return plan, len(before)


def rehearse(volume: Volume, *, convert: bool) -> Plan:
    """Return what would be done, where `convert` first to a GPT."""
    if not convert:
        return plan_grow(volume)
    plan = plan_to_gpt(volume)
    growth = plan_grow(plan.after or volume)
    plan.steps += growth.steps
    plan.notes += growth.notes
    return plan


def forget(journal: Journal, volume: FileVolume, *, yes: bool) -> None:
    """Erase the journal and do nothing else: the file system wants to be checked before it grows."""
    if not journal.traces():
        journal.refuse_foreign()
        answer("no change was interrupted; nothing was written")
        return
    confirm(volume, "forget an interrupted change of", yes=yes)
    volume.recheck()
    journal.erase()
    answer("the interrupted change is forgotten; have the file system checked, then run grow again")


def open_journal(path: Path) -> FileVolume:
    """Open a journal file, or make one: sparse, so that only what is journaled takes space."""
    check_place(path)
    if not path.exists():
        return create_disk(path.absolute(), FILE_SIZE)
    store = open_disk(path.absolute(), writable=True)
    if store.size != FILE_SIZE:
        store.close()
        raise Refused("exists already and is no journal", volume=str(path))
    return store
