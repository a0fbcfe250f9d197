"""Entry point: `onebay VERB`, each verb loaded only when it is asked for, every failure one clear message."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import TYPE_CHECKING

import click

from onebay import __version__
from onebay.base.error import Error

if TYPE_CHECKING:
    from types import FrameType

# verb -> one line of help; the file in this folder has the same name
VERBS = {
    "inspect": "show the layers, gaps, boot paths and findings of a disk",
    "fold": "put the boot disk into free space of the data disk",
    "capture": "write the used blocks of a whole disk into one image",
    "restore": "write an image to a disk of any larger size, and grow it",
    "grow": "make partition, RAID, LVM and file system fill the disk",
    "verify": "check an image against itself or against a disk",
    "boot": "boot a disk in a virtual machine, without writing to it",
    "sample": "build the sample appliance",
    "demo": "the whole story on the sample appliance",
    "doctor": "what this machine lacks, and the one command that adds it",
}


class Verbs(click.Group):
    """A group that imports a verb's file when it is called; `onebay --help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"onebay.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onebay")
def group() -> None:
    """Make a two-disk NAS appliance one self-booting disk."""


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Turn a termination signal into the exception that Ctrl-C raises, so that clean-up runs."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit with the code of DESIGN.md."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(group.main(standalone_mode=False, prog_name="onebay") or 0)
    except Error as error:
        sys.exit(fail(error))
    except click.exceptions.Abort:
        click.echo("onebay: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("onebay: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def fail(error: Error) -> int:
    """Print one failure: what, why, what to do, and last what state the disk is in."""
    click.echo(f"onebay: {error}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(f"  {note}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    click.echo(f"  {error.state}", err=True)
    return error.code
