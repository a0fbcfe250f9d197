"""onebay doctor: what this machine lacks, and the one command that adds it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from onebay.base.error import ToolMissing
from onebay.base.tool import Need, find, needs
from onebay.block.crypt import library
from onebay.cli.options import json_option

CRYPTOGRAPHY = Need("cryptography", "python3-cryptography", "luks")  # a Python package, not a program


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Say which programs and libraries are missing; exit code 8 where any is."""
    wanted = [*needs(), CRYPTOGRAPHY]
    missing = [need for need in wanted if not present(need)]
    cure = command_for(missing)
    if as_json:
        document = {
            "python": sys.version.split()[0],
            "missing": [need._asdict() for need in missing],
            "command": cure or None,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for use in sorted({need.use for need in wanted}):
            lacks = [need.program for need in missing if need.use == use]
            click.echo(f"{use:8} {'ready' if not lacks else 'lacks ' + ', '.join(lacks)}")
        if cure:
            click.echo(f"\n{cure}")
    sys.exit(8 if missing else 0)


def command_for(missing: list[Need]) -> str:
    """Return the command that adds what is missing; a virtual environment does not see Debian's packages."""
    isolated = [CRYPTOGRAPHY] if CRYPTOGRAPHY in missing and sys.prefix != sys.base_prefix else []
    packages = sorted({need.package for need in missing if need not in isolated})
    parts = [f"apt-get install {' '.join(packages)}"] if packages else []
    return " && ".join(parts + [f"pip install {need.program}" for need in isolated])


def present(need: Need) -> bool:
    """Whether a program is on the path, a file is there, or a Python package can be imported."""
    if need == CRYPTOGRAPHY:
        try:
            library()
        except ToolMissing:
            return False
        return True
    return Path(need.program).exists() if need.program.startswith("/") else find(need.program) is not None
