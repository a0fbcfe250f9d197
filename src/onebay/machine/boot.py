"""Boot a finished disk in a virtual machine and wait for what its system says on the serial console.

The disk is never written, unless the caller says so: QEMU works on an overlay that is thrown away. Firmware
is SeaBIOS, or OVMF with its own fresh copy of the variables, so what boots is what a machine would find that
never saw the disk before. There is no network, or one that only lets forwarded connections in. Not supported:
sectors of 4096 bytes under SeaBIOS (it cannot read them) and on sata.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onebay.base import tool
from onebay.base.error import NOTHING_WRITTEN, ToolFailed, ToolMissing, Unsupported
from onebay.base.event import Began, Ended, silent
from onebay.machine import qemu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.event import Report

Firmware = Literal["bios", "uefi"]
OVMF = Path("/usr/share/OVMF")

SHUTDOWN_SECONDS = 300  # what a system may take after the power button; minutes where it is emulated
WRITTEN = "the machine may have written to the disk"

# Whoever says this has given up, and so may we: it saves the rest of the time-out.
DEAD_ENDS = (
    "No bootable device",
    "grub rescue>",
    "grub> ",
    "Kernel panic",
    "Shell> ",
    "Minimal BASH-like line",
)


@dataclass(frozen=True, slots=True)
class BootResult:
    """How a boot went: whether the expected text came, when, and all that the serial console showed."""

    found: bool
    seconds: float
    log: Path
    output: str
    accel: qemu.Accel


@dataclass(frozen=True, slots=True)
class Setup:
    """How to boot: what `boot` and `booted` have in common.

    With `write` the machine works on the disk itself, a raw image or a block device that the caller holds for
    it, and not on an overlay; the boot disk is never written. `forwards` are those of `qemu.Machine`.
    """

    firmware: Firmware = "bios"
    bus: qemu.Bus = "virtio"
    sector_size: int = 512
    memory_mb: int = 1024
    accel: qemu.Accel = "tcg"
    write: bool = False
    forwards: tuple[tuple[int, int], ...] = ()


def overlay(disk: Path, target: Path) -> qemu.Drive:
    """Make `target` a throw-away overlay of `disk`, an image of any format or a block device."""
    kind = qemu.image_format(disk)
    tool.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", disk.absolute(), target])
    return qemu.Drive(target, "qcow2")


def firmware_files(scratch: Path) -> tuple[Path, Path]:
    """Return OVMF's code and a private copy of its variables; raises ToolMissing without it."""
    code, variables = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"
    if not code.is_file():
        raise ToolMissing(f"{code} is not installed", hint="apt-get install ovmf (or see: onebay doctor)")
    copy = scratch / "vars.fd"
    shutil.copyfile(variables, copy)
    return code, copy


def drives(disk: qemu.Drive, boot: qemu.Drive | None, setup: Setup) -> tuple[qemu.Drive, ...]:
    """Place the disks on the bus: firmware starts from the boot disk where there is one, else from the disk.

    Raises Unsupported where no firmware can.
    """
    if setup.firmware == "bios" and boot is None and setup.sector_size != 512:
        raise Unsupported(
            "BIOS reads only sectors of 512 bytes", found=setup.sector_size, hint="boot with uefi"
        )
    index = 1 if boot is None else None
    place = (disk.path, disk.format, setup.bus, setup.sector_size)
    data = qemu.Drive(*place, boot_index=index, kept=setup.write)
    if boot is None:
        return (data,)
    return (qemu.Drive(boot.path, boot.format, setup.bus, boot_index=1), data)


@contextmanager
def booted(disk: Path, *, boot: Path | None, setup: Setup, log: Path | None) -> Iterator[qemu.Running]:
    """Run a machine from a disk inside a `with` block; without `log` the serial log goes away with it."""
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        scratch = Path(name)
        first = overlay(boot, scratch / "boot.qcow2") if boot else None
        own = qemu.Drive(disk) if setup.write else overlay(disk, scratch / "disk.qcow2")
        machine = qemu.Machine(
            drives(own, first, setup),
            accel=setup.accel,
            memory_mb=setup.memory_mb,
            firmware=firmware_files(scratch) if setup.firmware == "uefi" else None,
            forwards=setup.forwards,
        )
        with qemu.running(machine, scratch=scratch, serial=log or scratch / "serial.log") as guest:
            yield guest


def boot(
    disk: Path,
    *,
    log: Path,
    boot: Path | None = None,
    firmware: Firmware = "bios",
    bus: qemu.Bus = "virtio",
    expect: str | None = None,
    timeout: float = 600,
    sector_size: int = 512,
    memory_mb: int = 1024,
    accel: qemu.Accel = "tcg",
    report: Report = silent,
) -> BootResult:
    """Boot an overlay of `disk`: see `boot_setup`."""
    setup = Setup(firmware, bus, sector_size, memory_mb, accel)
    return boot_setup(disk, setup, boot=boot, expect=expect, timeout=timeout, log=log, report=report)


def boot_setup(
    disk: Path,
    setup: Setup,
    *,
    log: Path,
    boot: Path | None = None,
    expect: str | None = None,
    timeout: float = 600,
    report: Report = silent,
) -> BootResult:
    """Boot `disk`, starting from the disk `boot` where given, and wait for `expect` on its serial console.

    Without `expect` it waits until the machine turns itself off or time is over, and neither is a failure.
    A machine that writes to the disk is shut down at the end. Raises ToolFailed with the last serial lines
    where the text does not come within `timeout` seconds, or the machine does not shut down.
    """
    report(Began("boot", f"{disk.name} under {setup.firmware} as {setup.bus}"))
    with booted(disk, boot=boot, setup=setup, log=log) as guest:
        found = guest.wait(expect, timeout, DEAD_ENDS)
        result = BootResult(found, guest.seconds(), log, guest.output(), setup.accel)
        off = guest.ended()
        if setup.write and not dead_end(result.output):
            shut_down(guest, disk)
    report(Ended("boot", result.seconds, expect if found and expect else ""))
    if expect is not None and not found:
        why = "the machine went off" if off else dead_end(result.output) or f"{timeout:.0f} s are over"
        last = qemu.last_lines(result.output) or "the console stayed empty"
        raise ToolFailed(
            f"{expect!r} did not come ({why}): {last}",
            volume=str(disk),
            hint=f"the whole serial log: {log}",
            state=WRITTEN if setup.write else NOTHING_WRITTEN,
        )
    return result


def shut_down(guest: qemu.Running, disk: Path) -> None:
    """Press the power button and wait until the machine is off; raises ToolFailed where it goes on."""
    guest.power_button()
    if not guest.off(SHUTDOWN_SECONDS):
        raise ToolFailed(
            f"the machine did not shut down within {SHUTDOWN_SECONDS} s and was ended as by a power cut",
            volume=str(disk),
            state=WRITTEN,
        )


def dead_end(output: str) -> str:
    """Return in words which dead end the output shows, or nothing."""
    return next((f"it said {text.strip()!r}" for text in DEAD_ENDS if text in output), "")
