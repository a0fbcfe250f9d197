"""onebay install: an appliance that wants two disks, installed by its own installer, folded onto one."""

from __future__ import annotations

import functools
import re
import shutil
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onebay.base.error import Refused
from onebay.base.event import Noted
from onebay.block import DeviceVolume, is_device, open_disk
from onebay.cli.boot import cache_option, parse_forwards
from onebay.cli.fold import open_unused
from onebay.cli.options import PATH, check_place, confirm, parse_size, reading_options, yes_option
from onebay.cli.progress import events_option, human, remark, renderer
from onebay.machine import install as machine
from onebay.machine.installation import Installation
from onebay.machine.unfinished import Unfinished
from onebay.machine.worker import accel
from onebay.ops.capture import SUFFIX, capture, look
from onebay.ops.identity import warn_twins
from onebay.ops.payload import read_payload, refuse_bad
from onebay.ops.run import on_failure
from onebay.sample.page import GUEST_PORT, KINDS, errand

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.block import FileVolume, Reading
    from onebay.machine.boot import Firmware
    from onebay.machine.qemu import Bus

ALONE_SECONDS = 1200.0  # for the finished disk to say what is expected
LEAST_FREE = 2 << 30  # bytes that the new disk's folder must have free
BUSES = click.Choice(["usb", "sata", "virtio", "nvme"])


def parse_ports(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Return pairs of ports; PORT alone is the same port on both sides."""
    return parse_forwards(ctx, param, tuple(v if ":" in v else f"{v}:{v}" for v in values))


def parse_usb_id(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:  # noqa: ARG001
    """Return vendor and product, each 0 to 0xffff in hexadecimal."""
    match = re.fullmatch(r"(?:0x)?([0-9a-f]{1,4}):(?:0x)?([0-9a-f]{1,4})", value.lower())
    if not match:
        raise click.BadParameter(f"{value!r} is no pair of USB ids; write for example 0xf400:0xf400")
    return int(match[1], 16), int(match[2], 16)


def setup_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the virtual machine; the function gets them as `setup`, without an accelerator."""

    @click.option("--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True)
    @click.option("--boot-bus", type=BUSES, default="usb", show_default=True)
    @click.option(
        "--usb-id",
        metavar="VENDOR:PRODUCT",
        default="0xf400:0xf400",
        show_default=True,
        callback=parse_usb_id,
        help="What the boot disk on usb says it is.",
    )
    @click.option("--data-bus", type=BUSES, help="Default: sata, or virtio for sectors of 4096 bytes.")
    @click.option("--memory", type=int, default=1024, show_default=True, help="Memory in MiB.")
    @click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True)
    @click.option("--cpu", default="", help="CPU model in QEMU's words.")
    @click.option("--nic", default="virtio-net-pci", show_default=True, help="Network card in QEMU's words.")
    @click.option("--mac", default="", help="The card's address.")
    @click.option("--online", is_flag=True, help="Let the installer call out; otherwise it only is called.")
    @click.option(
        "--forward",
        "forwards",
        metavar="[HOSTPORT:]GUESTPORT",
        multiple=True,
        callback=parse_ports,
        help="Let 127.0.0.1:HOSTPORT reach this port of the machine (default: a free port to 5000).",
    )
    @click.option("--vnc", is_flag=True, help="Offer a screen over VNC on this host, with a new password.")
    @functools.wraps(function)
    def wrapped(
        *args: object,
        firmware: Firmware,
        boot_bus: Bus,
        usb_id: tuple[int, int],
        data_bus: Bus | None,
        memory: int,
        cpus: int,
        cpu: str,
        nic: str,
        mac: str,
        online: bool,
        forwards: tuple[tuple[int, int], ...],
        vnc: bool,
        **kwargs: object,
    ) -> None:
        setup = machine.Setup(
            firmware=firmware,
            boot_bus=boot_bus,
            usb_id=usb_id,
            data_bus=data_bus,
            memory_mb=memory,
            cpus=cpus,
            cpu=cpu,
            nic=nic,
            mac=mac,
            forwards=forwards or ((machine.free_port(), GUEST_PORT),),
            online=online,
            screen=vnc,
        )
        function(*args, setup=setup, **kwargs)

    return wrapped


@click.command()
@click.option("--boot", type=PATH, required=True, help="The boot disk; it is only read.")
@click.option("--output", type=PATH, help="The new disk, a raw image file.")
@click.option("--size", callback=parse_size, metavar="SIZE", help="Size of the new disk, as 16G.")
@click.option("--data", type=PATH, help="Install onto this disk (a raw image or a block device) instead.")
@click.option("--sector-size", type=click.Choice(["512", "4096"]), default="512", show_default=True)
@click.option("--payload", type=PATH, help="The package to install, where the installer is a known one.")
@click.option("--volume", type=click.Choice(KINDS), help="With --payload: the volume to make afterwards.")
@setup_options
@click.option("--console", is_flag=True, help="Let this terminal be the installer's serial console.")
@click.option("--timeout", type=float, default=7200, show_default=True, help="Seconds for the installer.")
@click.option("--expect", default="login:", show_default=True, help="What the system says once it runs.")
@click.option("--capture", "image", type=PATH, metavar="IMAGE", help="Capture the finished disk to IMAGE.")
@yes_option
@cache_option
@events_option
@reading_options
def command(
    boot: Path,
    output: Path | None,
    size: int | None,
    data: Path | None,
    sector_size: Literal["512", "4096"],
    payload: Path | None,
    volume: str | None,
    setup: machine.Setup,
    console: bool,
    timeout: float,
    expect: str,
    image: Path | None,
    yes: bool,
    cache: Path,
    events: bool,
    reading: Reading,
) -> None:
    """Install an appliance that insists on two disks onto one: its installer gets the other out of memory.

    A virtual machine starts from BOOT, which is not written: what the installer writes to it stays in memory.
    The installer works on the new disk, by its own page (--payload does what its owner would do there, where
    it is a known one); then BOOT, as the installer left it, is folded into the disk, which is tried alone.
    """
    if (output is None) == (data is None) or (output is None) != (size is None):
        raise click.UsageError("give either --output and --size, or --data")
    if volume is not None and payload is None:
        raise click.UsageError("--volume goes with --payload")
    check_image(image)
    report = renderer(events=events)
    machine.refuse_little_memory(setup.memory_mb)
    if payload is not None:
        refuse_bad(read_payload(payload))
    target = output or data
    assert target is not None
    unfinished = Unfinished(target if output else Path.cwd() / target.name)
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_unused(boot, reading)))
        disk = stack.enter_context(closing(open_target(unfinished, target, size, int(sector_size))))
        warn_twins(disk, beside=(source,), report=report)
        refuse_data(disk, unfinished, yes=yes)
        if unfinished.begun:
            report(Noted(f"going on from {unfinished.folder}"))
        unfinished.begin(source)
        setup = replace(setup, accel=accel(cache, report=report))
        work = Installation(unfinished, disk, unfinished.view(source), setup, report)
        with on_failure(unfinished.state, str(target)), work.keeping():
            if unfinished.phase == "installing":
                work.install(errand(payload, volume) if payload else None, timeout, terminal=console)
                unfinished.note(source, "installed")
            work.fold()
            work.try_alone(expect, min(timeout, ALONE_SECONDS))
        disk.settle()
    unfinished.finish()
    remark(f"{target} boots by itself")
    if image is None:
        remark(f"to keep it as one file: onebay capture {target} NAME{SUFFIX}")
        return
    with closing(open_disk(target)) as finished:
        summary = capture(look(finished, report=report), image, report=report)
    remark(f"{image}: {human(summary.image_size)}")


