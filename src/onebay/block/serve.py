"""Serve a volume to the field's own tools over the NBD protocol within a `with` block.

So qemu-img writes its formats straight from what we compute, with no copy in between, and a virtual machine
writes to a view of a disk that is in our memory. One connection after the other is served, by one thread,
which alone uses the volume. Source: the NBD project's doc/proto.md.
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from onebay.base.error import Error
from onebay.block.listen import GoneError, Listener
from onebay.block.nbd import (
    CHUNK_HEAD,
    CHUNK_MAGIC,
    CMD_DISCONNECT,
    CMD_FLUSH,
    CMD_READ,
    CMD_STATUS,
    CMD_WRITE,
    CONTEXT,
    DONE,
    FIXED_NEWSTYLE,
    HAS_FLAGS,
    IHAVEOPT,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    MAX_OPTION,
    NBDMAGIC,
    NO_ZEROES,
    OPT_ABORT,
    OPT_GO,
    OPT_INFO,
    OPT_META,
    OPT_STRUCTURED,
    OPTION,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    READ_ONLY,
    REP_ACK,
    REP_ERROR,
    REP_INFO,
    REP_META,
    REPLY_DATA,
    REPLY_ERROR,
    REPLY_NONE,
    REPLY_STATUS,
    REQUEST,
    REQUEST_MAGIC,
    SEND_FLUSH,
    STATE_HOLE,
    STATE_ZERO,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from onebay.block.volume import Volume

MAX_REQUEST = 32 << 20
MAX_EXTENTS = 1024
LOOK_AHEAD = 256 << 20  # bytes for which holes are told at once
EIO, EINVAL = 5, 22
REQ_ONE = 8
UNSUPPORTED = REP_ERROR | 1


class Server(Listener):
    """Serves `volume` at the socket `path`; `failure` is what using it raised, `moved` is told how far.

    Only where it is `writable` the other side may write.
    """

    def __init__(
        self, volume: Volume, path: Path, moved: Callable[[int], None] | None, *, writable: bool = False
    ) -> None:
        self.volume, self.moved, self.writable = volume, moved, writable
        self.failure: Error | None = None
        self.ahead: list[tuple[int, int, int]] = []
        super().__init__(path)

    def serve(self, port: socket.socket) -> None:
        self.negotiate(port)
        while self.answer(port):
            pass

    def negotiate(self, port: socket.socket) -> None:
        """Answer options until the other side wants to go on."""
        port.sendall(NBDMAGIC + IHAVEOPT + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        take(port, 4)
        going = False
        while not going:
            magic, number, length = OPTION.unpack(take(port, OPTION.size))
            if magic != IHAVEOPT or length > MAX_OPTION:
                raise GoneError
            data = take(port, length)
            going = number == OPT_GO
            for kind, body in self.option(number, data):
                port.sendall(OPTION_REPLY.pack(OPTION_REPLY_MAGIC, number, kind, len(body)) + body)
            if number == OPT_ABORT:
                raise GoneError

    def option(self, number: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the answers to one option."""
        if number in (OPT_GO, OPT_INFO):
            flags = HAS_FLAGS | (SEND_FLUSH if self.writable else READ_ONLY)
            yield REP_INFO, struct.pack(">HQH", INFO_EXPORT, self.volume.size, flags)
            yield REP_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, 1, 4096, MAX_REQUEST)
        elif number == OPT_META:
            if CONTEXT in data:
                yield REP_META, struct.pack(">I", 1) + CONTEXT
        elif number not in (OPT_STRUCTURED, OPT_ABORT):
            yield UNSUPPORTED, b""
            return
        yield REP_ACK, b""

    def answer(self, port: socket.socket) -> bool:
        """Answer one request; return whether another may come."""
        magic, flags, command, handle, at, size = REQUEST.unpack(take(port, REQUEST.size))
        if magic != REQUEST_MAGIC:
            raise GoneError
        if command == CMD_DISCONNECT:
            return False
        data = b""
        if command == CMD_WRITE:
            if size > MAX_REQUEST:
                raise GoneError
            data = take(port, size)
        try:
            kind, body = self.done(command, at, size, data, one=bool(flags & REQ_ONE))
        except Error as error:
            self.failure = error
            kind, body = REPLY_ERROR | 1, struct.pack(">IH", EIO, 0)
        port.sendall(CHUNK_HEAD.pack(CHUNK_MAGIC, DONE, kind, handle, len(body)) + body)
        return True

    def done(self, command: int, at: int, size: int, data: bytes, *, one: bool) -> tuple[int, bytes]:
        """Do what is asked and return the answer's kind and content; raises what the volume raises."""
        if self.writable and command == CMD_FLUSH:
            self.volume.flush()
            return REPLY_NONE, b""
        if 0 < size <= self.volume.size - at:
            if command == CMD_STATUS:
                return REPLY_STATUS, struct.pack(">I", 1) + self.status(at, size, one=one)
            if command == CMD_READ and size <= MAX_REQUEST:
                content = self.volume.read(at, size)
                if self.moved is not None:
                    self.moved(at + size)
                return REPLY_DATA, struct.pack(">Q", at) + content
            if self.writable and command == CMD_WRITE:
                self.volume.write(at, data)
                self.ahead = []
                return REPLY_NONE, b""
        return REPLY_ERROR | 1, struct.pack(">IH", EINVAL, 0)

    def status(self, at: int, size: int, *, one: bool) -> bytes:
        """Return what of the next bytes is a hole, for up to 256 MiB and 1024 pieces; with `one` the first.

        qemu asks for one at a time, and takes no answer of more than 1000 bytes.
        """
        if not (self.ahead and self.ahead[0][0] <= at < self.ahead[-1][1]):
            self.ahead = self.look_ahead(at)
        first = bisect_right(self.ahead, at, key=lambda piece: piece[0]) - 1
        pieces = self.ahead[first : first + 1 if one else None]
        return b"".join(
            struct.pack(">II", min(stop, at + size) - max(start, at), state)
            for start, stop, state in pieces
            if start < at + size
        )

    def look_ahead(self, at: int) -> list[tuple[int, int, int]]:
        """Return (start, end, state) of the pieces from byte `at` on, without gaps."""
        end = min(at + LOOK_AHEAD, self.volume.size)
        found: list[tuple[int, int, int]] = []
        for start, stop in self.volume.data(at, end):
            if start > at:
                found.append((at, start, STATE_HOLE | STATE_ZERO))
            found.append((start, stop, 0))
            at = stop
            if len(found) >= MAX_EXTENTS:
                return found
        if at < end:
            found.append((at, end, STATE_HOLE | STATE_ZERO))
        return found


def take(port: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes; raises GoneError where the connection ends."""
    data = bytearray()
    while len(data) < size:
        more = port.recv(min(size - len(data), 1 << 20))
        if not more:
            raise GoneError
        data += more
    return bytes(data)


@contextlib.contextmanager
def serving(
    volume: Volume, path: Path, moved: Callable[[int], None] | None = None, *, writable: bool = False
) -> Iterator[Server]:
    """Serve `volume` at `path` inside the block; raises afterwards what using the volume raised.

    `moved` is called with the byte up to which was read, by the serving thread.
    """
    server = Server(volume, path, moved, writable=writable)
    try:
        yield server
    except Error as error:
        server.stop()
        if server.failure is not None:
            raise server.failure from error
        raise
    finally:
        server.stop()
    if server.failure is not None:
        raise server.failure
