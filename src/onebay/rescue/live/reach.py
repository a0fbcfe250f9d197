"""Which of IPv4 and IPv6 gets to the host of the image: a family that does not is used last."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from onebay.base.error import reason

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 8.0  # seconds for each address
MOST = 4  # addresses of a host that are tried
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# gai.conf(5): one line replaces the whole table, so here is all of it, with IPv4 first (RFC 6724, 10.3)
IPV4_FIRST = """precedence ::1/128 50
precedence ::/0 40
precedence 2002::/16 30
precedence ::/96 20
precedence ::ffff:0:0/96 100
"""


@dataclass(frozen=True, slots=True)
class Reach:
    """What became of reaching a host: for each family nothing where it worked, else why not."""

    host: str
    port: int
    failures: dict[int, str]

    @property
    def any(self) -> bool:
        """Whether a family works."""
        return not all(self.failures.values())

    def notes(self) -> list[str]:
        """Return a line for each family."""
        place = f"{self.host} port {self.port}"
        return [
            f"IPv{version} does not get to {place}: {why}" if why else f"IPv{version} gets to {place}"
            for version, why in sorted(self.failures.items())
        ]


def place_of(url: str) -> tuple[str, int]:
    """Return host and TCP port of a URL of http or https that was checked."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def reach(host: str, port: int) -> Reach:
    """Connect to a host over each family; takes up to half a minute each."""
    return Reach(host, port, {version: attempt(host, port, family) for version, family in FAMILIES.items()})


def attempt(host: str, port: int, family: socket.AddressFamily) -> str:
    """Return why a host cannot be connected to over a family, nothing where it can."""
    why = "no address"
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        none = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)
        return "no address" if error.errno in none else reason(error)
    except (OSError, UnicodeError) as error:
        return str(error)
    for *_, place in found[:MOST]:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(TIMEOUT)
                connection.connect(place)
                return ""
        except TimeoutError:
            why = "no answer"
        except OSError as error:
            why = reason(error)
    return why


def prefer(found: Reach, gai: Path) -> None:
    """Have new programs take the family that works; raises OSError.

    Nothing is taken from the other one: somebody may be logged in over it.
    """
    only_4 = not found.failures[4] and bool(found.failures[6])
    if only_4:
        gai.write_text(IPV4_FIRST)
    else:
        gai.unlink(missing_ok=True)
