"""The settings of a rescue system: one JSON document, merged of three (docs/format/settings.md).

A layer that has a mistake is left out whole, and so is the job, whatever layer it comes from: what writes to
a disk must not follow half of what was meant. What is left still brings the machine onto the network.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onebay.base.error import Refused
from onebay.rescue.live import values
from onebay.rescue.live.values import Values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.rescue.live.values import Address, WithPrefix

VERSION = 1
MOST = 256 << 10  # bytes of a document
SCHEMES = ("http", "https")
MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
HOST_KEYS = ("ed25519", "ecdsa", "rsa")
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """A route: `to` "default" or a network; without `via` what it leads to is on the link."""

    to: str
    via: Address | None = None
    onlink: bool = False
    metric: int | None = None


@dataclass(frozen=True, slots=True)
class Vlan:
    """A VLAN: its number, and the MAC or name of what it is on."""

    id: int
    parent: str


@dataclass(frozen=True, slots=True)
class Bond:
    """A bond: its mode in the kernel's words, and MACs or names of its members."""

    mode: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface; with neither `mac` nor `name` the first card with a carrier.

    `dhcp` and `ra` that are not set are on for a family without an address here.
    """

    mac: str | None = None
    name: str | None = None
    addresses: tuple[WithPrefix, ...] = ()
    routes: tuple[Route, ...] = ()
    mtu: int | None = None
    dhcp: bool | None = None
    ra: bool | None = None
    vlan: Vlan | None = None
    bond: Bond | None = None

    @property
    def nameless(self) -> bool:
        """Whether it is whatever card has a carrier first."""
        return not (self.mac or self.name or self.vlan or self.bond)

    @property
    def label(self) -> str:
        """What it is called in messages, and as a device where we make it."""
        if self.name:
            return self.name
        if self.vlan:
            return f"vlan{self.vlan.id}"
        return "bond0" if self.bond else self.mac or "the first card"

    def has(self, version: int) -> bool:
        """Whether it has an address of IPv4 or IPv6 here."""
        return any(each.version == version for each in self.addresses)

    @property
    def wants_dhcp(self) -> bool:
        """Whether DHCP is asked."""
        return not self.has(4) if self.dhcp is None else self.dhcp

    @property
    def wants_ra(self) -> bool:
        """Whether router advertisements are followed."""
        return not self.has(6) if self.ra is None else self.ra


@dataclass(frozen=True, slots=True)
class Ssh:
    """Who may log in, and the keys of the host as OpenSSH writes them, by kind."""

    authorized_keys: tuple[str, ...] = ()
    host_keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    port: int = 22


@dataclass(frozen=True, slots=True)
class Web:
    """Whether there is a web page, and its port."""

    enabled: bool = True
    port: int = 443


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done with nobody there; `before_write` is what follows a failure before any write,
    `again` is "yes" where a disk that holds the image already is restored anew.

    The image has the root `digest`, or a signature by the owner of `public_key`, the base64 of a PEM file.
    """

    restore: str
    target: str
    digest: str | None = None
    public_key: str | None = None
    then: str = "stay"
    webhook: str | None = None
    before_write: str = "stay"
    again: str = "no"


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    hostname: str | None = None
    interfaces: tuple[Interface, ...] = ()
    dns: tuple[Address, ...] = ()
    ssh: Ssh = field(default_factory=Ssh)
    web: Web = field(default_factory=Web)
    time_servers: tuple[str, ...] = ()
    job: Job | None = None


def no_twice(pairs: Sequence[tuple[str, Any]]) -> Document:
    """Return an object of JSON; a key that is there twice means two things."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Refused("a key is there twice")
    return document


def parse_document(raw: bytes) -> Document:
    """Return the document of a layer, its values checked one by one; raises Refused, naming the key."""
    if len(raw) > MOST:
        raise Refused("is too long", expected=f"at most {MOST} bytes", found=len(raw))
    try:
        document = json.loads(raw, object_pairs_hook=no_twice)
    except (ValueError, RecursionError) as error:
        at = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise Refused(f"is no JSON{at}") from error
    parse(document, whole=False)
    assert isinstance(document, dict)
    return document


def parse(document: object, *, whole: bool = True) -> Settings:
    """Return the settings of a document; raises Refused, naming the key.

    What only holds for all of it together is looked at where it is `whole`.
    """
    top = Values(document)
    version = top.take("version", values.number(1, 1 << 31))
    if version not in (None, VERSION):
        raise Refused("version", expected=VERSION, found=version)
    net = top.inside("network")
    time = top.inside("time")
    made = Settings(
        hostname=top.take("hostname", values.host_name),
        interfaces=net.items("interfaces", parse_interface),
        dns=net.items("dns", values.address),
        ssh=top.take("ssh", parse_ssh) or Ssh(),
        web=top.take("web", parse_web) or Web(),
        time_servers=time.items("servers", values.host),
        job=parse_job(top.inside("job"), whole=whole) if top.rest.get("job") is not None else None,
    )
    for part in (net, time, top):
        part.done()
    check_together(made.interfaces)
    return made


def parse_interface(value: object, at: str) -> Interface:
    """Return an interface."""
    found = Values(value, at)
    made = Interface(
        mac=found.take("mac", values.mac),
        name=found.take("name", values.name),
        addresses=found.items("addresses", values.with_prefix),
        routes=found.items("routes", parse_route),
        mtu=found.take("mtu", values.number(576, 65535)),
        dhcp=found.take("dhcp", values.flag),
        ra=found.take("ra", values.flag),
        vlan=found.take("vlan", parse_vlan),
        bond=found.take("bond", parse_bond),
    )
    found.done()
    if made.vlan and made.bond:
        raise Refused(f"{at}: is a VLAN and a bond")
    if made.vlan and made.vlan.parent == made.label:
        raise Refused(f"{at}.vlan.parent: is the VLAN itself")
    return made


def parse_route(value: object, at: str) -> Route:
    """Return a route; "default" is of the family of its gateway, which it therefore needs."""
    found = Values(value, at)
    made = Route(
        to=found.take("to", values.network) or "default",
        via=found.take("via", values.address),
        onlink=found.take("onlink", values.flag) or False,
        metric=found.take("metric", values.number(0, (1 << 32) - 1)),
    )
    found.done()
    if made.via is None and made.to == "default":
        raise Refused(f"{at}.via: is missing")
    if made.via is not None and ":" in made.to and made.via.version == 4:
        raise wrong_family(at, made)
    return made


def wrong_family(at: str, route: Route) -> Refused:
    """Return the error for a route of IPv6 by a gateway of IPv4."""
    return Refused(f"{at}.via", expected="an IPv6 address", found=str(route.via))


def parse_vlan(value: object, at: str) -> Vlan:
    """Return a VLAN's number and parent."""
    found = Values(value, at)
    number, parent = found.take("id", values.number(1, 4094)), found.take("parent", values.card)
    found.done()
    if number is None or parent is None:
        raise Refused(f"{at}.{'id' if number is None else 'parent'}: is missing")
    return Vlan(number, parent)


