"""onebay kit: what makes a disk boot, as one small file."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebay.base.error import NOTHING_WRITTEN, Refused
from onebay.base.units import human
from onebay.cli.options import PATH, check_place, json_option, reading_options, sector_option
from onebay.cli.progress import answer, renderer
from onebay.ops.capture import refuse_unsteady
from onebay.ops.disk import open_any
from onebay.ops.identity import warn_twins
from onebay.ops.kit import describe, load_kit, make_kit
from onebay.ops.run import on_failure
from onebay.source import open_source
from onebay.tree import discover

if TYPE_CHECKING:
    from onebay.block import Reading


@click.command()
@click.argument("disk", type=PATH)
@click.argument("kit", type=PATH)
@click.option("--yes", is_flag=True, help="Replace KIT where it exists.")
@json_option
@sector_option
@reading_options
def command(
    disk: Path, kit: Path, yes: bool, as_json: bool, sector_size: int | None, reading: Reading
) -> None:
    """Write the boot kit of DISK to the file KIT: all that `onebay repair --kit` needs to make it boot again.

    DISK is only read.
    """
    check_place(kit)
    if kit.exists() and not yes:
        raise Refused("exists already", volume=str(kit), hint="another name, or --yes to replace it")
    if kit.exists() and (not kit.is_file() or (disk.exists() and kit.samefile(disk))):
        raise Refused("not a file that a kit may replace", volume=str(kit))
    report = renderer()
    with (
        closing(open_any(disk, reading, sector_size=sector_size, report=report)) as volume,
        on_failure(f"{NOTHING_WRITTEN} to the disk; there is no kit", str(kit)),
        tempfile.TemporaryDirectory(prefix=".onebay-", dir=kit.parent) as name,
    ):
        refuse_unsteady(volume)
        warn_twins(volume, report=report)
        unfinished = Path(name) / "kit"
        with unfinished.open("xb") as file:
            size = make_kit(discover([volume]), file)
            file.flush()
            os.fsync(file.fileno())
        with closing(open_source(str(unfinished))) as source:  # what was written is what will be read
            made = load_kit(source)
        unfinished.replace(kit)
    if as_json:
        answer(json.dumps({"kit": str(kit), "size": size, **describe(made)}, indent=2))
        return
    parts = ", ".join(f"p{part.number} ({part.fs})" for part in made.facts.partitions) or "boot code"
    answer(f"{kit}: {human(size)} for {parts}")
