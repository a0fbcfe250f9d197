"""The network of the rescue system: what the settings say first, then DHCP and router advertisements.

Without settings every card with a carrier asks DHCP and follows router advertisements, and so does a card
that settings do not name. It goes on looking: a card or a carrier may come late.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Error
from onebay.block.pci import without_driver
from onebay.rescue.live import lease as leases
from onebay.rescue.live.child import alive
from onebay.rescue.live.lease import Lease, parse_lease
from onebay.rescue.live.links import Link, find, read_links
from onebay.rescue.live.plan import bringing_up, device_of, joining, making, parts_of
from onebay.rescue.live.settings import Interface

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from subprocess import Popen

    from onebay.block.pci import Device
    from onebay.rescue.live.plan import Command
    from onebay.rescue.live.settings import Settings

NETWORK_CLASS = 0x02  # of PCI
PATIENCE = 10.0  # seconds until what is not there is missed
MOST_SERVERS = 3  # resolv.conf(5): MAXNS


class Network:
    """The network as it was brought up; `folder` is ours, for what udhcpc and rdnssd write.

    `conf` is the kernel's net/ipv6/conf, `resolv` the file of name servers, `script` is udhcpc's.
    """

    def __init__(self, settings: Settings, *, folder: Path, conf: Path, resolv: Path, script: Path) -> None:
        self.settings = settings
        self.folder, self.conf, self.resolv, self.script = folder, conf, resolv, script
        self.links: tuple[Link, ...] = ()
        self.driverless: list[Device] = []
        self.set_up: dict[str, Interface] = {}  # by name of the device
        self.asking: dict[str, Popen[bytes]] = {}
        self.leases: dict[str, Lease] = {}
        self.failures: dict[str, str] = {}
        self.began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.rdnssd = self.follow_name_servers()

    @property
    def addresses(self) -> list[str]:
        """The addresses that others can reach."""
        return [str(each.ip) for link in self.links for each in link.addresses]

    @property
    def time_servers(self) -> list[str]:
        """The time servers that DHCP named."""
        return [each for lease in self.leases.values() for each in lease.ntp]

    def follow_name_servers(self) -> Popen[bytes] | None:
        """Start what writes down name servers of router advertisements (RFC 8106), before the first comes."""
        number = self.folder / "rdnssd.pid"
        if alive(number):
            return None
        try:
            argv: list[str | Path] = ["rdnssd", "-f", "-u", "root", "-H", "/bin/true", "-p", number]
            argv += ["-r", self.folder / "rdnss"]
            return tool.spawn(argv, log=self.folder / "rdnssd.log")
        except (Error, OSError) as error:
            self.failures["rdnssd"] = f"no name servers of router advertisements: {error}"
            return None

    def stamp(self) -> tuple[int, ...]:
        """Return what changes when udhcpc or rdnssd wrote something."""
        return tuple(sorted(path.stat().st_mtime_ns for path in self.folder.glob("*[s]*")))

    def step(self) -> None:
        """Look at what is there and bring up what is not yet; raises ToolFailed, Inconsistent, OSError."""
        self.links = read_links()
        self.driverless = without_driver(NETWORK_CLASS)
        self.forget()
        parts = {part for each in self.settings.interfaces for part in parts_of(each)}
        named = [each for each in self.settings.interfaces if not each.nameless]
        for interface in named:
            self.make(interface)
            if link := device_of(interface, self.links):
                self.bring_up(interface, link)
        free = [
            link
            for link in self.links
            if link.card and link.name not in self.set_up and not parts & {link.name, link.mac}
        ]
        for link in self.links:
            if parts & {link.name, link.mac} and link.name not in self.set_up:
                self.follow_ra(link.name, wanted=False)
        self.bring_up_others(free)
        for name, interface in self.set_up.items():
            if found := find(name, self.links):
                self.follow_dhcp(interface, found)
        self.write_resolv()

    def forget(self) -> None:
        """Forget cards that were taken out: what comes in their place is brought up anew."""
        there = {link.name for link in self.links}
        for name in [name for name in self.set_up if name not in there]:
            del self.set_up[name]
            self.leases.pop(name, None)
            if child := self.asking.pop(name, None):
                child.terminate()
                child.wait()
            (self.folder / f"{name}.lease").unlink(missing_ok=True)

    def make(self, interface: Interface) -> None:
        """Make a VLAN or a bond that is not there; add members that came late."""
        if not (interface.vlan or interface.bond):
            return
        if find(interface.label, self.links) is None:
            for command in making(interface, self.links):
                self.ip(command)
        elif interface.bond:
            members = [find(each, self.links) for each in interface.bond.members]
            late = [each for each in members if each and each.master != interface.label]
            for command in joining(interface, late):
                self.ip(command)

    def bring_up_others(self, free: list[Link]) -> None:
        """Bring up cards that no settings name; settings without a name mean the first with a carrier."""
        used = self.set_up.values()
        for interface in self.settings.interfaces:
            if interface.nameless and interface not in used:
                link = next((each for each in free if each.carrier), None)
                if link is not None:
                    free.remove(link)
                    self.bring_up(interface, link)
                elif time.monotonic() - self.began < PATIENCE:
                    for each in free:
                        self.follow_ra(each.name, wanted=False)
                        self.ip(("link", "set", "dev", each.name, "up"))
                    return
        for link in free:
            self.bring_up(Interface(), link)

    def bring_up(self, interface: Interface, link: Link) -> None:
        """Give an interface its addresses and routes, once."""
        if link.name in self.set_up:
            return
        self.set_up[link.name] = interface
        self.follow_ra(link.name, wanted=interface.wants_ra)
        for command in bringing_up(interface, link.name):
            self.ip(command)
        if link.up and interface.wants_ra:  # the kernel asked already, and did not listen
            with contextlib.suppress(Error, OSError):
                tool.spawn(["rdisc6", "-1", "-q", link.name])

    def follow_ra(self, device: str, *, wanted: bool) -> None:
        """Tell the kernel whether to follow router advertisements (networking/ip-sysctl.rst)."""
        for key in ("accept_ra", "autoconf"):
            with contextlib.suppress(OSError):  # a kernel without IPv6
                (self.conf / device / key).write_text("1\n" if wanted else "0\n")

    def ip(self, command: Command) -> None:
        """Run one command of ip; a failure becomes a note."""
        try:
            tool.run(["ip", *command], timeout=30)
            self.failures.pop(" ".join(command), None)
        except Error as error:
            said = str(error).partition("status ")[2].partition(": ")[2].partition(": found")[0]
            self.failures[" ".join(command)] = f"ip {' '.join(command)}: {said or error}"

    def follow_dhcp(self, interface: Interface, link: Link) -> None:
        """Ask DHCP where it is wanted and there is a carrier; take up what it gave."""
        if not interface.wants_dhcp or link.master:
            return
        child = self.asking.get(link.name)
        over = child is None or child.poll() is not None
        if link.carrier and over and not alive(self.folder / f"{link.name}.pid"):
            self.asking[link.name] = self.ask(interface, link.name)
        try:
            text = (self.folder / f"{link.name}.lease").read_text("utf-8", "replace")
        except OSError:
            return
        new, old = parse_lease(text), self.leases.get(link.name, Lease())
        if new != old:
            for command in leases.changing(old, new, interface, link):
                self.ip(command)
            self.leases[link.name] = new

    def ask(self, interface: Interface, device: str) -> Popen[bytes]:
        """Start the DHCP client; an address that the settings give is what it asks for."""
        argv: list[str | Path] = [
            "udhcpc",
            "-f",
            "-i",
            device,
            "-s",
            self.script,
            "-p",
            self.folder / f"{device}.pid",
        ]
        argv += ["-t", "5", "-T", "2", "-A", "5", "-O", "mtu", "-O", "ntpsrv", "-O", "staticroutes"]
        old = next((str(each.ip) for each in interface.addresses if each.version == 4), None)
        argv += ["-r", old] if old else []
        argv += ["-x", f"hostname:{self.settings.hostname}"] if self.settings.hostname else []
        return tool.spawn(argv, env={"FOLDER": str(self.folder)})

    def write_resolv(self) -> None:
        """Write the name servers: of the settings, of DHCP, of router advertisements."""
        found = [str(each) for each in self.settings.dns]
        found += [each for lease in self.leases.values() for each in lease.dns]
        with contextlib.suppress(OSError):
            found += advertised((self.folder / "rdnss").read_text("utf-8", "replace"))
        lines = [f"nameserver {each}\n" for each in list(dict.fromkeys(found))[:MOST_SERVERS]]
        text = "".join([*lines, "options timeout:2 attempts:2\n"])
        with contextlib.suppress(OSError):
            if self.resolv.read_text() == text:
                return
        self.resolv.write_text(text)

    def notes(self) -> list[str]:
        """Return what a user must know of the network."""
        found = [
            f"network card {card.id} ({card.slot}): no driver for it"
            for card in without_driver(NETWORK_CLASS)
        ]
        if time.monotonic() - self.began > PATIENCE:
            found += self.missing()
        for name, lease in self.leases.items():
            if lease.failed:
                found.append(f"{name}: nobody answers DHCP")
            elif lease.address and leases.foreign(lease, self.set_up[name]):
                found.append(f"{name}: DHCP gives {lease.address}, which is not set and not used")
        for link in self.links:
            found += [f"{link.name}: another machine has {each.ip} too" for each in link.doubled]
        return found + list(self.failures.values())

    def missing(self) -> list[str]:
        """Return what is not there that should be."""
        cards = [link for link in self.links if not link.kind]
        names = ", ".join(f"{link.name} {link.mac}" for link in cards) or "none"
        found = [] if cards else ["no network card is there"]
        used = self.set_up.values()
        lost = [each for each in self.settings.interfaces if each not in used]
        found += [f"network {each.label}: is not there; cards: {names}" for each in lost]
        return found + [f"{link.name} ({link.mac}): no carrier" for link in cards if not link.carrier]

    def document(self, more: Sequence[str]) -> dict[str, object]:
        """Return what network.json is to say; `more` are notes of others."""
        interfaces = [
            {
                "name": link.name,
                "mac": link.mac,
                "carrier": link.carrier,
                "addresses": [str(each) for each in link.addresses],
            }
            for link in self.links
        ]
        notes = [*self.notes(), *more]
        return {"addresses": self.addresses, "notes": notes, "interfaces": interfaces}


def advertised(text: str) -> list[str]:
    """Return the name servers that rdnssd wrote down, which may be link-local ones with their interface."""
    found = []
    for line in text.splitlines():
        word, _, server = line.partition(" ")
        with contextlib.suppress(ValueError):
            if word == "nameserver" and ipaddress.ip_address(server.strip()):
                found.append(server.strip())
    return found
