"""What the kernel says of network interfaces, through iproute2's JSON."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onebay.base import tool
from onebay.base.error import Inconsistent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onebay.rescue.live.values import WithPrefix

MADE = ("bond", "vlan")  # what we make ourselves; nobody else makes any here


@dataclass(frozen=True, slots=True)
class Link:
    """One interface; `mac` is the one it came with, `kind` is empty for a card."""

    index: int
    name: str
    mac: str = ""
    kind: str = ""
    carrier: bool = False
    up: bool = False
    master: str = ""
    mtu: int = 1500
    addresses: tuple[WithPrefix, ...] = ()
    doubled: tuple[WithPrefix, ...] = ()

    @property
    def card(self) -> bool:
        """Whether it is a card that is nobody's member."""
        return not self.kind and not self.master


def read_links() -> tuple[Link, ...]:
    """Return the interfaces of this machine but the loopback; raises ToolFailed, Inconsistent."""
    return parse_links(tool.run(["ip", "-details", "-json", "address", "show"], timeout=30).text)


def parse_links(text: str) -> tuple[Link, ...]:
    """Return the interfaces that ip-address names; raises Inconsistent where that is not its JSON."""
    try:
        return tuple(link_of(each) for each in json.loads(text or "[]") if each.get("link_type") == "ether")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Inconsistent("what ip says of the interfaces is not understood") from error


def link_of(each: dict[str, Any]) -> Link:
    """Return one interface."""
    flags = each.get("flags", ())
    kind = each.get("linkinfo", {}).get("info_kind", "")
    return Link(
        index=each["ifindex"],
        name=each["ifname"],
        mac=each.get("permaddr") or each.get("address", ""),
        kind=kind if kind in MADE else "",
        carrier="LOWER_UP" in flags,
        up="UP" in flags,
        master=each.get("master", ""),
        mtu=each["mtu"],
        addresses=tuple(address for address, state in global_addresses(each) if state == "good"),
        doubled=tuple(address for address, state in global_addresses(each) if state == "doubled"),
    )


def global_addresses(each: dict[str, Any]) -> Iterator[tuple[WithPrefix, str]]:
    """Yield the addresses that others can reach, each "good", "doubled" or "waiting" (RFC 4862, 5.4)."""
    for found in each.get("addr_info", ()):
        if found.get("scope") in ("global", "site") and "local" in found:
            state = "waiting" if found.get("tentative") or found.get("deprecated") else "good"
            state = "doubled" if found.get("dadfailed") else state
            yield ipaddress.ip_interface(f"{found['local']}/{found['prefixlen']}"), state


def find(card: str, links: Sequence[Link]) -> Link | None:
    """Return the interface with a MAC or a name; of several with one MAC the card that has no master."""
    found = [link for link in links if card in (link.name, link.mac) and (":" not in card or not link.kind)]
    return min(found, key=lambda link: (bool(link.master), link.index), default=None)
