"""Which commands of ip-link, ip-address and ip-route bring an interface to what the settings say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.rescue.live.links import find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.rescue.live.links import Link
    from onebay.rescue.live.settings import Interface, Route
    from onebay.rescue.live.values import Address, WithPrefix

Command = tuple[str, ...]
STATIC_METRIC, DHCP_METRIC = 100, 200  # the kernel gives routes of router advertisements 1024


def device_of(interface: Interface, links: Sequence[Link]) -> Link | None:
    """Return the interface that is there for one of the settings, None where there is none yet."""
    if interface.vlan or interface.bond:
        return next((link for link in links if link.name == interface.label and link.kind), None)
    found = (find(key, links) for key in (interface.mac, interface.name) if key)
    return next((link for link in found if link is not None), None)


def parts_of(interface: Interface) -> tuple[str, ...]:
    """Return MACs and names of what it is made of."""
    if interface.vlan:
        return (interface.vlan.parent,)
    return interface.bond.members if interface.bond else ()


def making(interface: Interface, links: Sequence[Link]) -> list[Command]:
    """Return what makes a VLAN or a bond; nothing while a part of it is not there."""
    parts = [find(part, links) for part in parts_of(interface)]
    there = [part for part in parts if part is not None]
    if not there or (interface.vlan and len(there) < len(parts)):
        return []
    address = ("address", interface.mac) if interface.mac else ()
    if interface.vlan:
        number = str(interface.vlan.id)
        parent = there[0].name
        return [
            ("link", "set", "dev", parent, "up"),
            ("link", "add", "link", parent, "name", interface.label, *address, "type", "vlan", "id", number),
        ]
    assert interface.bond is not None
    # miimon: without it a bond never leaves a member that has lost its carrier (networking/bonding.rst)
    kind = ("type", "bond", "mode", interface.bond.mode, "miimon", "100")
    return [("link", "add", "name", interface.label, *address, *kind), *joining(interface, there)]


def joining(interface: Interface, members: Sequence[Link]) -> list[Command]:
    """Return what makes cards members of a bond that is there."""
    found: list[Command] = []
    for member in members:
        if member.master != interface.label:
            found.append(("link", "set", "dev", member.name, "down"))
            found.append(("link", "set", "dev", member.name, "master", interface.label))
        found.append(("link", "set", "dev", member.name, "up"))
    return found


def bringing_up(interface: Interface, device: str) -> list[Command]:
    """Return what gives an interface its addresses and routes."""
    found: list[Command] = []
    if interface.mtu:
        found.append(("link", "set", "dev", device, "mtu", str(interface.mtu)))
    found.append(("link", "set", "dev", device, "up"))
    found += [address_command("replace", each, device) for each in interface.addresses]
    found += [route_command(each, interface.addresses, device) for each in interface.routes]
    return found


def address_command(verb: str, address: WithPrefix, device: str) -> Command:
    """Return what adds or removes an address."""
    broadcast = address.version == 4 and address.network.prefixlen < 31 and verb != "delete"
    return ("address", verb, str(address), "dev", device, *(("broadcast", "+") if broadcast else ()))


def route_command(route: Route, own: Sequence[WithPrefix], device: str) -> Command:
    """Return what adds a route; a gateway outside of the interface's networks is on the link."""
    via = route.via
    version = via.version if via and route.to == "default" else 6 if ":" in route.to else 4
    found: Command = (f"-{version}", "route", "replace", route.to)
    if via:
        found += ("via", "inet6", str(via)) if via.version > version else ("via", str(via))
    found += ("dev", device)
    if via and (route.onlink or off_link(via, own)):
        found += ("onlink",)
    return (*found, "metric", str(STATIC_METRIC if route.metric is None else route.metric))


def off_link(via: Address, own: Sequence[WithPrefix]) -> bool:
    """Whether a gateway is in no network of the interface; a link-local one always is on the link."""
    return not via.is_link_local and not any(via in each.network for each in own)
