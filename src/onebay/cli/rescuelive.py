"""onebay rescue up, onebay rescue key: what runs in the rescue system itself."""

from __future__ import annotations

from pathlib import Path

import click

from onebay.base.error import Refused
from onebay.rescue.live.ssh import add_key
from onebay.rescue.live.up import Places, run


def refuse_elsewhere(places: Places) -> None:
    """Raise Refused where this is no rescue system: network and logins here are somebody's own."""
    if not (places.own / "start").is_file():
        raise Refused("this is for the rescue system, and this machine is none", state="nothing was changed")


@click.command(hidden=True)
def up() -> None:
    """Bring up network, SSH, web page and job, and keep the consoles told; for the rescue's init."""
    refuse_elsewhere(Places())
    run(Places())


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KEY")
def key(words: tuple[str, ...]) -> None:
    """Let KEY, a line such as "ssh-ed25519 AAAA.. name", log in to this rescue system over SSH."""
    refuse_elsewhere(Places())
    count = add_key(" ".join(words), Path("/root"))
    click.echo(f"{count} {'key' if count == 1 else 'keys'} may log in now")
