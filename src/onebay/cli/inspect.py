"""onebay inspect: the layer tree, gaps, boot paths and findings of a disk; or what is in a package."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused
from onebay.cli import package, picture
from onebay.cli.growing import read_key
from onebay.cli.options import PATH, inside_option, json_option, reading_options, sector_option
from onebay.cli.progress import answer, renderer
from onebay.cli.svg import svg as draw
from onebay.ops.disk import open_any
from onebay.ops.inspect import inspect
from onebay.ops.payload import find_payload

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.block import Reading


@click.command()
@click.argument("disk", type=PATH)
@json_option
@click.option("--svg", type=PATH, metavar="FILE", help="Draw the disk into FILE.")
@inside_option("what is inside is shown, too")
@sector_option
@reading_options
def command(
    disk: Path,
    as_json: bool,
    svg: Path | None,
    key_file: Path | None,
    sector_size: int | None,
    reading: Reading,
) -> None:
    """Show what is on DISK, a block device or an image in any format, without writing anything to it.

    Of an appliance's system package (.pat) it shows model, version, members, and whether its checksums hold.
    """
    if svg is not None and svg.exists() and not is_picture(svg):
        raise Refused("exists already and is no picture", volume=str(svg), hint="another name")
    report = renderer()
    if reading.form is None and (payload := find_payload(disk, max_size=reading.max_size, report=report)):
        if svg is not None:
            raise Refused("a package is no disk: there is nothing to draw", volume=str(disk))
        shown = (
            json.dumps(package.document(payload), indent=2) if as_json else "\n".join(package.text(payload))
        )
        answer(shown)
        return
    key = read_key(key_file) if key_file else b""
    with closing(open_any(disk, reading, sector_size=sector_size, report=report)) as volume:
        document = inspect(volume, key=key, report=report)
    if svg is not None:
        try:
            svg.write_text(draw(document), "utf-8")
        except OSError as error:
            raise Refused(f"cannot write the picture: {error.strerror}", volume=str(svg)) from error
    if as_json:
        answer(json.dumps(document, indent=2))
    else:
        answer("\n".join(picture.text(document)))


def is_picture(path: Path) -> bool:
    """Whether a file is one that we may draw anew: an SVG, or empty."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in (b"", b"<svg")
