"""QEMU: the command line of a virtual machine as a value, and a running one as an object.

The accelerator is software (TCG) unless a probe has proved KVM: see accel.py. Every machine is a q35 with one
serial port, which goes to a log file and to a socket.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onebay.base import tool
from onebay.base.error import Missing, ToolFailed, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from subprocess import Popen

Bus = Literal["virtio", "sata", "nvme", "usb"]
Accel = Literal["kvm", "tcg"]

# first bytes of a file -> QEMU's name of the format
MAGIC = ((b"QFI\xfb", "qcow2"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"), (b"conectix", "vpc"))


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of a virtual machine; a smaller `boot_index` is tried earlier, None is never booted from."""

    path: Path
    format: str = "raw"
    bus: Bus = "virtio"
    sector_size: int = 512
    readonly: bool = False
    boot_index: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a virtual machine consists of.

    `firmware` are the OVMF code and variables for UEFI, None for SeaBIOS; `share` is a folder given to the
    guest over 9p under the tag "share"; `kernel` and `initrd` bypass the firmware's choice of a disk.
    """

    drives: tuple[Drive, ...]
    accel: Accel = "tcg"
    memory_mb: int = 1024
    cpus: int = 1
    firmware: tuple[Path, Path] | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    share: Path | None = None


def image_format(path: Path) -> str:
    """Return QEMU's name of the format of an image file, by its first bytes; raises Missing."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise Missing("no such file or device", volume=str(path)) from error
    return next((name for magic, name in MAGIC if head.startswith(magic)), "raw")


def comma(path: Path) -> str:
    """Quote a path for a QEMU option, where a comma is doubled."""
    return str(path.absolute()).replace(",", ",,")


def drive_argv(drive: Drive, number: int) -> list[str]:
    """Return the options for one disk; raises Unsupported where the bus has no such sector size."""
    sectors = f",logical_block_size={drive.sector_size},physical_block_size={max(4096, drive.sector_size)}"
    if drive.bus == "sata":
        if drive.sector_size != 512:
            raise Unsupported("an emulated sata disk has sectors of 512 bytes", found=drive.sector_size)
        sectors = ""
    device = {
        "virtio": "virtio-blk-pci",
        "sata": f"ide-hd,bus=ide.{number}",
        "nvme": "nvme",
        "usb": "usb-storage",
    }[drive.bus]
    index = "" if drive.boot_index is None else f",bootindex={drive.boot_index}"
    options = f"if=none,id=d{number},file={comma(drive.path)},format={drive.format},cache=unsafe"
    options += ",readonly=on" if drive.readonly else ",discard=unmap,detect-zeroes=unmap"
    return ["-drive", options, "-device", f"{device},drive=d{number},serial=onebay{number}{sectors}{index}"]


def machine_argv(machine: Machine, *, serial: Path, socket: Path) -> list[str]:
    """Return the whole command; the serial port is logged to `serial` and offered at `socket`."""
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-machine", "q35,graphics=off", "-m", str(machine.memory_mb), "-smp", str(machine.cpus)]
    kvm = machine.accel == "kvm"
    argv += ["-accel", "kvm" if kvm else "tcg,thread=multi", "-cpu", "host" if kvm else "max"]
    argv += ["-chardev", f"socket,id=s0,path={comma(socket)},server=on,wait=off,logfile={comma(serial)}"]
    argv += ["-serial", "chardev:s0"]
    if machine.firmware:
        code, variables = machine.firmware
        argv += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={comma(code)}"]
        argv += ["-drive", f"if=pflash,unit=1,format=raw,file={comma(variables)}"]
    if machine.kernel:
        argv += ["-kernel", str(machine.kernel), "-append", machine.cmdline]
    if machine.initrd:
        argv += ["-initrd", str(machine.initrd)]
    if machine.share:
        options = "mount_tag=share,security_model=none,multidevs=remap"
        argv += ["-virtfs", f"local,path={comma(machine.share)},{options}"]
    argv += ["-device", "virtio-rng-pci"]
    if any(drive.bus == "usb" for drive in machine.drives):
        argv += ["-device", "qemu-xhci"]
    for number, drive in enumerate(machine.drives):
        argv += drive_argv(drive, number)
    return argv


class Running:
    """A virtual machine that runs."""

    def __init__(self, process: Popen[bytes], serial: Path, socket: Path, messages: Path) -> None:
        self.process = process
        self.serial = serial
        self.socket = socket
        self.messages = messages
        self.began = time.monotonic()

    def output(self) -> str:
        """What the guest has written to its serial port so far."""
        return self.serial.read_bytes().decode("utf-8", "replace") if self.serial.exists() else ""

    def ended(self) -> bool:
        """Whether the machine is off."""
        return self.process.poll() is not None

    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.began

    def wait(self, text: str | None, timeout: float, dead_ends: Sequence[str] = ()) -> bool:
        """Wait until `text` or one of `dead_ends` comes, or the machine is off; returns whether `text` came.

        Raises ToolFailed when QEMU itself fails.
        """
        while not (over := self.ended()) and self.seconds() < timeout:
            output = self.output()
            if text is not None and text in output:
                return True
            if any(end in output for end in dead_ends):
                return False
            time.sleep(0.1)
        if over and self.process.returncode:
            last = self.messages.read_text("utf-8", "replace").strip().splitlines()[-4:]
            raise ToolFailed(f"qemu ended with status {self.process.returncode}: {' | '.join(last)}")
        return text is not None and text in self.output()

    def stop(self) -> None:
        """End the machine, which is our own child; nothing else is touched."""
        if not self.ended():
            self.process.terminate()
            deadline = time.monotonic() + 5
            while not self.ended() and time.monotonic() < deadline:
                time.sleep(0.02)
            if not self.ended():
                self.process.kill()
        self.process.wait()


@contextmanager
def running(machine: Machine, *, scratch: Path, serial: Path) -> Iterator[Running]:
    """Run a machine inside a `with` block; sockets and QEMU's own messages go to `scratch`."""
    socket, messages = scratch / "serial.sock", scratch / "qemu.txt"
    serial.unlink(missing_ok=True)
    process = tool.spawn(machine_argv(machine, serial=serial, socket=socket), log=messages)
    guest = Running(process, serial, socket, messages)
    try:
        yield guest
    finally:
        guest.stop()


def last_lines(text: str, count: int = 6) -> str:
    """Return the last non-empty lines of a log as one line."""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])
