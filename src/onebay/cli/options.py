"""What several verbs share: arguments, sizes, the confirmation before a disk is written, printing a plan."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused, reason
from onebay.base.step import Copy, Write, Zero
from onebay.base.units import human
from onebay.block import DeviceVolume, FileVolume, Reading
from onebay.block.foreign import NAMES
from onebay.cli.progress import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onebay.block import Volume
    from onebay.ops.run import Plan

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
MAX_SIZE = 1 << 63  # no file or device is larger

PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is no wrong usage
yes_option = click.option("--yes", is_flag=True, help="Write to a block device without asking.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")


def inside_option(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option of verbs that look into LUKS; `what` they do then ends its line of help."""
    return click.option("--key-file", type=PATH, metavar="FILE", help=f"Opens LUKS: {what}.")


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def as_number(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001
    """Return a choice of digits as a number."""
    return None if value is None else int(value)


sector_option = click.option(
    "--sector-size",
    type=click.Choice(["512", "4096"]),
    callback=as_number,
    help="Sector size of an image file, where it does not tell.",
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the disk that would be written is, as somebody saw it before; None expects nothing."""

    serial: str | None = None
    fingerprint: str | None = None

    def check(self, disk: Volume) -> None:
        """Raise Refused where the disk is another one."""
        serial = disk.identity.get("serial", "none") if isinstance(disk, DeviceVolume) else "none"
        if self.serial is not None and serial != self.serial:
            raise Refused("another disk: serial number", volume=disk.name, expected=self.serial, found=serial)
        check_fingerprint(disk, self.fingerprint)

    def check_new(self, path: Path) -> None:
        """Raise Refused where a disk is expected: there is none at `path`."""
        if self.serial is not None:
            raise Refused("another disk: serial number", volume=str(path), expected=self.serial, found="none")
        if self.fingerprint is not None:
            raise Refused("another disk", volume=str(path), expected=self.fingerprint, found="none")


def check_fingerprint(disk: Volume, expected: str | None) -> None:
    """Raise Refused where the disk is not the one that had this fingerprint; None expects nothing."""
    if expected is None:
        return
    found = disk.fingerprint() if isinstance(disk, FileVolume) else "a disk inside a container"
    if found != expected:
        raise Refused("another disk, or one that changed", volume=disk.name, expected=expected, found=found)


def expect_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which disk may be written; the function gets them as `expected`."""

    @click.option(
        "--expect-serial",
        metavar="TEXT",
        help="Refuse where the serial number of the disk that would be written is another one.",
    )
    @click.option(
        "--expect-disk",
        metavar="TEXT",
        help="Refuse where the disk that would be written is not the one with this fingerprint, "
        "as the page saw it; a file's changes with every write.",
    )
    @functools.wraps(function)
    def wrapped(*args: object, expect_serial: str | None, expect_disk: str | None, **kwargs: object) -> None:
        function(*args, expected=Expected(expect_serial, expect_disk), **kwargs)

    return wrapped


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001
    """Return a size in bytes, 1 to 8 EiB - 1, from digits with an optional binary unit: 20G, 512M, 16T."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)([kmgt]?)(i?b)?", value.strip().lower())
    if not match:
        raise click.BadParameter(f"{value!r} is no size; write for example 20G")
    size = int(match[1][:20]) * UNITS[match[2]]
    if not 0 < size < MAX_SIZE:
        raise click.BadParameter(f"{value!r} is no size of a disk")
    return size


def reading_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of verbs that read a disk in any format; the function gets them as `reading`."""

    @click.option(
        "--input-format",
        type=click.Choice(list(NAMES)),
        help="The format of the disk's file, where its first and last bytes mislead.",
    )
    @click.option(
        "--allow-backing", is_flag=True, help="Follow a qcow2 or vmdk to the other files that it names."
    )
    @click.option(
        "--max-size",
        callback=parse_size,
        metavar="SIZE",
        help="Largest disk to accept from a container (64T) or to unpack from .gz, .xz, .zst (256G).",
    )
    @functools.wraps(function)
    def wrapped(
        *args: object,
        input_format: str | None,
        allow_backing: bool,
        max_size: int | None,
        **kwargs: object,
    ) -> None:
        scratch = Path(tempfile.gettempdir())
        function(*args, reading=Reading(scratch, input_format, allow_backing, max_size), **kwargs)

    return wrapped


def check_place(path: Path) -> None:
    """Raise Refused where `path` is neither there nor can be made, before anything else is done."""
    try:
        path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise Refused(reason(error), volume=str(path)) from error
    else:
        return
    folder = path.parent
    if not folder.is_dir():
        raise Refused("no such folder", volume=str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refused("the folder cannot be written", volume=str(folder))


def confirm(volume: Volume, what: str, *, yes: bool) -> None:
    """Have the name of a block device typed before it is written; image files need no confirmation.

    Raises Refused where the answer is another one or nobody can be asked.
    """
    if yes or not isinstance(volume, DeviceVolume):
        return
    known = ", ".join(f"{key} {value}" for key, value in volume.identity.items())
    click.echo(f"{what} {volume.name} ({human(volume.size)}{', ' + known if known else ''})", err=True)
    if not sys.stdin.isatty():
        raise Refused("a block device needs --yes or its name typed", volume=volume.name)
    answer = click.prompt(f"type {volume.name} to go on", default="", show_default=False, err=True)
    if answer != volume.name:
        raise Refused("not confirmed", volume=volume.name)


def show_plan(plan: Plan, *, as_json: bool, also: Mapping[str, object] | None = None) -> None:
    """Print a plan for people or for programs, who get the fields `also` too."""
    if as_json:
        steps = [
            {"step": type(step).__name__.lower(), "at": step.at, "size": step.size, "why": step.why}
            if isinstance(step, Write | Zero | Copy)
            else {"step": "flush"}
            for step in plan.steps
        ]
        document = {"verb": plan.verb, "disk": plan.disk.name, "steps": steps, "notes": plan.notes}
        answer(json.dumps({**document, **(also or {})}, indent=2))
        return
    lines = [*(f"note: {note}" for note in plan.notes), *plan.lines()]
    answer("\n".join(lines if plan.steps else [*lines, "nothing to do"]))
