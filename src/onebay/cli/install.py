"""onebay install: an appliance that wants two disks, installed by its own installer, folded onto one."""

from __future__ import annotations

import functools
import math
import re
import shutil
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onebay.base.error import Refused, Unsupported
from onebay.base.units import human
from onebay.block import DeviceVolume, is_device, open_disk
from onebay.cli.boot import cache_option, parse_forwards
from onebay.cli.fold import open_unused
from onebay.cli.options import PATH, check_place, confirm, parse_size, reading_options, yes_option
from onebay.cli.progress import events_option, remark, renderer
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
    from collections.abc import Callable, Sequence

    from onebay.block import FileVolume, Reading, Volume
    from onebay.machine.boot import Firmware
    from onebay.machine.installation import Errand
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


def parse_mac(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001
    """Return a MAC address as QEMU takes it, or nothing."""
    if value and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", value):
        raise click.BadParameter(f"{value!r} is no MAC address; write for example 52:54:00:12:34:56")
    return value


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
    @click.option("--memory", type=click.IntRange(64), default=1024, show_default=True, help="Memory in MiB.")
    @click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True)
    @click.option("--cpu", default="", help="CPU model in QEMU's words.")
    @click.option("--nic", default="virtio-net-pci", show_default=True, help="Network card in QEMU's words.")
    @click.option("--mac", default="", callback=parse_mac, help="The card's address.")
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
@click.option(
    "--install-again",
    "again",
    is_flag=True,
    help="Back to the installer, where the last run held the system for installed.",
)
@click.option(
    "--timeout", type=click.FloatRange(0), default=7200, show_default=True, help="Seconds for the installer."
)
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
    again: bool,
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
    if not expect or not math.isfinite(timeout):
        raise click.UsageError("--expect needs a text, --timeout a number of seconds")
    target = output or data
    assert target is not None
    unfinished = Unfinished(target, folder_of(target))
    check_image(image, (boot, target, *([payload] if payload else [])), unfinished)
    report = renderer(events=events)
    machine.refuse_little_memory(setup.memory_mb)
    if payload is not None:
        refuse_bad(read_payload(payload))
    unfinished.load()
    with ExitStack() as stack:
        source, disk = open_both(stack, unfinished, boot, reading, size, int(sector_size), setup, yes=yes)
        warn_twins(disk, beside=(source,), report=report)
        setup = replace(setup, accel=accel(cache, report=report))
        work = Installation(unfinished, disk, unfinished.view(source), setup, report)
        with on_failure(unfinished.state, str(target)), work.keeping():
            if unfinished.installing or again:
                work.install(errand_of(payload, volume, unfinished, again=again), timeout, terminal=console)
            work.fold()
            work.try_alone(expect, min(timeout, ALONE_SECONDS))
            disk.settle()
            unfinished.finish()
    remark(f"{target} boots by itself")
    if image is None:
        remark(f"to keep it as one file: onebay capture {target} NAME{SUFFIX}")
        return
    with on_failure(f"{target} is finished", str(image)), closing(open_disk(target)) as whole:
        summary = capture(look(whole, report=report), image, report=report)
    remark(f"{image}: {human(summary.image_size)}")


def open_both(
    stack: ExitStack,
    unfinished: Unfinished,
    boot: Path,
    reading: Reading,
    size: int | None,
    sector_size: int,
    setup: machine.Setup,
    *,
    yes: bool,
) -> tuple[Volume, FileVolume]:
    """Open the boot disk and the target, a new one where a size is given; `stack` closes them.

    Raises Refused where they cannot be used, or an earlier run was one with others.
    """
    target = unfinished.target
    if size is not None:
        refuse_target(target, size, sector_size, setup, unfinished)
        source = stack.enter_context(closing(open_unused(boot, reading)))
        go_on(unfinished, source, size)
        return source, stack.enter_context(closing(unfinished.open_disk(size, sector_size)))
    # the target first: what is one with it is then in use for whoever opens the boot disk
    disk = stack.enter_context(closing(open_data(target, sector_size, setup)))
    machine.refuse_same(boot, disk)
    source = stack.enter_context(closing(open_unused(boot, reading)))
    refuse_data(disk, unfinished, yes=yes)
    go_on(unfinished, source, disk.size)
    return source, disk


def go_on(unfinished: Unfinished, source: Volume, size: int) -> None:
    """Begin, or say from where it goes on."""
    if unfinished.about is not None:
        remark(f"going on from {unfinished.folder}")
    unfinished.begin(source, size)


def errand_of(
    payload: Path | None, volume: str | None, unfinished: Unfinished, *, again: bool
) -> Errand | None:
    """Return what is done on the installer's page on the owner's behalf, None where that is the owner's."""
    if payload is None:
        return None
    done = unfinished.uploaded and not again
    return errand(payload, volume, uploaded=done, when_uploaded=unfinished.note_upload)


def folder_of(target: Path) -> Path:
    """Return the folder of an installation: beside a file, and for a device in the current folder."""
    place = Path.cwd() if is_device(target) else target.parent
    return place / f"{target.name}.install"


def check_image(image: Path | None, others: Sequence[Path], unfinished: Unfinished) -> None:
    """Raise Refused or UsageError where the image could not be written, before hours go by."""
    if image is None:
        return
    if not image.name.endswith(SUFFIX):
        raise click.UsageError(f"IMAGE must end in {SUFFIX}")
    check_place(image)
    place = image.resolve()
    if place in [other.resolve() for other in others] or unfinished.folder.resolve() in place.parents:
        raise click.UsageError("IMAGE needs a place of its own")
    if image.exists():
        raise Refused("exists already", volume=str(image), hint="another name")


def refuse_target(
    target: Path, size: int, sector_size: int, setup: machine.Setup, unfinished: Unfinished
) -> None:
    """Raise Refused where the new disk cannot be made, or there is too little space."""
    check_place(target)
    if target.exists() or is_device(target):
        raise Refused("exists already", volume=str(target))
    setup.refuse_sectors(sector_size)
    if size % sector_size:
        raise Refused(
            "no whole number of sectors", volume=str(target), expected=f"times {sector_size}", found=size
        )
    free = shutil.disk_usage(target.parent).free
    if unfinished.about is None and free < min(size, LEAST_FREE):
        raise Refused(
            "too little space for the new disk",
            volume=str(target.parent),
            expected=human(min(size, LEAST_FREE)),
            found=human(free),
        )


def open_data(target: Path, sector_size: int, setup: machine.Setup) -> FileVolume:
    """Open the disk to install on, and hold it; raises Refused where it is in use."""
    disk = open_disk(target, writable=True, sector_size=None if is_device(target) else sector_size)
    try:
        setup.refuse_sectors(disk.sector_size)
    except Unsupported:
        disk.close()
        raise
    return disk


def refuse_data(disk: FileVolume, unfinished: Unfinished, *, yes: bool) -> None:
    """Raise Refused where there is something on a disk that an installer would write over.

    What the last run left there is no reason; a device is asked for in any case.
    """
    found = [] if unfinished.knows(disk) else machine.holds(disk)
    if found and not yes:
        for line in found:
            remark(line)
        if not isinstance(disk, DeviceVolume):
            raise Refused("there is data on the disk", volume=disk.name, hint="--yes installs over it")
    confirm(disk, "let an installer write to", yes=yes)
