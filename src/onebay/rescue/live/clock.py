"""The clock, where the machine's own is impossible or the settings name servers: NTP, else HTTP's Date.

Certificates need a clock, and so the Date of the image's host is taken without any trust, by plain HTTP or by
HTTPS without a look at the certificate, only where the clock is before the build of this system; it is said.
SNTP: RFC 4330, RFC 5905; busybox of Debian has no ntpd, and one answer to the second is enough here.
"""

from __future__ import annotations

import http.client
import secrets
import socket
import ssl
import struct
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from onebay.base.error import reason

if TYPE_CHECKING:
    from collections.abc import Sequence

NTP_PORT = 123
SINCE_1900 = 2208988800  # seconds from 1900, where NTP counts from, to 1970
ERA = 1 << 32  # seconds
TIMEOUT = 5.0  # seconds
SMALL = 0.5  # seconds that are not worth a step


class NoTime(Exception):  # noqa: N818
    """A server gave no time; the text says why."""


def request(nonce: bytes) -> bytes:
    """Return a client's packet: version 4, mode 3, and a nonce that the answer must have as its origin."""
    return bytes([0x23]) + bytes(39) + nonce


def parse_answer(packet: bytes, nonce: bytes, floor: float) -> float:
    """Return the seconds since 1970 of a server's packet, in the era that is not before `floor`.

    Raises NoTime where it is no answer to us, or of a server without a clock (RFC 4330, 5).
    """
    if len(packet) < 48:
        raise NoTime("a short answer")
    leap, mode, stratum = packet[0] >> 6, packet[0] & 7, packet[1]
    if mode != 4 or packet[24:32] != nonce:
        raise NoTime("an answer to another question")
    if leap == 3 or not 1 <= stratum <= 15:
        raise NoTime("the server has no time itself")
    whole, part = struct.unpack_from(">II", packet, 40)
    found = whole - SINCE_1900 + part / ERA
    while found < floor:
        found += ERA
    return float(found)


def ask_ntp(server: str, floor: float, port: int = NTP_PORT) -> float:
    """Return how many seconds the clock is behind a time server's; raises NoTime."""
    try:
        places = socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise NoTime(str(error)) from error
    why = "no address"
    for family, kind, protocol, _, place in places[:4]:
        try:
            with socket.socket(family, kind, protocol) as wire:
                wire.settimeout(TIMEOUT)
                wire.connect(place)  # answers of others do not come through
                nonce = secrets.token_bytes(8)
                began, tick = time.time(), time.monotonic()
                wire.send(request(nonce))
                server_time = parse_answer(wire.recv(1024), nonce, floor)
                return server_time - (began + (time.monotonic() - tick) / 2)
        except NoTime as error:
            why = str(error)
        except TimeoutError:
            why = "no answer"
        except OSError as error:
            why = reason(error)
    raise NoTime(why)


def ask_http(url: str) -> float:
    """Return how many seconds the clock is behind the Date of a URL's host (RFC 9110, 6.6.1).

    Raises NoTime.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=context)
    try:
        # no path and no query: they may hold what only the image's own request may send
        connection.request("HEAD", "/")
        said = connection.getresponse().getheader("Date", "")
        return parsedate_to_datetime(said).timestamp() - time.time()
    except TimeoutError as error:
        raise NoTime("no answer") from error
    except OSError as error:
        raise NoTime(reason(error)) from error
    except (http.client.HTTPException, ValueError, OverflowError) as error:
        raise NoTime("an answer without a date") from error
    finally:
        connection.close()


def set_clock(servers: Sequence[str], url: str | None, built: float) -> tuple[bool, str]:
    """Set the clock where that is called for; `built` is when this system was made, in seconds since 1970.

    Returns whether it is possible now, and what was done or went wrong.
    """
    impossible = time.time() < built
    said = []
    for server in servers:
        try:
            return True, step(ask_ntp(server, built), f"NTP of {server}")
        except NoTime as error:
            said.append(f"{server}: {error}")
    if not impossible:
        return True, f"the clock is the machine's own: {'; '.join(said)}" if said else ""
    if url is None:
        said.append("no time server is known")
        return False, f"the clock is wrong, it says {day()}: {'; '.join(said)}"
    try:
        behind = ask_http(url)
    except NoTime as error:
        said.append(f"{urlsplit(url).hostname}: {error}")
        return False, f"the clock is wrong, it says {day()}: {'; '.join(said)}"
    if time.time() + behind < built:
        return False, f"the clock is wrong, it says {day()}, and so is that of {urlsplit(url).hostname}"
    return True, step(behind, f"{urlsplit(url).hostname}, which nobody vouches for")


def step(behind: float, of: str) -> str:
    """Move the clock and return what was done, where that is worth a word."""
    if abs(behind) < SMALL:
        return ""
    before = day()
    try:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + behind)
    except (OSError, OverflowError, ValueError) as error:
        return f"the clock cannot be set: {error}"
    return f"the clock said {before} and was set by {of}"


def day() -> str:
    """Return the clock's time."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
