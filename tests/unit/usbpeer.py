"""The machine's side of a USB stick: usbredir and Bulk-Only Transport, written from their documents."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

# of usbredirproto.h
HELLO, CONNECT, RESET, INTERFACES, ENDPOINTS, SET_CONF, GET_CONF, CONF_STATUS = 0, 1, 3, 4, 5, 6, 7, 8
SET_ALT, GET_ALT, ALT_STATUS, CANCEL, CONTROL, BULK = 9, 10, 11, 21, 100, 101
SUCCESS, CANCELLED, INVALID, STALL = 0, 1, 2, 4
# what QEMU 7.2 can: streams, device version, filter, packet sizes, long ids, long lengths, bulk receiving
QEMU = 0b11110111
IN, OUT = 0x81, 0x02


class Answer(NamedTuple):
    """A packet of the stick."""

    kind: int
    number: int
    body: bytes


class Status(NamedTuple):
    """The end of a SCSI command."""

    tag: int
    residue: int
    status: int


class Peer:
    """A machine in a `with` block; `greet` is its greeting, empty for none."""

    def __init__(self, path: Path, *, capabilities: int = QEMU, greet: bool = True) -> None:
        self.port = socket.socket(socket.AF_UNIX)
        self.port.settimeout(60)
        self.port.connect(str(path))
        self.greeted = False
        self.number = 0
        if greet:
            body = b"qemu usb-redir guest 7.2".ljust(64, b"\0") + struct.pack("<I", capabilities)
            self.port.sendall(struct.pack("<III", HELLO, len(body), 0) + body)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.port.close()

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.port.recv(size - len(data))
            if not more:
                raise EOFError(f"hung up after {len(data)} of {size} bytes")
            data += more
        return data

    def receive(self) -> Answer:
        """The next packet."""
        if self.greeted:
            kind, size, number = struct.unpack("<IIQ", self.take(16))
        else:
            kind, size, number = struct.unpack("<III", self.take(12))
            self.greeted = True
        return Answer(kind, number, self.take(size))

    def send(self, kind: int, body: bytes = b"", number: int | None = None) -> int:
        """Send a packet, with a new id unless one is given, which is returned."""
        if number is None:
            self.number += 1
            number = self.number
        self.port.sendall(struct.pack("<IIQ", kind, len(body), number) + body)
        return number

    def receive_of(self, kind: int, body: bytes = b"") -> tuple[int, bytes]:
        """Send a packet and return the kind and body of its answer."""
        number = self.send(kind, body)
        answer = self.receive()
        assert answer.number == number
        return answer.kind, answer.body

    def plugged(self) -> list[Answer]:
        """Everything up to the packet that connects the device."""
        found = [self.receive()]
        while found[-1].kind != CONNECT:
            found.append(self.receive())
        return found

    def control(
        self, kind: int, request: int, value: int = 0, index: int = 0, size: int = 255
    ) -> tuple[int, bytes]:
        """A control transfer; returns its status and data."""
        number = self.send(
            CONTROL, struct.pack("<BBBBHHH", kind & 0x80, request, kind, 0, value, index, size)
        )
        answer = self.receive()
        assert (answer.kind, answer.number) == (CONTROL, number)
        data = answer.body[10:]
        status, length = answer.body[3], int.from_bytes(answer.body[8:10], "little")
        assert length == (0 if status else len(data) if kind & 0x80 else size)
        return status, data

    def ask(self, size: int) -> int:
        """Ask for up to `size` bytes; returns the id."""
        return self.send(BULK, struct.pack("<BBHIH", IN, 0, size & 0xFFFF, 0, size >> 16))

    def given(self, number: int) -> tuple[int, bytes]:
        """The answer to a bulk transfer: status and data."""
        answer = self.receive()
        assert (answer.kind, answer.number) == (BULK, number)
        endpoint, status, low, stream, high = struct.unpack("<BBHIH", answer.body[:10])
        assert stream == 0
        data = answer.body[10:]
        if endpoint == IN:
            assert high << 16 | low == len(data)
        return status, data

    def into(self, size: int) -> tuple[int, bytes]:
        """Ask for bytes and wait for them."""
        return self.given(self.ask(size))

    def out(self, data: bytes) -> int:
        """Send bytes; returns the status."""
        size = len(data)
        return self.given(
            self.send(BULK, struct.pack("<BBHIH", OUT, 0, size & 0xFFFF, 0, size >> 16) + data)
        )[0]

    def wrapper(self, block: bytes, size: int, *, inwards: bool, lun: int = 0, tag: int = 7) -> bytes:
        """A Command Block Wrapper."""
        head = struct.pack("<4sIIBBB", b"USBC", tag, size, 0x80 if inwards else 0, lun, len(block))
        return head + block.ljust(16, b"\0")

    def status(self) -> Status:
        """The Command Status Wrapper."""
        status, data = self.into(13)
        assert status == SUCCESS
        signature, tag, residue, end = struct.unpack("<4sIIB", data)
        assert signature == b"USBS"
        return Status(tag, residue, end)

    def read(self, block: bytes, size: int, *, step: int = 1 << 20) -> tuple[bytes, Status]:
        """Run a command that gives `size` bytes, `step` bytes at a time."""
        assert self.out(self.wrapper(block, size, inwards=True)) == SUCCESS
        data = b""
        while len(data) < size:
            status, part = self.into(min(step, size - len(data)))
            assert status == SUCCESS
            assert part
            data += part
        return data, self.status()

    def write(self, block: bytes, data: bytes, *, step: int = 1 << 20) -> Status:
        """Run a command that takes `data`, `step` bytes at a time."""
        assert self.out(self.wrapper(block, len(data), inwards=False)) == SUCCESS
        for at in range(0, len(data), step):
            assert self.out(data[at : at + step]) == SUCCESS
        return self.status()

    def sense(self) -> tuple[int, int]:
        """Sense key and code of what failed last."""
        data, status = self.read(bytes((0x03, 0, 0, 0, 18, 0)), 18)
        assert status.status == 0
        assert data[0] == 0x70
        return data[2], data[12]


def read_10(lba: int, count: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, count, 0)


def write_10(lba: int, count: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, flags, lba, 0, count, 0)
