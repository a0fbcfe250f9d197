"""onebay sample: build the sample appliance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onebay.base import tool
from onebay.base.error import Refused
from onebay.cli.boot import cache_option
from onebay.cli.options import PATH
from onebay.cli.progress import events_option, renderer
from onebay.sample import build as samples
from onebay.sample.layout import LAYOUTS

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def command() -> None:
    """A small real NAS on two disks, made from Debian packages, to try everything on."""


@command.command()
@click.argument("layout", type=click.Choice([layout.name for layout in LAYOUTS]))
@click.argument("directory", type=PATH)
@click.option("--sector-size", type=click.Choice(["512", "4096"]), default="512", show_default=True)
@click.option("--mini", is_flag=True, help="The miniature: same structure, a few files, does not boot.")
@cache_option
@events_option
def build(layout: str, directory: Path, sector_size: str, mini: bool, cache: Path, events: bool) -> None:
    """Make the disks of LAYOUT as data.img and boot.img in DIRECTORY."""
    for name in ("data.img", "boot.img"):
        if (directory / name).exists():
            raise Refused("exists already", volume=str(directory / name))
    make = samples.build_mini if mini else samples.build
    sample = make(layout, cache=cache, sector_size=int(sector_size), report=renderer(events=events))
    directory.mkdir(parents=True, exist_ok=True)
    for source in (sample.data, sample.boot):
        target = directory / source.name
        tool.run(["cp", "--sparse=always", "--reflink=auto", source, target])
        target.chmod(0o644)
        click.echo(target)
    click.echo(f"the appliance will say: {sample.expect}")
