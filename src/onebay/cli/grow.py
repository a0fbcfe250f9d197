"""onebay grow: make partition, RAID, LVM and file system fill the disk."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import click

from onebay.base.event import Noted
from onebay.block import FileVolume, open_disk
from onebay.cli.boot import cache_option
from onebay.cli.growing import foresee, grow_inside, journal_option, key_option, open_journal, read_key
from onebay.cli.options import (
    PATH,
    confirm,
    dry_run_option,
    expect_options,
    json_option,
    sector_option,
    show_plan,
    yes_option,
)
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.ops.grow import complete, grow, plan_grow
from onebay.ops.identity import warn_twins
from onebay.ops.journal import Journal
from onebay.ops.run import Plan
from onebay.ops.togpt import plan_to_gpt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.cli.options import Expected


@click.command()
@click.argument("disk", type=PATH)
@journal_option
@click.option(
    "--table",
    type=click.Choice(["gpt"]),
    help="First turn an MBR into a GPT in place, boot paths included: the way past 2 TiB.",
)
@click.option(
    "--partuuid-unchecked",
    is_flag=True,
    help="Convert although something names, or may name, partitions by the MBR's signature (PARTUUID).",
)
@key_option
@click.option("--drop-journal", is_flag=True, help="Only forget an interrupted run that cannot be completed.")
@dry_run_option
@expect_options
@yes_option
@json_option
@sector_option
@cache_option
@events_option
def command(
    disk: Path,
    journal: Path | None,
    table: str | None,
    partuuid_unchecked: bool,
    key_file: Path | None,
    drop_journal: bool,
    dry_run: bool,
    expected: Expected,
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
    convert = partial(plan_to_gpt, unchecked=partuuid_unchecked) if table else None
    with ExitStack() as stack:
        volume = stack.enter_context(closing(open_disk(disk, writable=not dry_run, sector_size=sector_size)))
        expected.check(volume)
        store = stack.enter_context(closing(open_journal(journal))) if journal and journal.exists() else None
        found = Journal(volume, store)
        if drop_journal and not dry_run:
            forget(found, volume, yes=yes)
            return
        interrupted = found.pending() is not None
        found.refuse_foreign()
        if dry_run:
            plan = rehearse(volume, convert)
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
        converted = convert_first(volume, store, convert, yes=yes, report=report)
        yes = yes or bool(converted.steps)
        plan = carry_out(volume, store, yes=yes, report=report)
        yes = yes or bool(plan.steps)
        inside = grow_inside(volume, plan, cache=cache, key=key, store=store, yes=yes, report=report)
    if as_json:
        done = Plan(plan.verb, volume, converted.steps + plan.steps, converted.notes + plan.notes)
        show_plan(done, as_json=True, also={"completed": interrupted})
        return
    for note in plan.notes if converted.steps else converted.notes + plan.notes:
        remark(f"note: {note}")
    grown = inside or bool(plan.steps)
    answer(outcome(converted=bool(converted.steps), grown=grown, interrupted=interrupted))


def outcome(*, converted: bool, grown: bool, interrupted: bool) -> str:
    """Say what was done."""
    if converted:
        return "converted to GPT and grown" if grown else "converted to GPT; nothing left to grow"
    if grown:
        return "grown"
    if interrupted:
        return "the interrupted change is completed; the disk is full"
    return "the disk is full already; nothing was written"


def convert_first(
    volume: FileVolume,
    store: FileVolume | None,
    convert: Callable[[Volume], Plan] | None,
    *,
    yes: bool,
    report: Report,
) -> Plan:
    """Make the disk a GPT disk where that is asked for; return what was done.

    Its notes are told before anything is written.
    """
    plan = convert(volume) if convert else Plan("grow", volume)
    if plan.steps:
        for note in plan.notes:
            report(Noted(note, volume.name))
        confirm(volume, "turn the MBR into a GPT and grow", yes=yes)
        grow(volume, plan=plan, store=store, report=report)
        volume.settle()
    return plan


def carry_out(volume: FileVolume, store: FileVolume | None, *, yes: bool, report: Report) -> Plan:
    """Grow the disk; return what was done."""
    plan = plan_grow(volume)
    if plan.steps:
        confirm(volume, "grow", yes=yes)
        grow(volume, plan=plan, store=store, report=report)
        volume.settle()
    return plan


def rehearse(volume: Volume, convert: Callable[[Volume], Plan] | None) -> Plan:
    """Return what would be done, where `convert` is given first that."""
    if not convert:
        return plan_grow(volume)
    plan = convert(volume)
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
