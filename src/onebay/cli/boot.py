"""onebay boot: boot a disk in a virtual machine, without writing to it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import termios
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onebay.base.error import ToolFailed
from onebay.cli.options import PATH
from onebay.cli.progress import events_option, renderer
from onebay.machine import boot as machine
from onebay.machine.qemu import image_format
from onebay.machine.worker import accel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.machine.qemu import Bus, Running

QUIT = b"\x1d"  # Ctrl-], as telnet and virsh have it

cache_option = click.option(
    "--cache",
    type=PATH,
    envvar="ONEBAY_CACHE",
    default=Path.home() / ".cache" / "onebay",
    show_default=True,
    help="Folder for what is built once.",
)


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
    cache: Path,
    events: bool,
) -> None:
    """Boot DISK, an image file or a block device, and throw away whatever the machine writes."""
    for path in (disk, first):
        if path is not None:
            image_format(path)  # say that it is not there before anything is built
    report = renderer(events=events)
    kind = accel(cache, report=report)
    if expect is None:
        setup = machine.Setup(firmware, bus, int(sector_size), memory, kind)
        click.echo("Ctrl-] ends the machine", err=True)
        with machine.booted(disk, boot=first, setup=setup, log=log) as guest:
            console(guest)
        return
    result = machine.boot(
        disk,
        boot=first,
        firmware=firmware,
        bus=bus,
        expect=expect,
        timeout=timeout,
        sector_size=int(sector_size),
        memory_mb=memory,
        accel=kind,
        log=log or Path(f"{disk.name}.serial.log"),
        report=report,
    )
    line = next(line for line in result.output.splitlines() if expect in line)
    click.echo(f"{line.strip()}\nafter {result.seconds:.0f} s under {kind}; serial log: {result.log}")


def console(guest: Running) -> None:
    """Join the terminal with the machine's serial port until the machine is off or the user types Ctrl-]."""
    while not guest.socket.exists():
        if guest.ended() or guest.seconds() > 10:
            raise ToolFailed(f"qemu did not start: {guest.messages.read_text('utf-8', 'replace').strip()}")
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as port, raw_terminal() as keyboard:
        port.connect(str(guest.socket))
        while True:
            ready, _, _ = select.select([port.fileno(), *keyboard], [], [], 1)
            if port.fileno() in ready:
                data = port.recv(65536)
                if not data:
                    return
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            for number in keyboard:
                if number in ready:
                    typed = os.read(number, 1024)
                    if QUIT in typed or not typed:
                        return
                    port.sendall(typed)


@contextlib.contextmanager
def raw_terminal() -> Iterator[list[int]]:
    """Pass every key on as it is typed; gives the keyboard's file number, or none without a terminal."""
    if not sys.stdin.isatty():
        yield []
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setraw(number)
        yield [number]
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
