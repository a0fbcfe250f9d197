"""Plan a repair bottom-up: table, content, core, entries, flag, boot code; then name what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.base.event import silent
from onebay.ops.bootpaths import boot_paths
from onebay.ops.grow import complete, has_room
from onebay.ops.journal import Journal
from onebay.ops.kit import find_copies
from onebay.ops.repair import bios, sources, table
from onebay.ops.repair.content import heal_content
from onebay.ops.repair.job import Job, RepairPlan
from onebay.ops.run import Planner, execute
from onebay.table import Table
from onebay.tree import discover

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.ops.kitformat import Kit, KitPart

__all__ = ["plan_repair", "repair"]

REASONS = {
    "md-size-mismatch": "not healed: what lies behind the partition's end may hold data; give it its old end",
    "md-incomplete": "not healed: a member is missing",
}


def plan_repair(disk: Volume, *, scratch: Path, kit: Kit | None = None) -> RepairPlan:
    """Return the steps that make `disk` boot again; an empty plan where nothing is wrong.

    `scratch` is an empty folder. Raises Refused where somebody else has the place of a boot partition, the
    table must not be written, or `kit` is of another disk; Damaged where there is no table to go by.
    """
    plan = RepairPlan("repair", disk)
    job = Job(Planner("repair", disk), plan, scratch)
    if kit is not None:
        job.kits = [kit]  # until the table is there, all that can be asked
    tree, found = table.mend_table(job)
    job.kits = []
    sources.gather(job, tree, found, kit)
    parts, teller = sources.wanted(job, found)
    if job.record is None:
        job.record = sources.kit_record(job)
    heal_parts(job, found, parts, teller)
    if not parts:
        unknown(job)
    finish(job)
    plan.steps = job.planner.plan.steps
    return plan


def heal_parts(job: Job, found: Table, parts: list[KitPart], teller: str) -> None:
    """Heal the boot partitions and what BIOS runs, each in its turn."""
    places = [(part, table.place_of(found, part)) for part in parts]
    for part, here in places:
        heal_content(job, part, missing=here is None)
    if job.record is None and job.kits:
        job.record = sources.kit_record(job)
    bios.heal_core(job, found)
    table.add_entries(job, found, [part for part, here in places if here is None], teller)
    for part, here in places:
        now = discover([job.view]).on(job.view)
        if here is not None and isinstance(now, Table):
            table.mend_type(job, now, part, here)
    now = discover([job.view]).on(job.view)
    home = next((part for part in parts if part.home), None)
    if isinstance(now, Table) and home is not None:
        table.mend_active(job, now, home.start)
    bios.heal_code(job)
    if isinstance(now, Table) and (last := bios.heal_by_kit(job, now)):
        job.heal("code-damaged", "the boot code in LBA 0 is not the kit's", teller, last)


def unknown(job: Job) -> None:
    """Say what is known of a disk that was never folded, or whose fold left no trace."""
    if any(path.works for path in boot_paths(discover([job.view]))):
        job.note("the disk was not folded, and there is no kit: only its table was looked at")
    else:
        job.fail("no-trace", "nothing on the disk boots, and nothing tells what did; give its kit with --kit")


def finish(job: Job) -> None:
    """Look at the disk as it will be: whether it boots, and what is wrong besides."""
    tree = discover([job.view])
    job.plan.boot = boot_paths(tree)
    core = job.record.core if job.record else None
    for path in job.plan.boot:
        due = core is not None if path.firmware == "bios" else job.record is not None
        if due and not path.works and not job.plan.unhealed:
            job.fail("boot-path", f"{path.firmware} still cannot boot the disk: {path.why}")
    for finding in tree.all_findings():
        if finding.severity != "note":
            reason = REASONS.get(finding.kind)
            text = f"{finding.volume}: {finding.text}"
            job.name(finding.kind, f"{text} ({reason})" if reason else text)
    found = tree.on(job.view)
    if job.record is not None and isinstance(found, Table) and not find_copies(job.view, found):
        job.note("there is no copy of the boot kit in the tail; keep one in a file (onebay kit)")


def repair(plan: RepairPlan, *, report: Report = silent) -> None:
    """Carry a repair out; what no order makes safe goes through the journal where the tail has room."""
    journal = Journal(plan.disk)
    try:
        use = has_room(plan, journal)
    except Refused:
        use = False  # a file system that is damaged anyway; cut short, the same repair begins again
    execute(plan, journal=journal if use else None, report=report)


def complete_interrupted(disk: Volume, *, report: Report = silent) -> bool:
    """Complete a change that was interrupted, and return whether there was one."""
    return complete(Journal(disk), report=report)
