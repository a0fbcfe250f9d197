"""onebay verify: an image against itself, or a disk against an image."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import click

from onebay.base.error import Unsupported
from onebay.base.units import human
from onebay.cli.options import PATH, json_option, reading_options
from onebay.cli.progress import answer, events_option, renderer
from onebay.cli.trusting import trust_options
from onebay.image import Image, Stream
from onebay.ops.disk import open_any
from onebay.ops.restore import open_image
from onebay.ops.verify import verify_against
from onebay.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.block import Reading
    from onebay.ops.trust import Trust
    from onebay.ops.verify import Compared


@click.command()
@click.argument("image")
@click.option("--against", type=PATH, metavar="DISK", help="Compare this disk with the image.")
@trust_options
@json_option
@events_option
@reading_options
def command(
    image: str, against: Path | None, trust: Trust, as_json: bool, events: bool, reading: Reading
) -> None:
    """Check every byte of IMAGE (a file or an http(s) URL), or that a disk holds what IMAGE says.

    A disk that has grown since it was restored is equal where all data are; what growing wrote is named.
    """
    report = renderer(events=events)
    with closing(open_source(image)) as source:
        opened = open_image(source)
        if isinstance(opened, Stream):
            raise Unsupported("a pipe cannot be verified here", volume=opened.name, hint="zstd -t, or a file")
        assert isinstance(opened, Image)
        trust.check(opened)
        if against is None:
            digest = opened.verify(report=report)
            result: dict[str, object] = {"image": image, "root": digest, "disk_size": opened.disk_size}
            plain = f"{image}: whole, root digest {digest}"
        else:
            sector_size = opened.manifest.sector_size
            with closing(open_any(against, reading, sector_size=sector_size, report=report)) as disk:
                found = verify_against(opened, disk, report=report)
            explained = [{"why": why, "size": size} for why, size in found.explained.items()]
            result = {"image": image, "against": str(against), "equal": found.equal, "explained": explained}
            plain = "\n".join(lines(image, against, found))
    answer(json.dumps(result, indent=2) if as_json else plain)


def lines(image: str, against: Path, found: Compared) -> list[str]:
    """Return what was found, for people."""
    if not found.explained:
        return [f"{against}: equal to {image} in all {human(found.equal)} that matter"]
    total = human(sum(found.explained.values()))
    return [
        f"{against}: all data are equal to {image}, {human(found.equal)}; "
        f"{total} of metadata differ because the disk has grown:",
        *(f"  {why} ({human(size)})" for why, size in sorted(found.explained.items())),
    ]
