"""onebay doctor: what this machine lacks, and the one command that adds it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from onebay.base.tool import Need, find, needs
from onebay.cli.options import json_option


@click.command()
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say which programs are missing; exit code 8 where any is."""
    wanted = needs()
    missing = [need for need in wanted if not present(need)]
    packages = sorted({need.package for need in missing})
    if as_json:
        document = {
            "python": sys.version.split()[0],
            "missing": [need._asdict() for need in missing],
            "command": f"apt-get install {' '.join(packages)}" if packages else None,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for use in sorted({need.use for need in wanted}):
            lacks = [need.program for need in missing if need.use == use]
            click.echo(f"{use:8} {'ready' if not lacks else 'lacks ' + ', '.join(lacks)}")
        if packages:
            click.echo(f"\napt-get install {' '.join(packages)}")
    ctx.exit(8 if missing else 0)


def present(need: Need) -> bool:
    """Whether a program is on the path, or a file is there."""
    return Path(need.program).exists() if need.program.startswith("/") else find(need.program) is not None
