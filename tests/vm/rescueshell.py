"""A rescue system in a virtual machine, and the shell on its serial port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onebay.machine import qemu
from onebay.machine.worker import accel
from onebay.rescue.build import Rescue

ENTER = "press Enter for a shell"
PROMPT = "onebay-rescue:~#"


@dataclass(frozen=True, slots=True)
class Shell:
    """The shell on a machine's serial port."""

    guest: qemu.Running
    port: socket.socket
    heard: bytearray

    def ask(self, command: str) -> str:
        """Return what a command prints."""
        before = len(self.heard)
        self.port.sendall(f"{command}; echo end-of-'answer'\n".encode())
        deadline = time.monotonic() + 180
        while "end-of-answer" not in (text := self.heard[before:].decode("utf-8", "replace")):
            assert time.monotonic() < deadline, text[-2000:]
            time.sleep(0.1)
        return text.replace("\r", "").partition("end-of-'answer'\n")[2].partition("end-of-answer")[0]


@contextmanager
def shell(machine: qemu.Machine, scratch: Path) -> Iterator[Shell]:
    """Boot a machine and press Enter; whoever is joined to its port must read what it says."""
    with qemu.running(machine, scratch=scratch, serial=scratch / "serial.log") as guest:
        assert guest.wait(ENTER, 300, ("Kernel panic",)), guest.output()[-3000:]
        port = socket.socket(socket.AF_UNIX)
        port.connect(str(guest.socket))
        heard = bytearray()
        threading.Thread(target=listen, args=(port, heard), daemon=True).start()
        port.sendall(b"\n")
        assert guest.wait(PROMPT, 400, ("Kernel panic",)), guest.output()[-3000:]
        yield Shell(guest, port, heard)
        port.sendall(b"poweroff\n")
        assert guest.off(120)
        port.close()


def listen(port: socket.socket, heard: bytearray) -> None:
    """Keep what a port says; QEMU's log of it repeats a byte that nobody took at once."""
    while data := port.recv(65536):
        heard += data


def direct(rescue: Rescue, memory_mb: int, cache: Path, words: str = "") -> qemu.Machine:
    """Return a machine that is given kernel and initramfs, as over the network or by kexec."""
    return qemu.Machine(
        (),
        accel=accel(cache),
        memory_mb=memory_mb,
        kernel=rescue.kernel,
        initrd=rescue.initrd,
        cmdline=f"console=tty0 console=ttyS0,115200 quiet no_timer_check {words}".strip(),
    )
