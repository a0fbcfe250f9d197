"""onebay capture: the used blocks of a whole disk as one image."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.base.units import human
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
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.cli.shrink import kernel_of, scratch_folder, scratch_option, show, tell_notes
from onebay.image import StreamSink
from onebay.ops.capture import SUFFIX, Captured, capture, look, needed_with, refuse_busy
from onebay.ops.disk import open_any
from onebay.ops.shrink import find_route, plan_shrink
from onebay.ops.shrinkdisk import shrunk, warn_losses
from onebay.source import HttpPut
from onebay.source.exchange import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.event import Report
    from onebay.block import Reading, Volume

STDOUT = "-"


@click.command()
@click.argument("disk", type=PATH)
@click.argument("image")
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
    image: str,
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
    """Write what matters of DISK to IMAGE, a plain zstd file of the raw disk (NAME.raw.zst).

    IMAGE may be - for standard output, or an http(s) URL, to which it is sent by PUT. What was cut on the way
    has no end: onebay verify says so.
    """
    place = check_image(image, yes=yes, dry_run=dry_run)
    if minimize and everything:
        raise click.UsageError("--all keeps the tail, --minimize cuts it")
    report = renderer(events=events)
    key = read_key(key_file) if key_file else b""
    if place and place.exists() and disk.exists() and place.samefile(disk):
        raise Refused("the image would replace the disk", volume=image)
    with ExitStack() as stack:
        opened = open_any(disk, reading, sector_size=sector_size, report=report)
        volume = stack.enter_context(closing(opened))
        if minimize and dry_run:
            refuse_busy(volume)
            show(plan_shrink(find_route(volume)), as_json=as_json)
            return
        if minimize:
            folder = scratch_folder(scratch, place.parent if place else Path(tempfile.gettempdir()))
            captured = minimal(volume, key, folder, cache, stack, report)
        else:
            captured = look(volume, everything=everything, key=key, report=report)
        if dry_run:
            document = {"disk": volume.name, "size": volume.size, "keep": captured.keep.size}
            plain = f"{human(captured.keep.size)} of {human(volume.size)} matter; nothing was written"
            answer(json.dumps(document) if as_json else plain)
            return
        out = stack.enter_context(sending(image, replace=yes)) if place is None else place
        summary = capture(captured, out, level=level, threads=threads, report=report)
    tell = remark if image == STDOUT else answer
    if as_json:
        fields = ("disk_size", "image_size", "frames", "data", "zero", "dont_care", "root", "seconds")
        document = {"image": shown(image), **{key: getattr(summary, key) for key in fields}}
        tell(json.dumps(document, indent=2))
        return
    tell(
        f"{shown(image)}: {human(summary.image_size)} for {human(captured.keep.size)} that matter "
        f"of {human(captured.disk.size)}, in {summary.seconds:.1f} s"
    )


def check_image(image: str, *, yes: bool, dry_run: bool) -> Path | None:
    """Return the path of the image, None where it is a stream; raises UsageError, Refused, Unsupported."""
    if image == STDOUT:
        if sys.stdout.isatty() and not dry_run:
            raise Refused("an image is nothing for a terminal", volume="standard output")
        return None
    if image.partition("://")[0].lower() in ("http", "https"):
        parse_url(image)
        return None
    path = Path(image)
    if not path.name.endswith(SUFFIX):
        raise click.UsageError(f"IMAGE must end in {SUFFIX}, or be - or an http(s) URL")
    check_place(path)
    if path.exists() and not yes and not dry_run:
        raise Refused("exists already", volume=image, hint="another name, or --yes to replace it")
    return path


def shown(image: str) -> str:
    """Return how an image is named to people: without what a URL has of passwords and signatures."""
    if image == STDOUT:
        return "standard output"
    return parse_url(image)[0]._replace(query="").geturl() if "://" in image else image


@contextmanager
def sending(image: str, *, replace: bool) -> Iterator[StreamSink]:
    """Give what sends an image to standard output or by PUT; raises SourceError."""
    if image == STDOUT:
        yield StreamSink(shown(image), to_stdout)
        return
    put = HttpPut(image, replace=replace)
    with closing(put):
        yield StreamSink(put.name, put.push, put.finish)


def to_stdout(data: bytes) -> None:
    """Write all of `data` to standard output, past every buffer; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


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
