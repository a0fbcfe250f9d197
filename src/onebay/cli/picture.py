"""Draw the document of `inspect` on a terminal: a bar to scale, and a line for each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onebay.base.units import human

if TYPE_CHECKING:
    from collections.abc import Iterator

Document = dict[str, Any]

WIDTH = 76  # cells of the bar
COLOURS = {
    "table": "white",
    "md": "blue",
    "lvm": "cyan",
    "ext": "green",
    "btrfs": "yellow",
    "xfs": "green",
    "fat": "magenta",
    "swap": "red",
}
MARKS = {"note": "note", "warning": "warning", "damage": "DAMAGE"}


def text(document: Document) -> Iterator[str]:
    """Yield the picture of a disk for a terminal, line by line."""
    disk = document["disk"]
    known = ", ".join(disk[key] for key in ("model", "serial") if key in disk)
    yield click.style(
        f"{disk['name']}  {human(disk['size'])} ({disk['size']} bytes), {disk['sector_size']}-byte sectors"
        + (f", {known}" if known else ""),
        bold=True,
    )
    appliance = document["appliance"]
    if appliance:
        kind = "SHR" if appliance.get("shr") else "basic"
        yield f"layout: DSM {appliance['name']} ({kind})"
    yield from bar(document["tree"])
    yield from tree(document["tree"], 0, disk["name"])
    for path in document["boot"]:
        verdict = (
            click.style("boots", fg="green") if path["works"] else click.style("does not boot", fg="yellow")
        )
        yield f"{path['firmware'].upper():5}{verdict}: {path['what']}" + (
            f" ({path['why']})" if path["why"] else ""
        )
    for finding in document["findings"]:
        colour = {"note": None, "warning": "yellow", "damage": "red"}[finding["severity"]]
        where = short(finding["volume"], disk["name"])
        yield click.style(f"{MARKS[finding['severity']]}: {where}: {finding['text']}", fg=colour)


def bar(node: Document) -> Iterator[str]:
    """Yield the disk to scale; every part has at least one cell, free space is drawn as dots."""
    parts = [
        part for part in node.get("parts", []) if part["start"] is not None and part["role"] != "extended"
    ]
    if not parts:
        return
    widths = [max(1, round(WIDTH * (part["end"] - part["start"]) / node["size"])) for part in parts]
    while sum(widths) > WIDTH:
        widths[widths.index(max(widths))] -= 1
    top, labels = "", ""
    for part, width in zip(parts, widths, strict=True):
        free = part["role"] == "gap"
        kind = leaf_kind(part)
        top += click.style(("·" if free else "█") * width, fg=None if free else COLOURS.get(kind, "white"))
        labels += ("" if free else part["label"])[:width].ljust(width)
    yield f"  {top}"
    yield f"  {labels.rstrip()}"


def leaf_kind(part: Document) -> str:
    """Kind of the topmost layer that stands in a part of the disk."""
    node = part.get("node") or {}
    while node.get("parts"):
        below = [inner for inner in node["parts"] if inner.get("node")]
        if not below:
            break
        node = max(below, key=lambda inner: inner["node"]["size"])["node"]
    return str(node.get("kind", ""))


def short(name: str, disk: str) -> str:
    """Leave out the disk's own name from that of a volume on it."""
    return name.removeprefix(f"{disk}:") if name != disk else "disk"


def tree(node: Document, depth: int, disk: str) -> Iterator[str]:
    """Yield one line for each layer and each stretch of free space, indented by what stands on what."""
    pad = "  " * depth
    yield f"{pad}{describe(node)}"
    for part in node.get("parts", []):
        if part["role"] == "gap":
            size = human(part["end"] - part["start"])
            line = f"free  {size} at {part['start']:#x} ({part['label']})"
            yield f"{pad}  {click.style(line, dim=True)}"
            continue
        if part["role"] == "volume":
            yield f"{pad}  {short(part['label'], disk)}  {human(part['node']['size'])}"
        else:
            active = ", active" if part["active"] else ""
            name = f" “{part['partition_name']}”" if part["partition_name"] else ""
            size = human(part["end"] - part["start"])
            yield f"{pad}  {part['label']}{name}  {size} at {part['start']:#x}  {part['type_name']}{active}"
        if part.get("node"):
            yield from tree(part["node"], depth + 2, disk)


def describe(node: Document) -> str:
    """Describe what stands on a volume in one line."""
    if node["state"] == "unknown":
        return click.style("not recognised", dim=True)
    if node["state"] == "damaged":
        return click.style(f"{node['kind']}, damaged: {node['evidence']}", fg="red")
    if node["state"] == "member":
        return f"{node['title']}, another member"
    facts = node["facts"]
    shown = [str(facts[key]) for key in ("label", "name", "uuid") if facts.get(key)]
    if node["used_bytes"] is not None:
        shown.append(f"{human(node['used_bytes'])} used of {human(node['size'])}")
    return f"{click.style(node['title'], fg=COLOURS.get(node['kind']))}  {'  '.join(shown)}".rstrip()
