"""onebay capture: the used blocks of a whole disk as one image."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.cli.boot import cache_option
from onebay.cli.growing import read_key
from onebay.cli.options import (
    PATH,
    check_place,
    dry_run_option,
    inside_option,
    json_option,
    reading_options,
    sector_option,
)
from onebay.cli.progress import answer, events_option, human, renderer
from onebay.cli.shrink import kernel_of, scratch_folder, scratch_option, show, tell_notes
from onebay.ops.capture import SUFFIX, Captured, capture, look, needed_with, refuse_busy
from onebay.ops.disk import open_any
from onebay.ops.shrink import find_route, plan_shrink
from onebay.ops.shrinkdisk import shrunk, warn_losses

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import Reading, Volume


@click.command()
@click.argument("disk", type=PATH)
@click.argument("image", type=PATH)
@click.option("--all", "everything", is_flag=True, help="Keep the whole tail, not only its first 256 MiB.")
@click.option("--minimize", is_flag=True, help="Make the disk in the image as small as it can be.")
@inside_option("only what is used inside is kept, encrypted as it is")
@scratch_option
@click.option("--level", type=click.IntRange(1, 19), default=3, show_default=True, help="zstd level.")
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--yes", is_flag=True, help="Replace IMAGE where it exists.")
@dry_run_option
@json_option
@sector_option
@reading_options
@cache_option
@events_option
def command(
    disk: Path,
    image: Path,
    everything: bool,
    minimize: bool,
    key_file: Path | None,
    scratch: Path | None,
    level: int,
    threads: int,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    sector_size: int | None,
    events: bool,
    reading: Reading,
    cache: Path,
) -> None:
    """Write what matters of DISK to IMAGE, a plain zstd file of the raw disk (NAME.raw.zst)."""
    if minimize and everything:
        raise click.UsageError("--all keeps the tail, --minimize cuts it")
    if not image.name.endswith(SUFFIX):
        raise click.UsageError(f"IMAGE must end in {SUFFIX}")
    check_place(image)
    if image.exists() and not yes and not dry_run:
        raise Refused("exists already", volume=str(image), hint="another name, or --yes to replace it")
    report = renderer(events=events)
    key = read_key(key_file) if key_file else b""
    if image.exists() and disk.exists() and image.samefile(disk):
        raise Refused("the image would replace the disk", volume=str(image))
    with ExitStack() as stack:
        opened = open_any(disk, reading, sector_size=sector_size, report=report)
        volume = stack.enter_context(closing(opened))
        if minimize and dry_run:
            refuse_busy(volume)
            show(plan_shrink(find_route(volume)), as_json=as_json)
            return
        if minimize:
            folder = scratch_folder(scratch, image.parent)
            captured = minimal(volume, key, folder, cache, stack, report)
        else:
            captured = look(volume, everything=everything, key=key, report=report)
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
        f"of {human(captured.disk.size)}, in {summary.seconds:.1f} s"
    )


def minimal(
    volume: Volume, key: bytes, folder: Path, cache: Path, stack: ExitStack, report: Report
) -> Captured:
    """Return the capture of the smallest disk that `volume` can be; what it needs is freed by `stack`."""
    refuse_busy(volume)
    plan = plan_shrink(find_route(volume))
    warn_losses(plan, report)
    making = shrunk(plan, folder=folder, kernel=kernel_of(cache, report), to=None, report=report)
    made = stack.enter_context(making)
    tell_notes(made.plan)
    keep = needed_with(made.tree, key, report=report)
    return Captured(made.disk, made.tree, keep, original=volume.size)
