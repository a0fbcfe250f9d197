"""How many connections others may hold, and how long they may say nothing: memory is short in a rescue.

A connection of TLS takes some 300 KB before its first request, so strangers are counted before that, at
accept. One that is not in the middle of a request has PATIENCE for the next whole head. Where a connection is
cut, its socket is shut down: the event loop then sees its end and closes it in its own way.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MOST = 32  # connections
MOST_EACH = 12  # of one source: a browser opens up to 6
PATIENCE = 15.0  # seconds for a handshake and a whole head, and between two requests
BATCH = 64  # connections refused at a time, so that a flood does not hold up everything else


@dataclass
class Guest:
    """A connection: address and port, for whom it counts, since when it is quiet, requests under way."""

    client: tuple[str, int]
    source: str
    since: float
    busy: int = 0


class Gate(socket.socket):
    """The socket that is listened at; it closes at once what is too much."""

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self.guests: WeakKeyDictionary[socket.socket, Guest] = WeakKeyDictionary()

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may stay; raises BlockingIOError where there is none."""
        for _ in range(BATCH):
            conn, address = super().accept()
            origin = source_of(address[0])
            here = [guest for _, guest in self.open()]
            if len(here) < MOST and sum(guest.source == origin for guest in here) < MOST_EACH:
                self.guests[conn] = Guest(address[:2], origin, time.monotonic())
                return conn, address
            conn.close()
        raise BlockingIOError

    def open(self) -> list[tuple[socket.socket, Guest]]:
        """Return the connections that are not closed."""
        return [(conn, guest) for conn, guest in self.guests.items() if conn.fileno() >= 0]

    def cut(self) -> None:
        """End the connections that say nothing; to be called about once a second."""
        end = time.monotonic() - PATIENCE
        for conn, guest in self.open():
            if not guest.busy and guest.since < end:
                with contextlib.suppress(OSError):  # gone already
                    conn.shutdown(socket.SHUT_RDWR)

    def watched(self, app: ASGIApp) -> ASGIApp:
        """Return the application around which requests are noted."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            guest = self.guest(scope.get("client"))
            if guest is None:
                await app(scope, receive, send)
                return
            guest.busy += 1
            try:
                await app(scope, receive, send)
            finally:
                guest.busy -= 1
                guest.since = time.monotonic()

        return answer

    def guest(self, client: tuple[str, int] | None) -> Guest | None:
        """Return what is known of the connection with this address and port."""
        return next((guest for _, guest in self.open() if guest.client == client), None)


def source_of(host: str) -> str:
    """Return whom an address counts for: of IPv6 the /64 that a whole house has, or the IPv4 in it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
