"""onebay repair: make a folded disk boot again."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebay.base.error import NOTHING_WRITTEN, Incomplete
from onebay.block import open_disk
from onebay.cli.options import (
    PATH,
    confirm,
    dry_run_option,
    expect_options,
    json_option,
    sector_option,
    yes_option,
)
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.ops.identity import warn_twins
from onebay.ops.journal import Journal
from onebay.ops.kit import load_kit
from onebay.ops.repair import RepairPlan, plan_repair, repair
from onebay.ops.repair.plan import complete_interrupted
from onebay.source import open_source

if TYPE_CHECKING:
    from onebay.cli.options import Expected
    from onebay.ops.kitformat import Kit

FORMAT = 1


@click.command()
@click.argument("disk", type=PATH)
@click.option("--kit", metavar="KIT", help="A kit or an image of this disk: a file, -, or an http(s) URL.")
@dry_run_option
@expect_options
@yes_option
@json_option
@sector_option
@events_option
def command(
    disk: Path,
    kit: str | None,
    dry_run: bool,
    expected: Expected,
    yes: bool,
    as_json: bool,
    sector_size: int | None,
    events: bool,
) -> None:
    """Find what keeps DISK from booting and heal it: from the disk itself, its tail, or KIT.

    The appliance's own partitions are never written. A repair that was interrupted is completed first.
    """
    report = renderer(events=events)
    given = read_kit(kit) if kit is not None else None
    with (
        closing(open_disk(disk, writable=not dry_run, sector_size=sector_size)) as volume,
        tempfile.TemporaryDirectory(prefix="onebay-") as name,
    ):
        expected.check(volume)
        if not dry_run:
            warn_twins(volume, report=report)
        if not dry_run and Journal(volume).pending() is not None:
            confirm(volume, "complete an interrupted change of", yes=yes)
            complete_interrupted(volume, report=report)
        plan = plan_repair(volume, scratch=Path(name), kit=given)
        if not as_json:
            answer("\n".join(lines(plan)))
        if plan.steps and not dry_run:
            confirm(volume, "repair", yes=yes)
            repair(plan, report=report)
            volume.settle()
        if as_json:
            answer(json.dumps(document(plan, carried_out=not dry_run), indent=2))
        refuse_unhealed(plan, carried_out=not dry_run)


def read_kit(text: str) -> Kit:
    """Read the kit at a path or URL; raises SourceError, Damaged or Unsupported."""
    with closing(open_source(text)) as source:
        return load_kit(source)


def lines(plan: RepairPlan) -> list[str]:
    """Return a plan for people: what is wrong, what heals it, the steps, and what then boots."""
    found = [
        f"{wrong.outcome}: {wrong.text}" + (f" (from {wrong.source})" if wrong.source else "")
        for wrong in plan.wrong
    ]
    found += [f"note: {note}" for note in plan.notes]
    found += list(plan.lines())
    found += [
        f"{path.firmware}: {'boots' if path.works else 'does not boot'} {path.what}"
        + (f" ({path.why})" if path.why else "")
        for path in plan.boot
    ]
    if not plan.steps:
        found.append(f"{'nothing to heal' if plan.wrong else 'nothing is wrong'}; nothing was written")
    return found


def document(plan: RepairPlan, *, carried_out: bool) -> dict[str, object]:
    """Return a plan for programs (docs/verbs/repair.md)."""
    return {
        "format": FORMAT,
        "disk": plan.disk.name,
        "wrong": [asdict(wrong) for wrong in plan.wrong],
        "boot": [asdict(path) for path in plan.boot],
        "steps": len(plan.steps),
        "bytes": plan.size,
        "written": carried_out and bool(plan.steps),
        "notes": plan.notes,
    }


def refuse_unhealed(plan: RepairPlan, *, carried_out: bool) -> None:
    """Raise Incomplete where something of the boot path could not be healed."""
    if not plan.unhealed:
        return
    written = carried_out and bool(plan.steps)
    for wrong in plan.unhealed[1:]:
        remark(f"unhealed: {wrong.text}")
    raise Incomplete(
        plan.unhealed[0].text,
        volume=plan.disk.name,
        hint="give the kit of this disk, or an image of it, with --kit",
        state="what could be healed is healed" if written else NOTHING_WRITTEN,
    )
