"""onebay boot: boot a disk in a virtual machine, without writing to it unless that is asked for."""

from __future__ import annotations

import contextlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onebay.block import open_disk
from onebay.cli.options import PATH, confirm, yes_option
from onebay.cli.progress import events_option, renderer
from onebay.machine import boot as machine
from onebay.machine.console import joined
from onebay.machine.qemu import image_format
from onebay.machine.worker import accel
from onebay.ops.journal import refuse_pending
from onebay.ops.run import on_failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.machine.qemu import Bus, Running

MAX_PORT = 65535

cache_option = click.option(
    "--cache",
    type=PATH,
    envvar="ONEBAY_CACHE",
    default=Path.home() / ".cache" / "onebay",
    show_default=True,
    help="Folder for what is built once.",
)


def parse_forwards(
    ctx: click.Context,  # noqa: ARG001
    param: click.Parameter,  # noqa: ARG001
    values: tuple[str, ...],
) -> tuple[tuple[int, int], ...]:
    """Return the ports of each HOSTPORT:GUESTPORT, both 1 to 65535."""
    found = []
    for value in values:
        host, _, guest = value.partition(":")
        if not all(
            text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MAX_PORT for text in (host, guest)
        ):
            raise click.BadParameter(f"{value!r} is no pair of ports; write for example 5001:5000")
        found.append((int(host), int(guest)))
    return tuple(found)


@click.command()
@click.argument("disk", type=PATH)
@click.option("--boot", "first", type=PATH, help="The boot disk, from which the firmware starts.")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True)
@click.option(
    "--bus", type=click.Choice(["virtio", "sata", "nvme", "usb"]), default="virtio", show_default=True
)
@click.option(
    "--expect", help="Wait for this text on the serial console; without it, the terminal is the console."
)
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait for the text.")
@click.option("--sector-size", type=click.Choice(["512", "4096"]), default="512", show_default=True)
@click.option("--memory", type=int, default=1024, show_default=True, help="Memory of the machine in MiB.")
@click.option("--log", type=PATH, help="Keep the serial log here (default with --expect: DISK.serial.log).")
@click.option("--write", is_flag=True, help="Let the machine write to DISK itself (a raw image or a device).")
@click.option(
    "--forward",
    "forwards",
    metavar="HOSTPORT:GUESTPORT",
    multiple=True,
    callback=parse_forwards,
    help="Let 127.0.0.1:HOSTPORT reach this TCP port of the machine; it still can call nobody.",
)
@yes_option
@cache_option
@events_option
def command(
    disk: Path,
    first: Path | None,
    firmware: Literal["bios", "uefi"],
    bus: Bus,
    expect: str | None,
    timeout: float,
    sector_size: str,
    memory: int,
    log: Path | None,
    write: bool,
    forwards: tuple[tuple[int, int], ...],
    yes: bool,
    cache: Path,
    events: bool,
) -> None:
    """Boot DISK, an image file or a block device, and throw away whatever the machine writes.

    With --write the machine works on DISK itself, and is shut down at the end by its power button.
    """
    for path in (disk, first):
        if path is not None:
            image_format(path)  # say that it is not there before anything is built
    report = renderer(events=events)
    with kept(disk, int(sector_size), yes=yes) if write else contextlib.nullcontext():
        kind = accel(cache, report=report)
        setup = machine.Setup(firmware, bus, int(sector_size), memory, kind, write, forwards)
        if expect is None:
            click.echo(f"Ctrl-] {'presses the power button' if write else 'ends the machine'}", err=True)
            with machine.booted(disk, boot=first, setup=setup, log=log) as guest:
                console(guest, write=write)
                if write and not guest.ended():
                    click.echo("the machine was ended as by a power cut", err=True)
            return
        path = log or Path(f"{disk.name}.serial.log")
        result = machine.boot_setup(
            disk, setup, boot=first, expect=expect, timeout=timeout, log=path, report=report
        )
    line = next(line for line in result.output.splitlines() if expect in line)
    click.echo(f"{line.strip()}\nafter {result.seconds:.0f} s under {kind}; serial log: {result.log}")


@contextlib.contextmanager
def kept(disk: Path, sector_size: int, *, yes: bool) -> Iterator[None]:
    """Hold the disk that the machine writes to, so that no program of ours does meanwhile.

    Raises Refused where it is in use, not confirmed, or left in the middle of a change of ours.
    """
    with closing(open_disk(disk, writable=True, sector_size=sector_size)) as volume:
        refuse_pending(volume)
        confirm(volume, "let a machine write to", yes=yes)
        try:
            with on_failure(machine.WRITTEN, str(disk)):
                yield
        finally:
            volume.settle()


def console(guest: Running, *, write: bool) -> None:
    """Join the terminal with the machine's serial port until the machine is off or the user types Ctrl-].

    Where the machine may `write`, the first Ctrl-] presses its power button, and only the second ends it.
    """
    with joined(guest) as terminal:
        while not terminal.over:
            if terminal.pass_on(1):
                if not write:
                    return
                click.echo("\r\nthe power button is pressed; Ctrl-] again ends the machine\r", err=True)
                guest.power_button()
                write = False
        guest.off(5)
        guest.refuse_failure()
