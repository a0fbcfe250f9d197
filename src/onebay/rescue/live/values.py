"""Values of a settings document, each checked where it is taken: what is wrong is said with its key.

A document comes from a build, a boot loader or a command line, and may be anything. Nothing of it is shown
but printable characters, and no more than a line of them.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from onebay.base.error import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
MOST_ITEMS = 64
MOST_TEXT = 4096  # characters
SHOWN = 60  # characters
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
# what the kernel takes as a name (dev_valid_name), less what a shell or a path would mind
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-)){0,16}\.?")
SSH_KINDS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
ED25519 = bytes.fromhex("302a300506032b6570032100")  # before the key's 32 bytes
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
WithPrefix = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def shown(value: object) -> str:
    """Show a value of a document in a message: as JSON, in ASCII, cut."""
    text = json.dumps(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.."


def wrong(at: str, expected: str, found: object) -> Refused:
    """Return the error for a value; `at` is its key."""
    return Refused(at, expected=expected, found=shown(found))


class Values:
    """An object of a document; `at` is its key in the whole. What is not taken is unknown: see `done`."""

    def __init__(self, value: object, at: str = "") -> None:
        if not isinstance(value, dict):
            raise wrong(at or "settings", "an object", value)
        self.rest: dict[str, object] = dict(value)
        self.at = at

    def key(self, name: str) -> str:
        """Return the whole name of a key."""
        return f"{self.at}.{name}" if self.at else name

    def take(self, name: str, read: Callable[[object, str], T]) -> T | None:
        """Return what `read` makes of a value and its key, None where it is not there or null."""
        value = self.rest.pop(name, None)
        return None if value is None else read(value, self.key(name))

    def items(self, name: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
        """Return what `read` makes of each value of a list, nothing where it is not there."""
        return self.take(name, lambda value, at: each(value, at, read)) or ()

    def inside(self, name: str) -> Values:
        """Return the object below a key, an empty one where it is not there."""
        return self.take(name, Values) or Values({}, self.key(name))

    def done(self) -> None:
        """Raise Refused where there was a key that nobody knows."""
        if self.rest:
            name = next(iter(self.rest))
            known = NAME.fullmatch(name) is not None
            raise Refused(f"{self.key(name) if known else self.key(shown(name))}: nothing knows this key")


def each(value: object, at: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    """Return what `read` makes of each value of a list."""
    if not isinstance(value, list) or len(value) > MOST_ITEMS:
        raise wrong(at, f"a list of at most {MOST_ITEMS}", value)
    return tuple(read(item, f"{at}[{number}]") for number, item in enumerate(value))


def text(value: object, at: str) -> str:
    """Return a line of printable characters."""
    if not isinstance(value, str) or not value or len(value) > MOST_TEXT or not value.isprintable():
        raise wrong(at, "a line of text", value)
    return value


def flag(value: object, at: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise wrong(at, "true or false", value)
    return value


def number(low: int, high: int) -> Callable[[object, str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(value: object, at: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(at, f"{low} to {high}", value)
        return value

    return read


def one_of(words: Sequence[str]) -> Callable[[object, str], str]:
    """Return a reader of one of some words."""

    def read(value: object, at: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise wrong(at, " or ".join(words), value)
        return value

    return read


def matching(pattern: re.Pattern[str], what: str, *, lower: bool = False) -> Callable[[object, str], str]:
    """Return a reader of texts of a form, which the message calls `what`."""

    def read(value: object, at: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value.lower() if lower else value):
            raise wrong(at, what, value)
        return value.lower() if lower else value

    return read


mac = matching(MAC, "a MAC such as 52:54:00:12:34:56", lower=True)
name = matching(NAME, "a name of an interface")
digest = matching(re.compile("sha256:[0-9a-f]{64}"), "sha256: and 64 hexadecimal digits", lower=True)


def host_name(value: object, at: str) -> str:
    """Return a name of a host."""
    if not isinstance(value, str) or len(value) > 253 or not HOST.fullmatch(value):
        raise wrong(at, "a host name", value)
    return value


def card(value: object, at: str) -> str:
    """Return a MAC or a name of an interface."""
    return mac(value, at) if isinstance(value, str) and ":" in value else name(value, at)


def address(value: object, at: str) -> Address:
    """Return the address of one host."""
    try:
        found = ipaddress.ip_address(value) if isinstance(value, str) and "%" not in value else None
    except ValueError:
        found = None
    if found is None or found.is_multicast or found.is_unspecified or found.is_loopback:
        raise wrong(at, "an address", value)
    return found


def with_prefix(value: object, at: str) -> WithPrefix:
    """Return an address with the length of its network's prefix."""
    plain, _, length = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not length.isascii() or not length.isdigit():
        raise wrong(at, "an address with its prefix, as 192.0.2.5/24", value)
    found = address(plain, at)
    if int(length[:4]) > found.max_prefixlen:
        raise wrong(at, f"a prefix of at most {found.max_prefixlen}", value)
    return ipaddress.ip_interface(f"{found}/{int(length)}")


def network(value: object, at: str) -> str:
    """Return "default" or a network, as ip-route writes it."""
    if value == "default":
        return "default"
    try:
        if isinstance(value, str) and "%" not in value:
            return str(ipaddress.ip_network(value))
    except ValueError:
        pass
    raise wrong(at, "default or a network, as 192.0.2.0/24", value)


def host(value: object, at: str) -> str:
    """Return a name of a host or its address."""
    try:
        return str(address(value, at))
    except Refused:
        return host_name(value, at)


def url(schemes: Sequence[str]) -> Callable[[object, str], str]:
    """Return a reader of URLs with a host."""

    def read(value: object, at: str) -> str:
        whole = text(value, at)
        try:
            parts = urlsplit(whole)
            good = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good or " " in whole:
            # it may hold a password: not shown
            raise Refused(at, expected=f"a URL of {' or '.join(schemes)}", found="another")
        return whole

    return read


def public_key(value: object, at: str) -> str:
    """Return an ed25519 public key as a PEM file has it between its lines (RFC 8410, 4); padding may lack."""
    plain = text(value, at).rstrip("=")
    try:
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != len(ED25519) + 32 or not raw.startswith(ED25519):
        raise wrong(at, "the middle line of an ed25519 public key in PEM", value)
    return base64.b64encode(raw).decode()


def ssh_key(value: object, at: str) -> str:
    """Return a public key of SSH as one line, without options; the blob names its kind (RFC 4253, 6.6)."""
    line = text(value, at).strip()
    kind, _, rest = line.partition(" ")
    try:
        blob = base64.b64decode(rest.split(" ")[0], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if kind not in SSH_KINDS or not blob.startswith(len(kind).to_bytes(4) + kind.encode()) or len(blob) < 40:
        raise wrong(at, "a public key, as ssh-ed25519 AAAA.. name", value)
    return line
