"""QEMU: the command line of a virtual machine as a value, and a running one as an object.

The accelerator is software (TCG) unless a probe has proved KVM: see accel.py. Every machine is a q35 with one
serial port, which goes to a log file and to a socket, and a monitor (QMP) at another socket.
"""

from __future__ import annotations

import json
import socket as sockets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onebay.base import tool
from onebay.base.error import Refused, ToolFailed, Unsupported
from onebay.block import FileVolume
from onebay.block.container import detect
from onebay.block.unpack import CODECS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from subprocess import Popen

VNC_PORT = 5900
MOST_SAID = 64 << 20
LOG_TAIL, LINE = 64 << 10, 200  # characters of a log and of a line that a message may quote
Bus = Literal["virtio", "sata", "nvme", "usb", "cd"]
Accel = Literal["kvm", "tcg"]


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of a virtual machine; a smaller `boot_index` is tried earlier, None is never booted from.

    Of a disk that is `kept`, a flush of the guest reaches the medium, and the guest is told where that is
    full. `served` says that `path` is a socket where an NBD server offers the disk. `rotation` is in turns a
    minute, 1 for a disk that does not turn; only sata tells the guest.
    """

    path: Path
    format: str = "raw"
    bus: Bus = "virtio"
    sector_size: int = 512
    readonly: bool = False
    boot_index: int | None = None
    kept: bool = False
    served: bool = False
    serial: str = ""
    rotation: int | None = None


@dataclass(frozen=True, slots=True)
class Screen:
    """A screen over VNC on the host's loopback: its TCP port, from 5900 on, and a file with the password."""

    port: int
    secret: Path


@dataclass(frozen=True, slots=True)
class Stick:
    """A USB device that another program presents at `socket` over usbredir: see usbstick.py."""

    socket: Path
    boot_index: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a virtual machine consists of.

    `firmware` are the OVMF code and variables for UEFI, None for SeaBIOS; `share` is a folder given to the
    guest over 9p under the tag "share"; `kernel` and `initrd` bypass the firmware's choice of a disk.
    `forwards` are pairs of a TCP port on the host's loopback and one of the guest; without any there is no
    network, and with some the guest can still call nobody unless it is `online`. Its DHCP `offers` a file to
    boot from, a URL or a name in the folder `tftp`, and then that comes first. `cpu`, `nic` and `mac` are in
    QEMU's words. A machine ends where its system restarts, unless it may `restart`.
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
    forwards: tuple[tuple[int, int], ...] = ()
    online: bool = False
    cpu: str = ""
    nic: str = "virtio-net-pci"
    mac: str = ""
    offers: str = ""
    tftp: Path | None = None
    restart: bool = False
    screen: Screen | None = None
    sticks: tuple[Stick, ...] = ()


def image_format(path: Path) -> str:
    """Return QEMU's name of the format of a disk, by its own header; raises what opening it raises.

    Refused where it leads to other files, Unsupported where it is packed.
    """
    file = FileVolume(path)
    try:
        found = detect(file)
    finally:
        file.close()
    if found is None:
        return "raw"
    if found.others:
        raise Refused(
            f"the {found.kind} is not whole, it leads to other files",
            volume=str(path),
            expected="one file",
            found=", ".join(found.others[:4]),
            hint=f"make it whole: onebay export --allow-backing {path} OUT.qcow2",
        )
    if found.kind in CODECS:
        raise Unsupported(
            f"a machine cannot boot from a {found.kind} file",
            volume=str(path),
            hint="onebay restore an image of ours, or onebay export it to .qcow2",
        )
    return found.kind


def comma(path: Path) -> str:
    """Quote a path for a QEMU option, where a comma is doubled."""
    return str(path.absolute()).replace(",", ",,")


