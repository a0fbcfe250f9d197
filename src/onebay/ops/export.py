"""export: a disk, or the disk in an image, as a file that other programs and clouds take.

Only what matters is written, as a capture decides; the rest is zero, so that the export of a dirty disk is no
larger than its used data. Where a format or a place wants another size, the disk becomes larger and its
backup GPT moves along, on an overlay: what is exported from is never written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.base.error import Refused, Unsupported
from onebay.base.event import silent
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, apply
from onebay.block import Masked, Overlay
from onebay.image import ImageVolume
from onebay.ops.capture import look
from onebay.table import Table, plan_fill
from onebay.tree import discover

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.ops.exportforms import Form, Preset

GRID = 4096


@dataclass(frozen=True)
class Export:
    """What will be written: `view` is the whole disk as it will be, `mapped` are its bytes that matter.

    `kept` is the size in bytes of what matters of the source, `size_before` its size.
    """

    view: Volume
    mapped: ExtentSet
    form: Form
    kept: int
    size_before: int
    notes: list[str] = field(default_factory=list)


def plan_export(disk: Volume, form: Form, preset: Preset | None = None, *, report: Report = silent) -> Export:
    """Look at a disk and decide what will be written; raises Refused where a preset's rule cannot be met.

    Also raises what looking at the disk raises: in use, half-changed, no disk.
    """
    keep = disk.image.keep if isinstance(disk, ImageVolume) else look(disk, report=report).keep
    keep = keep.align(GRID).clip(0, disk.size)  # as images have it, so that both exports are alike
    notes: list[str] = []
    multiple = max(form.multiple, preset.multiple if preset else 1)
    size = -(-max(disk.size, preset.least if preset else 0) // multiple) * multiple
    if preset is not None:
        refuse_rules(disk, size, preset)
    elif disk.sector_size != 512 and not form.plain:
        notes.append(f"virtual machines show this disk with 512-byte sectors; it has {disk.sector_size}")
    view = Overlay(Masked(disk, keep), size=size)
    if size != disk.size:
        steps = fill(disk, view)
        keep |= ExtentSet.of((s.at, s.at + s.size) for s in steps if not isinstance(s, Flush))
        notes.append(f"grows from {disk.size} to {size} bytes, a multiple of {multiple}")
        notes += sorted({step.why for step in steps if not isinstance(step, Flush)})
    return Export(view, keep, form, keep.size, disk.size, notes)


def refuse_rules(disk: Volume, size: int, preset: Preset) -> None:
    """Raise Refused or Unsupported where the place would not take the disk."""
    if preset.most is not None and size > preset.most:
        raise Refused(
            f"too large for {preset.name}",
            volume=disk.name,
            expected=f"at most {preset.most} bytes",
            found=size,
        )
    if disk.sector_size != 512:
        raise Unsupported(
            f"{preset.name} shows disks with 512-byte sectors", volume=disk.name, found=disk.sector_size
        )


def fill(disk: Volume, view: Overlay) -> list[Step]:
    """Let the table of the enlarged `view` cover it; return the steps, which are carried out on it.

    Raises Refused where no table tells what belongs at the disk's end.
    """
    table = discover([view]).on(view)
    if not isinstance(table, Table):
        raise Refused(
            "must become larger for this format, and has no partition table",
            volume=disk.name,
            expected=f"{view.size} bytes",
            found=disk.size,
            hint="capture it, then onebay restore IMAGE OUT.img --size SIZE",
        )
    steps = plan_fill(table)
    for step in steps:
        apply(step)
    return steps
