"""onebay rescue config: settings as an archive that a boot loader loads behind the initramfs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused, reason
from onebay.cli.options import PATH, check_place
from onebay.cli.progress import answer
from onebay.rescue.configuration import archive, read_settings

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("settings", type=PATH)
@click.argument("out", type=PATH)
def config(settings: Path, out: Path) -> None:
    """Make the new file OUT of SETTINGS, to be loaded as a second initrd behind the rescue system's own.

    SETTINGS is a JSON document: docs/format/settings.md. Whoever can read OUT reads the keys in it.
    """
    check_place(out)
    data = archive(read_settings(settings, ()))
    try:
        with out.open("xb") as file:
            out.chmod(0o600)
            file.write(data)
    except OSError as error:
        raise Refused(reason(error), volume=str(out)) from error
    answer(str(out))