def drive_argv(drive: Drive, number: int) -> list[str]:
    """Return the options for one disk; raises Unsupported where the bus has no such sector size."""
    sectors = f",logical_block_size={drive.sector_size},physical_block_size={max(4096, drive.sector_size)}"
    if drive.bus in ("sata", "cd"):
        if drive.sector_size != 512:
            raise Unsupported("an emulated sata disk has sectors of 512 bytes", found=drive.sector_size)
        sectors = ""
    device = {
        "virtio": "virtio-blk-pci",
        "sata": f"ide-hd,bus=ide.{number}",
        "nvme": "nvme",
        "usb": "usb-storage",
        "cd": f"ide-cd,bus=ide.{number}",
    }[drive.bus]
    index = "" if drive.boot_index is None else f",bootindex={drive.boot_index}"
    place = f"{'nbd:unix:' if drive.served else ''}{comma(drive.path)}"
    options = f"if=none,id=d{number},file={place},format={drive.format}"
    options += ",cache=writeback,werror=report" if drive.kept else ",cache=unsafe"
    options += ",readonly=on" if drive.readonly else ",discard=unmap,detect-zeroes=unmap"
    serial = (drive.serial or f"onebay{number}").replace(",", ",,")
    turns = f",rotation_rate={drive.rotation}" if drive.rotation and drive.bus == "sata" else ""
    return ["-drive", options, "-device", f"{device},drive=d{number},serial={serial}{sectors}{turns}{index}"]


def stick_argv(stick: Stick, number: int) -> list[str]:
    """Return the options for a USB device from a socket, where its server must listen already."""
    index = "" if stick.boot_index is None else f",bootindex={stick.boot_index}"
    chardev = f"socket,id=u{number},path={comma(stick.socket)}"
    return ["-chardev", chardev, "-device", f"usb-redir,chardev=u{number}{index}"]


def network_argv(machine: Machine) -> list[str]:
    """Return the options for a network that only lets forwarded connections in."""
    if not machine.forwards and not machine.online:
        return []
    rules = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in machine.forwards)
    rules += f",bootfile={machine.offers.replace(',', ',,')}" if machine.offers else ""
    rules += f",tftp={comma(machine.tftp)}" if machine.tftp else ""
    card = f"{machine.nic},netdev=n0" + (f",mac={machine.mac}" if machine.mac else "")
    card += ",bootindex=0" if machine.offers else ""
    # without its ROM, iPXE, the card offers a BIOS nothing to boot from; UEFI has drivers of its own
    card += "" if machine.offers and not machine.firmware else ",romfile="
    restrict = "off" if machine.online else "on"
    return ["-netdev", f"user,id=n0,restrict={restrict}{rules}", "-device", card]


def screen_argv(screen: Screen | None) -> list[str]:
    """Return the options for a screen and a keyboard, or for none."""
    if screen is None:
        return ["-display", "none"]
    return [
        "-object",
        f"secret,id=vnc,file={comma(screen.secret)}",
        "-vnc",
        f"127.0.0.1:{screen.port - VNC_PORT},password-secret=vnc",
        "-device",
        "VGA",
    ]


def machine_argv(machine: Machine, *, serial: Path, socket: Path, monitor: Path) -> list[str]:
    """Return the whole command; the serial port is logged to `serial` and offered at `socket`."""
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", *screen_argv(machine.screen)]
    argv += [] if machine.restart else ["-no-reboot"]
    # without a screen, SeaBIOS speaks on the serial port
    argv += ["-machine", "q35" if machine.screen else "q35,graphics=off"]
    argv += ["-m", str(machine.memory_mb), "-smp", str(machine.cpus)]
    kvm = machine.accel == "kvm"
    argv += [
        "-accel",
        "kvm" if kvm else "tcg,thread=multi",
        "-cpu",
        machine.cpu or ("host" if kvm else "max"),
    ]
    argv += ["-chardev", f"socket,id=s0,path={comma(socket)},server=on,wait=off,logfile={comma(serial)}"]
    argv += ["-serial", "chardev:s0", "-qmp", f"unix:{comma(monitor)},server=on,wait=off"]
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
    argv += ["-device", "virtio-rng-pci", *network_argv(machine)]
    if machine.sticks or any(drive.bus == "usb" for drive in machine.drives):
        argv += ["-device", "qemu-xhci"]
    for number, drive in enumerate(machine.drives):
        argv += drive_argv(drive, number)
    for number, stick in enumerate(machine.sticks):
        argv += stick_argv(stick, number)
    return argv


