"""The layers of the settings, from the build to the kernel's command line, and what they are together."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onebay.base.error import Refused
from onebay.rescue.live import values
from onebay.rescue.live.settings import MOST, Document, Settings, parse, parse_document

if TYPE_CHECKING:
    from pathlib import Path

BUILT_IN, ARCHIVE, COMMAND_LINE = "built-in settings", "configuration archive", "kernel command line"
PREFIX = "onebay."
MOST_LINE = 2047  # characters that x86 kernels keep (COMMAND_LINE_SIZE, arch/x86/include/asm/setup.h)
JOB = ("restore", "target", "digest", "public_key", "then", "webhook", "before_write", "again")


@dataclass(frozen=True, slots=True)
class Merged:
    """The settings, the document that they are of, and what was wrong with layers that were left out."""

    settings: Settings
    document: Document
    mistakes: tuple[str, ...]


def read_layers(built_in: Path, archive: Path, command_line: Path) -> Merged:
    """Return the settings of a running system; a file that is not there is an empty layer."""
    layers: list[Document] = []
    mistakes: list[str] = []
    for name, path in ((BUILT_IN, built_in), (ARCHIVE, archive), (COMMAND_LINE, command_line)):
        try:
            raw = content(path)
            if name == COMMAND_LINE:
                layers.append(parse_command_line(raw.decode("utf-8", "replace")))
            elif raw:
                layers.append(parse_document(raw))
        except Refused as error:
            mistakes.append(f"{name}: {error}; none of it is used")
    return merged(layers, mistakes)


def content(path: Path) -> bytes:
    """Return what a file holds, one byte more than it may at most; nothing where it is not there."""
    try:
        with path.open("rb") as file:
            return file.read(MOST + 1)
    except OSError:
        return b""


def merged(layers: list[Document], mistakes: list[str]) -> Merged:
    """Merge layers, later ones win; with any mistake there is no job."""
    document: Document = {"version": 1}
    for layer in layers:
        document = merge(document, layer)
    mistakes = list(mistakes)
    try:
        parse(document)
    except Refused as error:
        mistakes.append(f"settings together: {error}")
    if mistakes and document.pop("job", None) is not None:
        mistakes.append("the job is not done, for a mistake in the settings")
    try:
        return Merged(parse(document), document, tuple(mistakes))
    except Refused:  # it was not the job
        return Merged(Settings(), {"version": 1}, tuple(mistakes))


def merge(below: Document, above: Document) -> Document:
    """Return two documents as one: objects key by key, keys of SSH added up, else the one above."""
    made = dict(below)
    for key, value in above.items():
        there: Any = made.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            made[key] = merge(there, value)
        elif key == "authorized_keys" and isinstance(there, list) and isinstance(value, list):
            made[key] = [*there, *(each for each in value if each not in there)]
        else:
            made[key] = value
    return made


def words(line: str) -> list[str]:
    """Split a command line as the kernel does: at spaces outside of quotes (lib/cmdline.c, next_arg)."""
    found, word, quoted = [], "", False
    for char in line:
        if char == '"':
            quoted = not quoted
        elif char.isspace() and not quoted:
            found.append(word)
            word = ""
        else:
            word += char
    return [word for word in [*found, word] if word]


def parse_command_line(line: str) -> Document:
    """Return what a kernel command line sets; raises Refused, naming the word."""
    document: Document = {}
    for word in words(line):
        if not word.startswith(PREFIX):
            continue
        key, _, value = word.removeprefix(PREFIX).partition("=")
        if key in JOB:
            job = document.setdefault("job", {})
            if key in job:
                raise Refused(f"{PREFIX}{key} is there twice")
            job[key] = value
        elif key in WORDS:
            WORDS[key](document, value, f"{PREFIX}{key}")
        else:
            raise Refused(f"{values.shown(PREFIX + key)}: nothing knows this word")
    if len(line.rstrip("\n").encode()) >= MOST_LINE and "job" in document:
        raise Refused("it is as long as can be, and may be cut: give the job by a configuration archive")
    parse(document, whole=False)
    return document


def set_hostname(document: Document, value: str, at: str) -> None:
    document["hostname"] = values.host_name(value, at)


def set_dns(document: Document, value: str, at: str) -> None:
    for each in value.split(","):
        document.setdefault("network", {}).setdefault("dns", []).append(str(values.address(each, at)))


def set_ntp(document: Document, value: str, at: str) -> None:
    for each in value.split(","):
        document.setdefault("time", {}).setdefault("servers", []).append(values.host(each, at))


def set_web(document: Document, value: str, at: str) -> None:
    web = document.setdefault("web", {})
    if value.isascii() and value.isdigit():
        web["port"] = values.number(1, 65535)(int(value[:6]), at)
    else:
        web["enabled"] = values.one_of(("on", "off"))(value, at) == "on"


def set_ssh(document: Document, value: str, at: str) -> None:
    """Add a key, as a quoted line or as base64url of it, which no boot loader takes apart."""
    if " " not in value:
        try:
            raw = base64.b64decode(
                value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), b"-_", validate=True
            )
            value = raw.decode("ascii").strip()
        except (binascii.Error, ValueError) as error:
            raise values.wrong(at, "a public key, or base64url of one", value) from error
    key = values.ssh_key(value, at)
    document.setdefault("ssh", {}).setdefault("authorized_keys", []).append(key)


def set_ip(document: Document, value: str, at: str) -> None:
    """Add ADDRESS/PREFIX[,GATEWAY[,MAC or NAME]]; a gateway that is off the network is on the link."""
    parts = value.split(",")
    if len(parts) > 3:
        raise values.wrong(at, "ADDRESS/PREFIX,GATEWAY,MAC", value)
    own = values.with_prefix(parts[0], at)
    card = values.card(parts[2], at) if len(parts) == 3 and parts[2] else None
    which = {"mac" if ":" in card else "name": card} if card else {}
    interfaces = document.setdefault("network", {}).setdefault("interfaces", [])
    there = next((each for each in interfaces if all(each.get(k) == v for k, v in which.items())), None)
    if there is None or (not which and ("mac" in there or "name" in there)):
        there = dict(which)
        interfaces.append(there)
    there.setdefault("addresses", []).append(str(own))
    if len(parts) > 1 and parts[1]:
        via = values.address(parts[1], at)
        to = "0.0.0.0/0" if own.version == 4 and via.version == 6 else "default"
        there.setdefault("routes", []).append({"to": to, "via": str(via)})


WORDS = {
    "hostname": set_hostname,
    "ip": set_ip,
    "dns": set_dns,
    "ssh": set_ssh,
    "web": set_web,
    "ntp": set_ntp,
}
