"""The document of a package for programs, and the same for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from onebay import __version__
from onebay.base.units import human
from onebay.ops.inspect import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.ops.payload import Payload

MARKS = {"holds": "checked", "fails": "BAD", "unknown": "not judged"}
COLOURS = {"holds": "green", "fails": "red", "unknown": "yellow"}
MAX_KEPT = 16  # checks that could not be judged are named up to this number


def document(payload: Payload) -> dict[str, Any]:
    """Return a package as a JSON object (docs/inspect.md)."""
    head = {"onebay": __version__, "format": FORMAT, "kind": "payload"}
    return {**head, **asdict(payload), "sound": not payload.bad}


def text(payload: Payload) -> Iterator[str]:
    """Yield a package for a terminal, line by line."""
    kind = "encrypted" if payload.encrypted else {"none": "a plain tar"}.get(payload.packing, payload.packing)
    size = f"{human(payload.size)} ({payload.size} bytes)"
    yield click.style(f"{payload.name}  {size}, a system package, {kind}", bold=True)
    if payload.encrypted:
        yield f"{payload.entries} members; model, version, names and content are not readable without a key"
    else:
        update = f", update {payload.update}" if payload.update not in ("", "0") else ""
        yield f"model    {payload.model or 'not said'}"
        yield f"version  {payload.version or 'not said'}, build {payload.build or 'not said'}{update}"
        yield from members(payload)
    yield from sums(payload)


def members(payload: Payload) -> Iterator[str]:
    """Yield a line for each member."""
    wide = max((len(human(file.size)) for file in payload.files), default=0)
    for file in payload.files:
        size = human(file.size) if file.kind == "file" else file.kind
        mark = f"  {click.style(MARKS[file.verdict], fg=COLOURS[file.verdict])}" if file.verdict else ""
        yield f"  {size:>{max(wide, 6)}}  {file.name}{mark}"


def sums(payload: Payload) -> Iterator[str]:
    """Yield how many checksums of each source hold, and every one that does not."""
    if not payload.checks:
        yield "no checksums are given"
    for source in dict.fromkeys(check.source for check in payload.checks):
        own = [check for check in payload.checks if check.source == source]
        good = sum(check.verdict == "holds" for check in own)
        yield click.style(f"{source}: {good} of {len(own)} hold", fg="green" if good == len(own) else None)
    unknown = [check for check in payload.checks if check.verdict == "unknown"]
    for check in unknown[:MAX_KEPT]:
        yield click.style(f"note: {check.source}: {check.name}: {check.why}", fg="yellow")
    for check in payload.bad:
        yield click.style(f"DAMAGE: {check.source}: {check.name}: {check.why}", fg="red")