def check_image(image: Path | None) -> None:
    """Raise Refused or UsageError where the image could not be written, before hours go by."""
    if image is None:
        return
    if not image.name.endswith(SUFFIX):
        raise click.UsageError(f"IMAGE must end in {SUFFIX}")
    check_place(image)
    if image.exists():
        raise Refused("exists already", volume=str(image), hint="another name")


def open_target(unfinished: Unfinished, target: Path, size: int | None, sector_size: int) -> FileVolume:
    """Open the disk to install on, a new one where a size is given, and hold it.

    Raises Refused where it is in use, or there is too little space.
    """
    if size is not None:
        check_place(target)
        if target.exists() or is_device(target):
            raise Refused("exists already", volume=str(target))
        free = shutil.disk_usage(target.parent).free
        if not unfinished.begun and free < min(size, LEAST_FREE):
            raise Refused(
                "too little space for the new disk",
                volume=str(target.parent),
                expected=human(min(size, LEAST_FREE)),
                found=human(free),
            )
        unfinished.folder.mkdir(exist_ok=True)
        return unfinished.open_disk(size, sector_size)
    return open_disk(target, writable=True, sector_size=None if is_device(target) else sector_size)


def refuse_data(disk: FileVolume, unfinished: Unfinished, *, yes: bool) -> None:
    """Raise Refused where there is something on a disk that an installer would write over."""
    if unfinished.begun or unfinished.disk.exists():
        return
    found = machine.holds(disk)
    if found and not yes:
        for line in found:
            remark(line)
        if not isinstance(disk, DeviceVolume):
            raise Refused("there is data on the disk", volume=disk.name, hint="--yes installs over it")
    confirm(disk, "let an installer write to", yes=yes)
