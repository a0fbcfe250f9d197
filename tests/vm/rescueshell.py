"""A rescue system in a virtual machine, and the shell on its serial port."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onebay.base import tool
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
        """Return what a command prints, between two words that its echo has in quotes."""
        before = len(self.heard)
        self.port.sendall(f"echo begin-of-'answer'; {command}; echo end-of-'answer'\n".encode())
        deadline = time.monotonic() + 180
        while "end-of-answer" not in (text := self.heard[before:].decode("utf-8", "replace")):
            assert time.monotonic() < deadline, text[-2000:]
            time.sleep(0.1)
        return text.replace("\r", "").partition("begin-of-answer\n")[2].partition("end-of-answer")[0]


@contextmanager
def booted(machine: qemu.Machine, scratch: Path, more: Sequence[str] = ()) -> Iterator[qemu.Running]:
    """Boot a machine with `more` options of QEMU than it has words for."""
    serial, port, monitor = (scratch / name for name in ("serial.log", "serial.sock", "monitor.sock"))
    for path in (serial, port, monitor):
        path.unlink(missing_ok=True)
    argv = qemu.machine_argv(machine, serial=serial, socket=port, monitor=monitor)
    argv = ["setpriv", "--pdeathsig", "TERM", *argv, *more]
    guest = qemu.Running(tool.spawn(argv, log=scratch / "qemu.txt"), serial, scratch)
    try:
        yield guest
    finally:
        guest.stop()


@contextmanager
def shell(machine: qemu.Machine, scratch: Path, more: Sequence[str] = ()) -> Iterator[Shell]:
    """Boot a machine, press Enter, and power it off in the end."""
    with booted(machine, scratch, more) as guest, joined(guest) as asked:
        yield asked
        asked.port.sendall(b"poweroff\n")
        assert guest.off(120)


@contextmanager
def joined(guest: qemu.Running) -> Iterator[Shell]:
    """Press Enter once the console says so; gives the shell behind it."""
    assert guest.wait(ENTER, 400, ("Kernel panic",)), guest.output()[-3000:]
    with socket.socket(socket.AF_UNIX) as port:
        port.connect(str(guest.socket))
        heard = bytearray()
        listener = threading.Thread(target=listen, args=(port, heard), daemon=True)
        listener.start()
        port.sendall(b"\n")
        assert guest.wait(PROMPT, 500, ("Kernel panic",)), guest.output()[-3000:]
        try:
            yield Shell(guest, port, heard)
        finally:
            with contextlib.suppress(OSError):
                port.shutdown(socket.SHUT_RDWR)
            listener.join(10)


def listen(port: socket.socket, heard: bytearray) -> None:
    """Keep what a port says; QEMU's log of it repeats a byte that nobody took at once."""
    with contextlib.suppress(OSError):
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
