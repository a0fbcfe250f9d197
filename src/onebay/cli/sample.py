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
from onebay.sample import payload as packages
from onebay.sample.layout import LAYOUTS

if TYPE_CHECKING:
    from pathlib import Path


PAYLOAD = "payload"


@click.group()
def command() -> None:
    """A small real NAS on two disks, made from Debian packages, to try everything on."""


@command.command()
@click.argument("what", type=click.Choice([*(layout.name for layout in LAYOUTS), PAYLOAD]))
@click.argument("directory", type=PATH)
@click.option("--sector-size", type=click.Choice(["512", "4096"]), default="512", show_default=True)
@click.option("--mini", is_flag=True, help="The miniature: same structure, a few files, does not boot.")
@cache_option
@events_option
def build(what: str, directory: Path, sector_size: str, mini: bool, cache: Path, events: bool) -> None:
    """Make data.img and boot.img of a layout in DIRECTORY, or nas.pat, the package its installer wants."""
    names = (packages.NAME,) if what == PAYLOAD else ("data.img", "boot.img")
    for name in names:
        if (directory / name).exists():
            raise Refused("exists already", volume=str(directory / name))
    report = renderer(events=events)
    if what == PAYLOAD:
        copy([packages.payload(cache, report=report)], directory)
        return
    make = samples.build_mini if mini else samples.build
    sample = make(what, cache=cache, sector_size=int(sector_size), report=report)
    copy([sample.data, sample.boot], directory)
    click.echo(f"the appliance will say: {sample.expect}")


def copy(sources: list[Path], directory: Path) -> None:
    """Copy files of the cache, sparse where they are, and print where they went."""
    directory.mkdir(parents=True, exist_ok=True)
    for source in sources:
        target = directory / source.name
        tool.run(["cp", "--sparse=always", "--reflink=auto", source, target])
        target.chmod(0o644)
        click.echo(target)
