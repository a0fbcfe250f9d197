"""A key and a certificate for this run, by openssl; and the addresses that they are for.

Sources: openssl-req(1); proc(5); Linux net/ipv4/fib_trie.c and net/ipv6/addrconf.c for the two tables.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool

if TYPE_CHECKING:
    from collections.abc import Iterable

DAYS = 3650  # a rescue's clock may be wrong by years, and the key is thrown away at the end of the run
MOST = 32  # addresses in a certificate


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of a key and its certificate, and the certificate's SHA-256, as browsers show it."""

    key: Path
    chain: Path
    fingerprint: str


def make(folder: Path, addresses: Iterable[str]) -> Certificate:
    """Make a self-signed certificate for addresses and "localhost"; raises ToolMissing, ToolFailed."""
    key, chain = folder / "key.pem", folder / "certificate.pem"
    names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in addresses)])
    tool.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-noenc", "-sha256", "-days", str(DAYS), "-subj", "/CN=onebay", "-keyout", key, "-out", chain),
            *("-addext", f"subjectAltName={names}", "-addext", "extendedKeyUsage=serverAuth"),
        ],
        timeout=60,
    )
    der = ssl.PEM_cert_to_DER_cert(chain.read_text("ascii"))
    return Certificate(key, chain, colons(der))


def colons(der: bytes) -> str:
    """Return a fingerprint the way browsers show it."""
    return sha256(der).digest().hex(":").upper()


def addresses() -> list[str]:
    """Return this machine's own addresses that others may reach, loopback last."""
    found = [*ipv4(), *ipv6()]
    return sorted(dict.fromkeys(found), key=lambda text: ipaddress.ip_address(text).is_loopback)[:MOST]


def ipv4() -> list[str]:
    """Return the local addresses in the table of routes."""
    found, last = [], ""
    for line in lines(Path("/proc/net/fib_trie")):
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.append(last)
    return [text for text in found if is_address(text)]


def ipv6() -> list[str]:
    """Return the addresses of IPv6, without those of one link, which no browser can be given."""
    found = []
    for line in lines(Path("/proc/net/if_inet6")):
        raw = line.split()[0]
        if len(raw) == 32:
            address = ipaddress.IPv6Address(int(raw, 16))
            if not address.is_link_local:
                found.append(str(address))
    return found


def lines(path: Path) -> list[str]:
    """Return the lines of a table of the kernel that are not empty, none where it has no such table."""
    try:
        return [line for line in path.read_text("ascii", "replace").splitlines() if line.strip()]
    except OSError:
        return []


def is_address(text: str) -> bool:
    """Whether a text is an address of IPv4 or IPv6."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
