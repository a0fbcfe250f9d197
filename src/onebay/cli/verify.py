"""onebay verify: an image against itself, or a disk against an image."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import click

from onebay.base.error import Unsupported
from onebay.block import open_disk
from onebay.cli.options import PATH, json_option
from onebay.cli.progress import answer, events_option, human, renderer
from onebay.image import Image, Stream
from onebay.ops.restore import open_image
from onebay.ops.verify import verify_against
from onebay.source import open_source

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("image")
@click.option("--against", type=PATH, metavar="DISK", help="Compare this disk with the image.")
@json_option
@events_option
def command(image: str, against: Path | None, as_json: bool, events: bool) -> None:
    """Check every byte of IMAGE (a file or an http(s) URL), or that a disk holds what IMAGE says."""
    report = renderer(events=events)
    with closing(open_source(image)) as source:
        opened = open_image(source)
        if isinstance(opened, Stream):
            raise Unsupported("a pipe cannot be verified here", volume=opened.name, hint="zstd -t, or a file")
        assert isinstance(opened, Image)
        if against is None:
            digest = opened.verify(report=report)
            result = {"image": image, "root": digest, "disk_size": opened.disk_size}
            plain = f"{image}: whole, root digest {digest}"
        else:
            with closing(open_disk(against, sector_size=opened.manifest.sector_size)) as disk:
                size = verify_against(opened, disk, report=report)
            result = {"image": image, "against": str(against), "equal": size}
            plain = f"{against}: equal to {image} in all {human(size)} that matter"
    answer(json.dumps(result, indent=2) if as_json else plain)
