"""Run an appliance's own installer in a virtual machine, on a view of its boot disk that is in our memory.

The installer may write to the boot disk as it likes; the disk itself is only read. The data disk is the real
target: what a flush of the guest has reached is on the medium, so that a run which was cut goes on.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import tempfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Refused, Unsupported
from onebay.base.event import Noted
from onebay.block import DeviceVolume, FileVolume, open_disk, serving
from onebay.block.container import detect
from onebay.fs import btrfs, ext, xfs
from onebay.fs.ext.record import Incompat
from onebay.machine import qemu
from onebay.machine.boot import Firmware, firmware_files
from onebay.machine.usbstick import stick
from onebay.tree import discover, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.tree import Tree

SYSTEM_FILES, SYSTEM_BYTES = 500, 64 << 20  # what a system holds at least
DATA = "d0"  # what QEMU calls the data disk
ENDS, SAMPLES = 64 << 20, 4096  # bytes at both ends of a device that are looked at, and places between
SPARE_MB = 192  # what QEMU needs beside the guest's memory, and what installers write to a boot disk
CHUNK, SECTOR = 1 << 20, 512
SCREENS = range(5900, 6000)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the installer sees; `cpu`, `nic` and `mac` in QEMU's words.

    `usb_id` are vendor and product of the boot disk where it is on usb, by which appliances know it; without
    `data_bus` the data disk is on sata, or on virtio where sata does not know its sectors.
    """

    firmware: Firmware = "bios"
    boot_bus: qemu.Bus = "usb"
    usb_id: tuple[int, int] = (0xF400, 0xF400)
    data_bus: qemu.Bus | None = None
    memory_mb: int = 1024
    cpus: int = 1
    cpu: str = ""
    nic: str = "virtio-net-pci"
    mac: str = ""
    accel: qemu.Accel = "tcg"
    forwards: tuple[tuple[int, int], ...] = ()
    online: bool = False
    screen: bool = False

    def bus_of(self, data: Volume) -> qemu.Bus:
        """Return the bus of a data disk."""
        return self.data_bus or ("sata" if data.sector_size == SECTOR else "virtio")

    def refuse_sectors(self, size: int) -> None:
        """Raise Unsupported where the data disk's bus does not know sectors of this size."""
        if size != SECTOR and self.data_bus in ("sata", "usb"):
            raise Unsupported(
                f"sectors of {size} bytes on {self.data_bus}", hint="--data-bus virtio, or nvme"
            )


@dataclass(frozen=True, slots=True)
class Screen:
    """Where to look at the machine: a VNC address on this host, and the password of this run."""

    address: str
    password: str


@contextmanager
def installing(
    view: Volume, data: Volume, setup: Setup, *, serial: Path
) -> Iterator[tuple[qemu.Running, Screen | None]]:
    """Run a machine with the boot disk `view` and the data disk inside a `with` block.

    `data` is a raw disk that the caller holds for it. Raises ToolMissing, ToolFailed.
    """
    with tempfile.TemporaryDirectory(prefix="onebay-") as name, ExitStack() as stack:
        scratch = Path(name)
        screen, shown = make_screen(scratch) if setup.screen else (None, None)
        sticks: tuple[qemu.Stick, ...] = ()
        drives = [data_drive(data, setup.bus_of(data))]  # the first: see DATA
        if setup.boot_bus == "usb":
            vendor, product = setup.usb_id
            usb = stick(view, scratch / "boot.sock", vendor_id=vendor, product_id=product)
            sticks = (stack.enter_context(usb).plug(boot_index=1),)
        else:
            stack.enter_context(serving(view, scratch / "boot.sock", writable=True))
            first = qemu.Drive(scratch / "boot.sock", bus=setup.boot_bus, boot_index=1, served=True)
            drives.append(first)
        machine = qemu.Machine(
            tuple(drives),
            accel=setup.accel,
            memory_mb=setup.memory_mb,
            cpus=setup.cpus,
            cpu=setup.cpu,
            nic=setup.nic,
            mac=setup.mac,
            firmware=firmware_files(scratch) if setup.firmware == "uefi" else None,
            forwards=setup.forwards,
            online=setup.online,
            restart=True,
            screen=screen,
            sticks=sticks,
        )
        with qemu.running(machine, scratch=scratch, serial=serial) as guest:
            yield guest, shown


def data_drive(data: Volume, bus: qemu.Bus) -> qemu.Drive:
    """Return the data disk as the guest sees it: of a device, with its own serial number and rotation."""
    if not isinstance(data, DeviceVolume):
        return qemu.Drive(Path(data.name), bus=bus, sector_size=data.sector_size, kept=True)
    return qemu.Drive(
        Path(data.name),
        bus=bus,
        sector_size=data.sector_size,
        kept=True,
        serial=data.identity.get("serial", ""),
        rotation=7200 if data.rotating else 1,
    )


def make_screen(scratch: Path) -> tuple[qemu.Screen, Screen]:
    """Choose a free port and a password; QEMU reads it from a file that only we may read."""
    password = secrets.token_hex(4)  # VNC takes eight characters
    secret = scratch / "vnc"
    secret.touch(mode=0o600)
    secret.write_text(password, "ascii")
    port = next((port for port in SCREENS if is_free(port)), None)
    if port is None:
        raise Refused("no port is free for the screen", expected="5900 to 5999")
    return qemu.Screen(port, secret), Screen(f"127.0.0.1:{port}", password)


