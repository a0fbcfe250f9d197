"""onebay rescue build and lock: the rescue system, from Debian packages to a medium that boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused, reason
from onebay.base.units import human
from onebay.cli.boot import cache_option
from onebay.cli.options import PATH, check_place
from onebay.cli.progress import answer, events_option, renderer
from onebay.rescue import build as rescue
from onebay.rescue.configuration import read_settings
from onebay.rescue.lock import format_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def source_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of what asks the archive for packages."""
    function = click.option(
        "--sources",
        type=PATH,
        metavar="FILE",
        help="Package sources (.sources or .list) instead of this machine's own.",
    )(function)
    return click.option(
        "--date",
        type=click.IntRange(0, (1 << 32) - 1),
        envvar="SOURCE_DATE_EPOCH",
        metavar="SECONDS",
        help="Time of every file, since 1970, instead of the lock's; also SOURCE_DATE_EPOCH.",
    )(function)


@click.command()
@click.argument("out", type=PATH)
@click.option(
    "--lock", type=PATH, metavar="FILE", help="Another list of packages, made by: onebay rescue lock."
)
@click.option(
    "--settings",
    type=PATH,
    metavar="FILE",
    help="Settings (JSON) for network, SSH, time and job: docs/format/settings.md.",
)
@click.option(
    "--ssh-key",
    "keys",
    type=PATH,
    metavar="FILE",
    multiple=True,
    help="A public key, or several a line, that may log in by SSH; may be given again.",
)
@source_options
@cache_option
@events_option
def build(
    out: Path,
    lock: Path | None,
    settings: Path | None,
    keys: tuple[Path, ...],
    sources: Path | None,
    date: int | None,
    cache: Path,
    events: bool,
) -> None:
    """Make the new folder OUT with vmlinuz, initrd and rescue.iso, the same bytes each time.

    rescue.iso boots from CD and from a disk that it was written to, under BIOS and UEFI, Secure Boot too.
    """
    check_place(out)
    document = read_settings(settings, keys) if settings or keys else None
    choice = rescue.Choice(lock, sources, date, document)
    made = rescue.build(out, choice, cache=cache, report=renderer(events=events))
    for path in (made.kernel, made.initrd, made.iso):
        answer(f"{path} {human(path.stat().st_size)}")


@click.command()
@click.argument("file", type=PATH)
@source_options
@cache_option
def lock(file: Path, sources: Path | None, date: int | None, cache: Path) -> None:
    """Write to FILE which packages the archive has now, for: rescue build --lock.

    FILE may be a lock already, and nothing else.
    """
    check_place(file)
    if file.exists():
        rescue.read_lock(rescue.Choice(file))  # nothing but a lock is replaced
    text = format_lock(rescue.renew(rescue.Choice(None, sources, date), cache=cache / "rescue"))
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise Refused(reason(error), volume=str(file)) from error
    answer(str(file))
