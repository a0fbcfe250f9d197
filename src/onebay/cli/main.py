"""Entry point: `onebay VERB`, each verb loaded only when it is asked for, every failure one clear message."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from onebay import __version__
from onebay.base.error import NOTHING_WRITTEN, Error, Interrupted, Refused, reason
from onebay.cli.progress import remark

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 1.0  # seconds
# verb -> one line of help; the file in this folder has the same name
VERBS = {
    "inspect": "show the layers, gaps, boot paths and findings of a disk",
    "fold": "put the boot disk into free space of the data disk",
    "capture": "write the used blocks of a whole disk into one image",
    "restore": "write an image to a disk of any larger size, and grow it",
    "grow": "make partition, RAID, LVM and file system fill the disk",
    "shrink": "make a smaller disk of a disk, in a new file",
    "repair": "make a folded disk boot again after its table or content was damaged",
    "kit": "write what makes a disk boot to one small file",
    "verify": "check an image against itself or against a disk",
    "export": "write a disk or an image as qcow2, VHD, VMDK, ... for virtual machines and clouds",
    "boot": "boot a disk in a virtual machine, without writing to it",
    "install": "run an appliance's own installer in a virtual machine, onto one disk",
    "web": "the page: what is here, in a browser",
    "rescue": "build the system that runs all of this from RAM, on the machine itself",
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


class Interrupter:
    """Turns signals that ask us to end into the exception of Ctrl-C, so that clean-up runs.

    Several at once (an impatient user, a service manager that sends TERM and HUP) are one wish: the second
    must not interrupt the clean-up of the first.
    """

    def __init__(self) -> None:
        self.last = float("-inf")

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if now - self.last > PATIENCE:
            self.last = now
            raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit with the code of DESIGN.md."""
    interrupt = Interrupter()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a job in the background
            signal.signal(number, interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        group.main(standalone_mode=False, prog_name="onebay")
        sys.stdout.flush()
    except Error as error:
        sys.exit(fail(error))
    except click.ClickException as error:
        error.show()
        click.echo(NOTHING_WRITTEN, err=True)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):  # where something is written, the verb says more
        sys.exit(fail(Interrupted("interrupted")))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        # Whoever writes to a disk turns it into an error of ours, with the state; this one came before.
        sys.exit(fail(Refused(reason(error), volume=str(error.filename or ""))))


def fail(error: Error) -> int:
    """Print one failure: what, why, what to do, and last what state the disk is in."""
    if isinstance(error, Interrupted):
        for number in SIGNALS:  # Python gives up its handlers before it ends, and we are ending already
            signal.signal(number, signal.SIG_IGN)
    remark(f"onebay: {error}")
    for note in getattr(error, "__notes__", ()):
        remark(f"  {note}")
    if error.hint:
        remark(f"  hint: {error.hint}")
    remark(f"  {error.state}")
    return error.code
