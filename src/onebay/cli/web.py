"""onebay web: the page."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused, ToolMissing
from onebay.cli.options import PATH
from onebay.cli.progress import remark

if TYPE_CHECKING:
    from pathlib import Path

MAX_PORT = 65535


def parse_listen(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:  # noqa: ARG001
    """Return address and port of ADDRESS:PORT; an address of IPv6 is in brackets."""
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    try:
        ipaddress.ip_address(host)
        good = port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= MAX_PORT
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter(f"{value!r} is no address and port; write for example 127.0.0.1:8443")
    return host, int(port)


@click.command()
@click.option(
    "--listen",
    default="127.0.0.1:8443",
    show_default=True,
    callback=parse_listen,
    metavar="ADDRESS:PORT",
    help="Where browsers find it; 0.0.0.0 or [::] for all addresses of this machine.",
)
@click.option(
    "--disk", "disks", type=PATH, multiple=True, metavar="DISK", help="A disk to offer; repeatable."
)
@click.option("--images", type=PATH, metavar="FOLDER", help="Folder of images to offer, and for new ones.")
@click.option(
    "--rescue", is_flag=True, help="Offer every disk of this machine, one job at a time, and power off."
)
@click.option(
    "--status", type=PATH, metavar="FOLDER", help="Write web.json here, and show what others write."
)
@click.option("--name", "names", multiple=True, metavar="HOST", help="A host name that browsers may use.")
@click.option("--no-tls", is_flag=True, help="Plain HTTP, on a loopback address only.")
def command(
    listen: tuple[str, int],
    disks: tuple[Path, ...],
    images: Path | None,
    rescue: bool,
    status: Path | None,
    names: tuple[str, ...],
    no_tls: bool,
) -> None:
    """Serve a page that does what the command line does, until Ctrl-C.

    Whoever has the one-time code that is printed may write to the disks that are offered.
    """
    if not (disks or images or rescue):
        raise click.UsageError("nothing to offer: give --disk, --images or --rescue")
    if images is not None and not images.is_dir():
        raise Refused("no such folder", volume=str(images))
    try:
        from onebay.web.serve import Settings, serve  # noqa: PLC0415 - not everybody has it
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ToolMissing(
            f"{error.name} is not installed",
            hint="apt-get install python3-starlette python3-uvicorn, or: pip install 'onebay[web]'",
        ) from error
    host, port = listen
    serve(Settings(host, port, disks, images, rescue, status, not no_tls, names), tell=remark)