def is_free(port: int) -> bool:
    """Whether a TCP port of this host's loopback can be listened at."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return a TCP port of this host's loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refuse_little_memory(memory_mb: int) -> None:
    """Raise Refused where this machine cannot spare what the virtual one needs."""
    available = available_mb()
    needed = memory_mb + SPARE_MB
    if available is not None and available < needed:
        raise Refused(
            "too little memory for the installer's machine",
            expected=f"{needed} MiB ({memory_mb} for the guest, {SPARE_MB} beside it)",
            found=f"{available} MiB",
            hint="end other programs, or give the guest less: --memory",
        )


def available_mb() -> int | None:
    """Return the MiB that programs may still use, None where the system does not tell (proc(5), meminfo)."""
    try:
        text = Path("/proc/meminfo").read_text("ascii")
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("MemAvailable:")), None)
    return int(line.split()[1]) >> 10 if line else None


def holds(disk: Volume) -> list[str]:
    """Say what is on a disk, one line a layer; empty where it is blank.

    All that a file holds is read until something is no zero; of a device 64 MiB at both ends, and samples.
    """
    tree = discover([disk])
    if lines := layers_of(tree):
        return lines
    if tree.suspects:
        return [f"{suspect.kind}, damaged" for suspect in tree.suspects]
    if any(disk.read(at, size).strip(b"\0") for at, size in places(disk)):
        return ["bytes of no format that is known"]
    return []


def places(disk: Volume) -> Iterator[tuple[int, int]]:
    """Yield the (start, size) of what `holds` reads of a disk without a known format."""
    if isinstance(disk, DeviceVolume):
        for start, end in ((0, min(ENDS, disk.size)), (max(0, disk.size - ENDS), disk.size)):
            yield from ((at, min(CHUNK, end - at)) for at in range(start, end, CHUNK))
        step = max(CHUNK, disk.size // SAMPLES // SECTOR * SECTOR)
        yield from ((at, min(4096, disk.size - at)) for at in range(0, disk.size, step))
        return
    for start, end in disk.data(0, disk.size):
        yield from ((at, min(CHUNK, end - at)) for at in range(start, end, CHUNK))


def refuse_same(boot: Path, target: FileVolume) -> None:
    """Raise Refused where the boot disk is the file to be installed onto, or a container that leads to it."""
    if isinstance(target, DeviceVolume):
        return  # it is ours alone: opening the boot disk would have been refused
    own = os.fstat(target.fd)
    for path in files_of(boot):
        found = path.stat()
        if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
            raise Refused("the boot disk and the target are one", volume=str(boot), found=target.name)


def files_of(disk: Path) -> list[Path]:
    """Return the file of a disk, and where it is a container, all that it leads to."""
    if not disk.is_file():
        return []
    file = FileVolume(disk)
    try:
        found = detect(file)
    finally:
        file.close()
    if found is None or not found.others:
        return [disk]
    told = tool.run(["qemu-img", "info", "-U", "--backing-chain", "--output=json", disk]).text
    return [
        disk,
        *(Path(entry["filename"]) for entry in json.loads(told) if Path(entry["filename"]).exists()),
    ]


def layers_of(tree: Tree) -> list[str]:
    """Describe every layer of a tree in one line, from the disk up."""
    return [
        f"{volume.name}: {layer.title}, {volume.size >> 20} MiB"
        for _, volume, layer in walk(tree, tree.disks[0])
        if layer is not None
    ]


def has_system(tree: Tree) -> bool:
    """Whether a file system of the disk holds as many files, or as much, as a system does.

    One that was not unmounted cannot tell, for its counts are in its journal: it is believed.
    """
    for layer in tree.layers:
        match layer:
            case ext.ExtFs(superblock=sb) if sb.s_feature_incompat & Incompat.NEEDS_RECOVERY:
                return True
            case ext.ExtFs(superblock=sb) if sb.s_inodes_count - sb.s_free_inodes_count >= SYSTEM_FILES:
                return True
            case xfs.Xfs(sb=sb) if sb.sb_icount - sb.sb_ifree >= SYSTEM_FILES:
                return True
            case btrfs.BtrfsFs(sb=sb) if sb.bytes_used >= SYSTEM_BYTES:
                return True
    return False


class Watcher:
    """Tells what the installer does to the data disk, by the layers that come and go."""

    def __init__(self, path: Path, sector_size: int, report: Report) -> None:
        self.path, self.sector_size, self.report = path, sector_size, report
        self.known: list[str] = []
        self.installed = False

    def look(self) -> None:
        """Look once; what is half-written reads as damaged, which is no news here."""
        with closing(open_disk(self.path, sector_size=self.sector_size, raw=True)) as disk:
            tree = discover([disk])
        found = [line.removeprefix(str(self.path)).lstrip(": ") for line in layers_of(tree)]
        for line in found:
            if line not in self.known:
                self.report(Noted(line, "data disk"))
        for line in self.known:
            if line not in found:
                self.report(Noted(f"gone: {line}", "data disk"))
        self.known = found
        if has_system(tree) and not self.installed:
            self.installed = True
            self.report(Noted("a system is installed", "data disk"))
