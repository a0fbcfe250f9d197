"""What a DHCP server gave: the script of busybox udhcpc writes it down, here it is read and judged.

RFC 2132; RFC 3442: classless routes stand in for the router. A server may say anything: what is no address is
left out.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.rescue.live.plan import DHCP_METRIC, Command, address_command, route_command
from onebay.rescue.live.settings import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.rescue.live.links import Link
    from onebay.rescue.live.settings import Interface

MOST = 64 << 10  # bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease; without an address there is none, and `failed` says that nobody answered."""

    address: ipaddress.IPv4Interface | None = None
    routes: tuple[Route, ...] = ()
    dns: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()
    mtu: int | None = None
    failed: bool = False


def addresses(text: str) -> Iterator[ipaddress.IPv4Address]:
    """Yield the addresses of hosts in a list of words."""
    for word in text.split()[:16]:
        try:
            found = ipaddress.IPv4Address(word)
        except ValueError:
            continue
        if not (found.is_multicast or found.is_unspecified or found.is_loopback):
            yield found


def parse_lease(text: str) -> Lease:
    """Return the lease in what the script wrote."""
    fields = dict(line.partition("=")[::2] for line in text[:MOST].splitlines())
    if fields.get("event") not in ("bound", "renew"):
        return Lease(failed=fields.get("event") == "leasefail")
    own = next(addresses(fields.get("ip", "")), None)
    if own is None:
        return Lease()
    mtu = fields.get("mtu", "")
    length = prefix_length(fields.get("mask", ""))
    return Lease(
        ipaddress.IPv4Interface(f"{own}/{length}"),
        tuple(routes(fields.get("staticroutes", ""), fields.get("router", ""))),
        tuple(str(each) for each in addresses(fields.get("dns", ""))),
        tuple(str(each) for each in addresses(fields.get("ntpsrv", ""))),
        int(mtu) if mtu.isascii() and mtu.isdigit() and 576 <= int(mtu[:6]) <= 65535 else None,
    )


def prefix_length(text: str) -> int:
    """Return the length of a prefix in bits; a host's own where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 and 0 < int(text) <= 32 else 32


def routes(classless: str, router: str) -> Iterator[Route]:
    """Yield the routes: the classless ones where there are any, else the first router."""
    parts = classless.split()[:64]
    for to, via in zip(parts[::2], parts[1::2], strict=False):
        try:
            network = ipaddress.IPv4Network(to, strict=False)
            gateway = ipaddress.IPv4Address(via)
        except ValueError:
            continue
        yield Route(str(network), None if gateway.is_unspecified else gateway)
    if not parts and (first := next(addresses(router), None)):
        yield Route("0.0.0.0/0", first)


def foreign(lease: Lease, interface: Interface) -> bool:
    """Whether the lease has another address than those that the settings give: it then replaces none."""
    own = [each.ip for each in interface.addresses if each.version == 4]
    return bool(own) and lease.address is not None and lease.address.ip not in own


def changing(old: Lease, new: Lease, interface: Interface, link: Link) -> list[Command]:
    """Return what brings an interface from one lease to the next."""
    found: list[Command] = []
    if interface.has(4):
        return found
    if old.address and old.address != new.address:
        found.append(address_command("delete", old.address, link.name))
    if new.address is None:
        return found
    if new.mtu and not interface.mtu and new.mtu < link.mtu:
        found.append(("link", "set", "dev", link.name, "mtu", str(new.mtu)))
    found.append(address_command("replace", new.address, link.name))
    for route in new.routes:
        metric = DHCP_METRIC + link.index
        asked = Route(route.to, route.via, metric=metric)
        found.append(route_command(asked, (new.address,), link.name))
    return found
