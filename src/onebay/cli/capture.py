"""onebay capture: the used blocks of a whole disk as one image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.cli.options import (
    PATH,
    check_place,
    dry_run_option,
    json_option,
    reading_options,
    sector_option,
)
from onebay.cli.progress import answer, events_option, human, renderer
from onebay.ops.capture import SUFFIX, capture, look
from onebay.ops.disk import open_any

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.block import Reading


@click.command()
@click.argument("disk", type=PATH)
@click.argument("image", type=PATH)
@click.option("--all", "everything", is_flag=True, help="Keep the whole tail, not only its first 256 MiB.")
@click.option("--level", type=click.IntRange(1, 19), default=3, show_default=True, help="zstd level.")
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--yes", is_flag=True, help="Replace IMAGE where it exists.")
@dry_run_option
@json_option
@sector_option
@reading_options
@events_option
def command(
    disk: Path,
    image: Path,
    everything: bool,
    level: int,
    threads: int,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    sector_size: int | None,
    events: bool,
    reading: Reading,
) -> None:
    """Write what matters of DISK to IMAGE, a plain zstd file of the raw disk (NAME.raw.zst)."""
    if not image.name.endswith(SUFFIX):
        raise click.UsageError(f"IMAGE must end in {SUFFIX}")
    check_place(image)
    if image.exists() and not yes and not dry_run:
        raise Refused("exists already", volume=str(image), hint="another name, or --yes to replace it")
    report = renderer(events=events)
    if image.exists() and disk.exists() and image.samefile(disk):
        raise Refused("the image would replace the disk", volume=str(image))
    volume = open_any(disk, reading, sector_size=sector_size, report=report)
    captured = look(volume, everything=everything, report=report)
    if dry_run:
        document = {"disk": volume.name, "size": volume.size, "keep": captured.keep.size}
        plain = f"{human(captured.keep.size)} of {human(volume.size)} matter; nothing was written"
        answer(json.dumps(document) if as_json else plain)
        return
    summary = capture(captured, image, level=level, threads=threads, report=report)
    if as_json:
        fields = ("disk_size", "image_size", "frames", "data", "zero", "dont_care", "root", "seconds")
        document = {"image": str(image), **{key: getattr(summary, key) for key in fields}}
        answer(json.dumps(document, indent=2))
        return
    answer(
        f"{image}: {human(summary.image_size)} for {human(captured.keep.size)} that matter "
        f"of {human(volume.size)}, in {summary.seconds:.1f} s"
    )
