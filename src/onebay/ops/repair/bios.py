"""Heal what BIOS runs: the boot code of LBA 0 and GRUB's core behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Error, Refused
from onebay.base.step import Flush, Write
from onebay.boot import loader
from onebay.boot.paths import CODE_SIZE
from onebay.ops.bootpaths import boot_paths
from onebay.ops.repair.difference import PAGE
from onebay.table.kinds import BIOS_BOOT
from onebay.tree import discover

if TYPE_CHECKING:
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.ops.foldrecord import Core
    from onebay.ops.repair.job import Job
    from onebay.table import Table

MADE = "GRUB as it is installed here, the same build"


def heal_core(job: Job, table: Table) -> None:
    """Heal GRUB's core by the record of the fold; raises Refused where somebody else has its place."""
    core = job.record.core if job.record else None
    if core is None:
        return
    if core.at + core.size > job.view.size:
        job.fail("core-damaged", "the record puts GRUB's core beyond the end of the disk")
        return
    refuse_occupied(table, core.at, core.at + core.size)
    if loader.digest(job.view.read(core.at, core.size)) == core.sha256:
        return
    data, source = core_source(job, core)
    if data is None:
        job.fail("core-damaged", "GRUB's core for BIOS is damaged, and no source has it")
        return
    steps: list[Step] = [Write(job.view, core.at, data, "GRUB's core for BIOS"), Flush(job.view)]
    job.heal("core-damaged", "GRUB's core for BIOS is damaged", source, steps)


def refuse_occupied(table: Table, start: int, end: int) -> None:
    """Raise Refused where a partition of another type, or the table, has the place of GRUB's core."""
    who = next(
        (
            f"p{part.number} ({part.type_name})"
            for part in table.partitions
            if part.start < end and start < part.end and part.type != BIOS_BOOT
        ),
        "the partition table" if table.metadata().overlaps(start, end) else "",
    )
    if who:
        raise Refused(
            f"the place of GRUB's core ({start}..{end}) is occupied by {who}",
            volume=table.volume.name,
            at=start,
        )


def core_source(job: Job, core: Core) -> tuple[bytes | None, str]:
    """Return the core as it must stand on the disk, and where it comes from."""
    for kit in job.kits:
        data = kit.read(core.at, core.size)
        if data is not None and loader.digest(data) == core.sha256:
            return data, kit.name
    made = job.loader()
    if made is not None and made.core:
        try:
            data = loader.embedded_core(made.core, core.at // loader.SECTOR, core.size)
        except Error:
            return None, ""
        if loader.digest(data) == core.sha256:
            return data, MADE
    return None, ""


def heal_code(job: Job) -> None:
    """Heal the boot code of LBA 0; it comes last, so that it never leads nowhere."""
    record = job.record
    if record is None or record.core is None:
        return
    have = job.view.read(0, CODE_SIZE)
    if loader.digest(have) == record.code_sha256:
        return
    what = "is not the one of the fold" if any(have) else "is gone"
    for data, source in codes(job, record.core.at):
        if loader.digest(data) == record.code_sha256:
            steps: list[Step] = [Write(job.view, 0, data, "boot code in LBA 0"), Flush(job.view)]
            job.heal("code-damaged", f"the boot code in LBA 0 {what}", source, steps)
            return
    job.fail("code-damaged", f"the boot code in LBA 0 {what}, and no source has it")


def codes(job: Job, core_at: int) -> list[tuple[bytes, str]]:
    """Return candidates for the boot code."""
    found = [(data, kit.name) for kit in job.kits if (data := kit.read(0, CODE_SIZE)) is not None]
    made = job.loader() if not found else None
    if made is not None and made.code:
        found.append((loader.boot_code(made.code, core_at // loader.SECTOR), MADE))
    return found


def heal_by_kit(job: Job, table: Table) -> list[Step]:
    """Heal the BIOS path of a disk that was not folded: what the kit has, where it does not work now.

    Returns the steps that come last, those of the boot code.
    """
    kit = job.kit
    if kit is None or job.record is not None:
        return []
    (bios, *_) = boot_paths(discover([job.view]))
    if bios.works:
        return []
    steps: list[Step] = []
    cores = {f"p{part.number}" for part in kit.facts.partitions if part.fs == "core"}
    for region in kit.facts.regions:
        if region.what != "gap" and region.what not in cores:
            continue
        for at, data in kit.pieces(region):
            if job.view.read(at, len(data)) != data:
                refuse_occupied(table, at, at + len(data))
                steps += pages(job.view, at, data)
    if steps:
        what = f"BIOS cannot boot the disk: {bios.why}"
        job.heal("core-damaged", what, kit.name, [*steps, Flush(job.view)])
    code = kit.read(0, CODE_SIZE)
    if code is None or code == job.view.read(0, CODE_SIZE):
        return []
    return [Write(job.view, 0, code, "boot code in LBA 0"), Flush(job.view)]


def pages(disk: Volume, at: int, data: bytes) -> list[Step]:
    """Return the writes of those pages of `data` that the disk does not have."""
    steps: list[Step] = []
    for start in range(0, len(data), PAGE):
        part = data[start : start + PAGE]
        if disk.read(at + start, len(part)) != part:
            steps.append(Write(disk, at + start, part, "what stands before the first partition"))
    return steps
