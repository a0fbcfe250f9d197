"""onebay export: a disk or an image as a file for virtual machines and clouds."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.base.units import human
from onebay.cli.options import (
    PATH,
    check_place,
    dry_run_option,
    json_option,
    reading_options,
    sector_option,
)
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.ops.disk import open_any, open_image_disk
from onebay.ops.export import plan_export
from onebay.ops.exportforms import FORMS, PRESETS, form_of
from onebay.ops.exportwrite import write_export

if TYPE_CHECKING:
    from onebay.block import Reading
    from onebay.ops.export import Export
    from onebay.ops.exportforms import Form, Preset


@click.command()
@click.argument("image")
@click.argument("out", type=PATH)
@click.option("--format", "wanted", type=click.Choice(list(FORMS)), help="Default: by the suffix of OUT.")
@click.option("--for", "place", type=click.Choice(list(PRESETS)), help="Meet the rules of this place.")
@click.option("--bmap", is_flag=True, help="Write OUT.bmap too, for bmaptool (raw, img.gz, img.xz).")
@click.option("--sums", is_flag=True, help="Add OUT to SHA256SUMS beside it.")
@click.option("--threads", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option("--yes", is_flag=True, help="Replace OUT where it exists.")
@dry_run_option
@json_option
@sector_option
@events_option
@reading_options
def command(
    image: str,
    out: Path,
    wanted: str | None,
    place: str | None,
    bmap: bool,
    sums: bool,
    threads: int,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    sector_size: int | None,
    events: bool,
    reading: Reading,
) -> None:
    """Write what matters of IMAGE (one of ours, a URL of one, or any disk) to OUT, in another format.

    IMAGE is only read. OUT gets its name when it is whole.
    """
    form, preset = choose(out, wanted, place)
    if bmap and not form.plain:
        raise click.UsageError(f"--bmap describes raw disks, not {form.name}")
    check_place(out)
    refuse_existing(image, out, bmap=bmap, yes=yes or dry_run)
    report = renderer(events=events)
    disk = (
        open_image_disk(image)
        if "://" in image
        else open_any(Path(image), reading, sector_size=sector_size, report=report)
    )
    with closing(disk):
        export = plan_export(disk, form, preset, report=report)
        written: list[Path] = []
        if not dry_run:
            if not as_json:
                for note in export.notes:
                    remark(f"note: {note}")
            written = write_export(export, out, bmap=bmap, sums=sums, threads=threads, report=report)
    say(image, out, export, written, as_json=as_json)


def choose(out: Path, wanted: str | None, place: str | None) -> tuple[Form, Preset | None]:
    """Return format and preset; raises UsageError where they or OUT's name contradict one another."""
    preset = PRESETS[place] if place else None
    named = form_of(out.name)
    if preset is not None:
        form = FORMS[preset.form]
        if wanted not in (None, form.name):
            raise click.UsageError(f"{place} takes {form.name}, not {wanted}")
    elif wanted is not None:
        form = FORMS[wanted]
    elif named is not None:
        form = named
    else:
        raise click.UsageError(f"the suffix of OUT says no format; --format is one of {', '.join(FORMS)}")
    if not out.name.lower().endswith(form.suffixes):
        raise click.UsageError(f"OUT must end in {' or '.join(form.suffixes)} for {form.name}")
    return form, preset


def refuse_existing(image: str, out: Path, *, bmap: bool, yes: bool) -> None:
    """Raise Refused where OUT is IMAGE, no ordinary file, or there already."""
    for path in (out, *([out.with_name(f"{out.name}.bmap")] if bmap else [])):
        if not path.exists():
            continue
        if not path.is_file() or (Path(image).exists() and path.samefile(image)):
            raise Refused("not a file that an export may replace", volume=str(path))
        if not yes:
            raise Refused("exists already", volume=str(path), hint="another name, or --yes to replace it")


def say(image: str, out: Path, export: Export, written: list[Path], *, as_json: bool) -> None:
    """Print what was or would be written."""
    size = out.stat().st_size if written else None
    if as_json:
        document = {
            "image": image,
            "out": str(out),
            "format": export.form.name,
            "disk_size": export.view.size,
            "disk_size_before": export.size_before,
            "kept": export.kept,
            "notes": export.notes,
            "written": [str(path) for path in written],
            "size": size,
        }
        answer(json.dumps(document, indent=2))
        return
    amount = f"{human(export.kept)} that matter of a disk of {human(export.view.size)}"
    if size is None:
        answer(
            "\n".join(
                [
                    *(f"note: {note}" for note in export.notes),
                    f"would write {amount} as {export.form.name}; nothing was written",
                ]
            )
        )
        return
    answer(f"{out}: {export.form.name}, {human(size)} for {amount}")
    for path in written[1:]:
        answer(str(path))