def parse_bond(value: object, at: str) -> Bond:
    """Return a bond's mode and members."""
    found = Values(value, at)
    mode = found.take("mode", values.one_of(MODES)) or "active-backup"
    members = found.items("members", values.card)
    found.done()
    if not members:
        raise Refused(f"{at}.members: is missing")
    return Bond(mode, members)


def parse_ssh(value: object, at: str) -> Ssh:
    """Return what SSH is to know."""
    found = Values(value, at)
    kept = found.inside("host_keys")
    keys = [(kind, kept.take(kind, private_key)) for kind in HOST_KEYS]
    made = Ssh(
        authorized_keys=found.items("authorized_keys", values.ssh_key),
        host_keys=tuple((kind, key) for kind, key in keys if key is not None),
        port=found.take("port", values.number(1, 65535)) or 22,
    )
    kept.done()
    found.done()
    return made


def private_key(value: object, at: str) -> str:
    """Return a private key as OpenSSH writes it, with or without its first and last line; never shown."""
    first, last = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
    body = value.replace(first, "").replace(last, "").split() if isinstance(value, str) else []
    raw = "".join(body)
    # openssh PROTOCOL.key: "openssh-key-v1" and a zero byte
    if len(raw) > 8192 or not raw.startswith("b3BlbnNzaC1rZXktdjEA") or not raw.isascii():
        raise Refused(at, expected="a private key as OpenSSH writes it", found="another")
    lines = [raw[start : start + 70] for start in range(0, len(raw), 70)]
    return "\n".join([first, *lines, last, ""])


def parse_web(value: object, at: str) -> Web:
    """Return what the web page is to know."""
    found = Values(value, at)
    enabled = found.take("enabled", values.flag)
    port = found.take("port", values.number(1, 65535))
    found.done()
    return Web(enabled is not False, port or 443)


def parse_job(found: Values, *, whole: bool) -> Job:
    """Return the job; a whole one says what is written where."""
    made = Job(
        restore=found.take("restore", values.url(SCHEMES)) or "",
        target=found.take("target", parse_target) or "",
        digest=found.take("digest", values.digest),
        public_key=found.take("public_key", values.public_key),
        then=found.take("then", values.one_of(("reboot", "poweroff", "stay"))) or "stay",
        webhook=found.take("webhook", values.url(SCHEMES)),
        before_write=found.take("before_write", values.one_of(("reboot", "stay"))) or "stay",
        again=found.take("again", values.one_of(("yes", "no"))) or "no",
    )
    found.done()
    if whole and not (made.restore and made.target):
        raise Refused(f"job.{'target' if made.restore else 'restore'}: is missing")
    return made


def parse_target(value: object, at: str) -> str:
    """Return which disk is meant, in the job's words."""
    target = values.text(value, at)
    if target != "only" and not (target.startswith(("serial:", "size:")) and target.partition(":")[2]):
        raise values.wrong(at, "serial:.. or size:.. or only", target)
    return target


def check_together(interfaces: Sequence[Interface]) -> None:
    """Raise Refused where two interfaces are the same, or two bonds want one card."""
    taken: set[str] = set()
    for number, interface in enumerate(interfaces):
        at = f"network.interfaces[{number}]"
        made = interface.vlan or interface.bond
        names = {interface.label} if made or not interface.mac else {interface.mac, interface.name or ""}
        names |= set(interface.bond.members) if interface.bond else set()
        if both := sorted((names - {""}) & taken):
            raise Refused(f"{at}: is there twice: {both[0]}")
        taken |= names
