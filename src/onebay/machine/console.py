"""The terminal as a machine's serial console: what the guest writes comes out, what is typed goes in."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING

from onebay.base.error import ToolFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.machine.qemu import Running

QUIT = b"\x1d"  # Ctrl-], as telnet and virsh have it
START_SECONDS = 30


class Console:
    """The terminal joined with a serial port; `over` when either end is gone."""

    def __init__(self, port: socket.socket, keyboard: list[int]) -> None:
        self.port, self.keyboard = port, keyboard
        self.over = False

    def pass_on(self, seconds: float) -> bool:
        """Pass on what comes within `seconds`; returns whether Ctrl-] was typed, or the terminal is gone."""
        ready, _, _ = select.select([self.port.fileno(), *self.keyboard], [], [], seconds)
        if self.port.fileno() in ready:
            data = received(self.port)
            self.over = not data
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        for number in self.keyboard:
            if number in ready:
                typed = os.read(number, 1024)
                if QUIT in typed or not typed:
                    return True
                self.port.sendall(typed)
        return False


@contextlib.contextmanager
def joined(guest: Running) -> Iterator[Console]:
    """Join the terminal with the serial port of a machine inside the block.

    Raises ToolFailed where QEMU does not start.
    """
    with serial_port(guest) as port, raw_terminal() as keyboard:
        yield Console(port, keyboard)


def received(port: socket.socket) -> bytes:
    """Return what came, or nothing where the other end is gone."""
    try:
        return port.recv(65536)
    except ConnectionError:
        return b""


def serial_port(guest: Running) -> socket.socket:
    """Connect to the machine's serial port as soon as QEMU listens; raises ToolFailed where it never does."""
    port = socket.socket(socket.AF_UNIX)
    while True:
        try:
            port.connect(str(guest.socket))
        except (FileNotFoundError, ConnectionError) as error:  # it is bound before it listens
            if guest.ended() or guest.seconds() > START_SECONDS:
                port.close()
                said = guest.messages.read_text("utf-8", "replace").strip()
                raise ToolFailed(f"qemu did not start: {said}") from error
            time.sleep(0.05)
        else:
            return port


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