class Running:
    """A virtual machine that runs."""

    def __init__(self, process: Popen[bytes], serial: Path, scratch: Path) -> None:
        self.process = process
        self.serial = serial
        self.socket, self.monitor = scratch / "serial.sock", scratch / "monitor.sock"
        self.messages = scratch / "qemu.txt"
        self.began = time.monotonic()

    def output(self) -> str:
        """What the guest has written to its serial port so far, its first 64 MiB."""
        if not self.serial.exists():
            return ""
        with self.serial.open("rb") as file:
            return file.read(MOST_SAID).decode("utf-8", "replace")

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
        if over:
            self.refuse_failure()
        return text is not None and text in self.output()

    def off(self, timeout: float) -> bool:
        """Wait `timeout` seconds at most for the machine to be off; returns whether it is."""
        deadline = time.monotonic() + timeout
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.ended()

    def refuse_failure(self) -> None:
        """Raise ToolFailed where QEMU has ended and not by itself."""
        if self.ended() and self.process.returncode:
            last = self.messages.read_text("utf-8", "replace").strip().splitlines()[-4:]
            raise ToolFailed(f"qemu ended with status {self.process.returncode}: {' | '.join(last)}")

    def power_button(self) -> None:
        """Press the power button once; a system that listens to it shuts down. Nothing where it is off.

        Raises ToolFailed where QEMU does not answer within 10 s.
        """
        self.command("system_powerdown")

    def quit(self) -> None:
        """End the machine as by a power cut, but with all that it had written to its disks there."""
        self.command("quit")
        self.off(10)

    def written(self, drive: str) -> int:
        """Return how many bytes the guest wrote to a drive (QMP query-blockstats), 0 where it is off."""
        stats = self.command("query-blockstats")
        return sum(int(each["stats"]["wr_bytes"]) for each in stats or () if each.get("device") == drive)

    def command(self, name: str) -> Any:
        """Give QEMU a command and return its answer (docs/interop/qmp-spec.rst of QEMU); None where it has
        ended. Raises ToolFailed."""
        if self.ended():
            return None
        try:
            with sockets.socket(sockets.AF_UNIX) as port:
                port.settimeout(10)
                port.connect(str(self.monitor))
                with port.makefile("rwb") as talk:
                    talk.readline()  # the greeting
                    for command in ("qmp_capabilities", name):
                        talk.write(json.dumps({"execute": command}).encode() + b"\n")
                        talk.flush()
                        answer = json.loads(talk.readline() or b"{}")
                        while "event" in answer:
                            answer = json.loads(talk.readline() or b"{}")
                    return answer.get("return")
        except (OSError, ValueError) as error:
            if not self.ended():
                raise ToolFailed(f"qemu does not answer: {error}") from error
            return None

    def stop(self) -> None:
        """End the machine, which is our own child; nothing else is touched."""
        if not self.ended():
            self.process.terminate()
            if not self.off(5):
                self.process.kill()
        self.process.wait()


@contextmanager
def running(machine: Machine, *, scratch: Path, serial: Path) -> Iterator[Running]:
    """Run a machine inside a `with` block; sockets and QEMU's own messages go to `scratch`."""
    socket, monitor = scratch / "serial.sock", scratch / "monitor.sock"
    serial.unlink(missing_ok=True)
    argv = machine_argv(machine, serial=serial, socket=socket, monitor=monitor)
    # it must not outlive us: it would go on writing to disks that nobody holds for it any more
    argv = ["setpriv", "--pdeathsig", "TERM", tool.require(argv[0]), *argv[1:]]
    guest = Running(tool.spawn(argv, log=scratch / "qemu.txt"), serial, scratch)
    try:
        yield guest
    finally:
        guest.stop()


def last_lines(text: str, count: int = 6) -> str:
    """Return the last non-empty lines of a log as one line, as a terminal may show it."""
    lines: Sequence[str] = [line.strip() for line in text[-LOG_TAIL:].splitlines() if line.strip()]
    shown = ("".join(c if c.isprintable() else "?" for c in line[-LINE:]) for line in lines[-count:])
    return " | ".join(shown)
