"""onebay rescue job: what the settings of a rescue system say is to be done with nobody there."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebay.base import tool
from onebay.base.error import Refused, reason
from onebay.block.disks import machine_disks
from onebay.cli.options import PATH
from onebay.cli.progress import remark
from onebay.rescue.live.job import Around, Run
from onebay.rescue.live.settings import parse, parse_document
from onebay.rescue.live.target import settled
from onebay.rescue.live.webhook import Webhook

if TYPE_CHECKING:
    from onebay.rescue.live.settings import Job

RELEASE = Path("/usr/lib/os-release")
SETTINGS = Path("/run/onebay/settings.json")
STATUS = Path("/run/onebay/status/job.json")


@click.command(hidden=True)
@click.option("--settings", type=PATH, default=SETTINGS, show_default=True, metavar="FILE")
@click.pass_context
def job(ctx: click.Context, settings: Path) -> None:
    """Restore as the settings say, to the disk that they mean, with nobody there to ask.

    Only in a rescue system: it may overwrite a disk that nobody named.
    """
    refuse_elsewhere()
    wanted = read_job(settings)
    around = Around(
        find=partial(settled, read=machine_disks),
        status=STATUS,
        hook=Webhook(wanted.webhook),
        power=power,
        say=remark,
    )
    ctx.exit(Run(wanted, around, host=socket.gethostname()).whole())


def refuse_elsewhere() -> None:
    """Raise Refused where this is no rescue system."""
    try:
        lines = RELEASE.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    if "ID=onebay-rescue" not in lines:
        raise Refused("an unattended job runs in the rescue system only", hint="onebay restore IMAGE DISK")


def read_job(path: Path) -> Job:
    """Return the job of a settings document; raises Refused."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Refused(reason(error), volume=str(path)) from error
    found = parse(parse_document(raw)).job
    if found is None:
        raise Refused("the settings have no job", volume=str(path))
    return found


def power(action: str) -> None:
    """Have init take the machine down: "reboot" or "poweroff"; raises ToolFailed."""
    tool.run(["busybox", action])
