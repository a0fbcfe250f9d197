"""A disk that another program serves over the NBD protocol on a socket of this machine, for reading.

Fixed newstyle negotiation, structured replies, and "base:allocation", by which holes are skipped. One request
is under way at a time. Source: the NBD project's doc/proto.md. Not supported: TLS, writing, simple replies
with data.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Damaged, Refused, ToolFailed, reason
from onebay.base.extent import Builder, Extent
from onebay.block.volume import Volume, read_only

if TYPE_CHECKING:
    from collections.abc import Iterator

NBDMAGIC, IHAVEOPT = b"NBDMAGIC", b"IHAVEOPT"
OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST = struct.Struct(">IHHQQI")
REQUEST_MAGIC = 0x25609513
CHUNK_HEAD = struct.Struct(">IHHQI")
CHUNK_MAGIC = 0x668E33EF
SIMPLE_HEAD = struct.Struct(">IIQ")
SIMPLE_MAGIC = 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_ABORT, OPT_INFO, OPT_GO, OPT_STRUCTURED, OPT_META = 2, 6, 7, 8, 10
REP_ACK, REP_INFO, REP_META, REP_ERROR = 1, 3, 4, 1 << 31
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS, READ_ONLY, SEND_FLUSH = 1, 2, 4
CMD_READ, CMD_WRITE, CMD_DISCONNECT, CMD_FLUSH, CMD_STATUS = 0, 1, 2, 3, 7
REPLY_NONE, REPLY_DATA, REPLY_HOLE, REPLY_STATUS, REPLY_ERROR = 0, 1, 2, 5, 1 << 15
DONE = 1
STATE_HOLE, STATE_ZERO = 1, 2
CONTEXT = b"base:allocation"
MAX_READ = 4 << 20  # bytes asked for at once; every server must give 32 MiB
MAX_STATUS = 1 << 30
MAX_OPTION = 64 << 10
PATIENCE = 120  # seconds; a disk that sleeps wakes up in less


class Reply(NamedTuple):
    """One chunk of an answer."""

    flags: int
    kind: int
    length: int


class NbdVolume(Volume):
    """The disk behind the socket `port`, which this volume owns; raises ToolFailed where it is not NBD."""

    def __init__(self, name: str, port: socket.socket, *, sector_size: int = 512) -> None:
        self.name, self.port, self.sector_size = name, port, sector_size
        self.lock = threading.Lock()
        self.requests = 0
        port.settimeout(PATIENCE)
        self.context = 0
        self.size = self.negotiate()

    def negotiate(self) -> int:
        """Go through the options; return the size in bytes."""
        if self.receive(16) != NBDMAGIC + IHAVEOPT:
            raise self.broken("no NBD greeting")
        self.receive(2)
        self.send(struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES))
        self.option(OPT_STRUCTURED, b"")
        query = struct.pack(">III", 0, 1, len(CONTEXT)) + CONTEXT
        for kind, data in self.option(OPT_META, query):
            if kind == REP_META and len(data) >= 4:
                self.context = int.from_bytes(data[:4], "big")
        for kind, data in self.option(OPT_GO, struct.pack(">IH", 0, 0)):
            if kind == REP_INFO and len(data) == 12 and data[:2] == bytes(2):
                return int.from_bytes(data[2:10], "big")
        raise self.broken("no size of the disk")

    def option(self, number: int, data: bytes) -> list[tuple[int, bytes]]:
        """Send one option; return what comes before the acknowledgement."""
        self.send(OPTION.pack(IHAVEOPT, number, len(data)) + data)
        found: list[tuple[int, bytes]] = []
        while len(found) < 64:
            magic, told, kind, length = OPTION_REPLY.unpack(self.receive(OPTION_REPLY.size))
            if magic != OPTION_REPLY_MAGIC or told != number or length > MAX_OPTION:
                raise self.broken("an answer to an option is none")
            body = self.receive(length)
            if kind == REP_ACK:
                return found
            if kind & REP_ERROR:
                raise self.broken(f"option {number} is refused: {body.decode('utf-8', 'replace')}")
            found.append((kind, body))
        raise self.broken("an answer to an option has no end")

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self.port.sendall(data)
        except OSError as error:
            raise self.broken(reason(error)) from error

    def receive(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            try:
                step = self.port.recv_into(view[got:])
            except OSError as error:
                raise self.broken(reason(error)) from error
            if not step:
                raise self.broken("the connection ended")
            got += step
        return bytes(data)

    def broken(self, what: str) -> ToolFailed:
        """Return the error for a server that does not do its part."""
        return ToolFailed(f"the program that serves the disk: {what}", volume=self.name)

    def ask(self, command: int, at: int, size: int) -> Iterator[tuple[Reply, bytes]]:
        """Send one request and yield the chunks of its answer; raises Damaged where the server cannot."""
        self.requests += 1
        self.send(REQUEST.pack(REQUEST_MAGIC, 0, command, self.requests, at, size))
        while True:
            magic, flags, kind, handle, length = CHUNK_HEAD.unpack(self.receive(CHUNK_HEAD.size))
            if magic != CHUNK_MAGIC or handle != self.requests or length > MAX_READ + MAX_OPTION:
                raise self.broken("an answer is none")
            body = self.receive(length)
            if kind & REPLY_ERROR:
                text = body[6:].decode("utf-8", "replace") if len(body) > 6 else "input/output error"
                raise Damaged(f"cannot be read: {text}", volume=self.name, at=at)
            yield Reply(flags, kind, length), body
            if flags & DONE:
                return

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        with self.lock:
            parts = [self.piece(at + done, min(MAX_READ, size - done)) for done in range(0, size, MAX_READ)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def piece(self, at: int, size: int) -> bytes:
        """Read up to 4 MiB."""
        out = bytearray(size)
        filled = 0
        for reply, body in self.ask(CMD_READ, at, size):
            if reply.kind == REPLY_NONE:
                continue
            start = int.from_bytes(body[:8], "big") - at
            data = body[8:]
            if reply.kind == REPLY_HOLE and len(body) == 12:
                data = bytes(min(size, int.from_bytes(data, "big")))
            elif reply.kind != REPLY_DATA:
                raise self.broken("an answer to a read is none")
            if not 0 <= start <= start + len(data) <= size:
                raise self.broken("an answer lies outside what was asked for")
            out[start : start + len(data)] = data
            filled += len(data)
        if filled != size:
            raise self.broken("an answer is not complete")
        return bytes(out)

    def data(self, start: int, end: int) -> Iterator[Extent]:
        end = min(end, self.size)
        at = start
        found = Builder()
        while at < end:
            with self.lock:
                for size, state in self.status(at, min(MAX_STATUS, end - at)):
                    stop = min(at + size, end)
                    if not state & STATE_ZERO:
                        found.add(at, stop)
                    at = stop
            while len(found.bounds) > 2:  # the last one may still grow
                yield Extent(found.bounds.pop(0), found.bounds.pop(0))
        yield from found.done()

    def status(self, at: int, size: int) -> list[tuple[int, int]]:
        """Return (bytes, state) of what follows byte `at`, at least one."""
        found: list[tuple[int, int]] = []
        for reply, body in self.ask(CMD_STATUS, at, size):
            if reply.kind == REPLY_STATUS and len(body) % 8 == 4:
                found += [pair for pair in struct.iter_unpack(">II", body[4:]) if pair[0]]
        if not found:
            raise self.broken("an answer about holes is none")
        return found

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002
        raise read_only(self)

    def flush(self) -> None:
        """Nothing to do: nothing is written."""

    def close(self) -> None:
        """Say good-bye; the volume cannot be used any more."""
        with contextlib.suppress(OSError):  # the server may be gone already
            self.port.sendall(REQUEST.pack(REQUEST_MAGIC, 0, CMD_DISCONNECT, 0, 0, 0))
        self.port.close()


def connect(path: str) -> socket.socket:
    """Connect to a socket in the file system; raises OSError, or Refused where its path is too long."""
    port = socket.socket(socket.AF_UNIX)
    try:
        port.connect(path)
    except OSError as error:
        port.close()
        if "too long" in str(error):
            raise Refused("the path of the scratch folder is too long for a socket", volume=path) from error
        raise
    return port
