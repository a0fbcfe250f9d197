"""Draw the document of `inspect` as a stand-alone SVG, to scale, one row a level."""

from __future__ import annotations

from html import escape
from typing import Any

import click

from onebay.base.units import human
from onebay.cli.picture import describe

Document = dict[str, Any]

WIDTH = 1200
MARGIN = 10
TOP = 50
ROW = 46
INKS = {
    "md": "#7aa6da",
    "lvm": "#70c0ba",
    "ext": "#8fbc6b",
    "btrfs": "#e0b252",
    "xfs": "#5fa777",
    "fat": "#b77ee0",
    "swap": "#d07f7f",
}


class Drawing:
    """Collects the boxes of one disk."""

    def __init__(self) -> None:
        self.boxes: list[str] = []
        self.levels = 0

    def box(self, x: float, level: int, width: float, label: str, detail: str, ink: str) -> None:
        """Add a box at `level`; its label is left out where it would not fit, its detail is a tooltip."""
        self.levels = max(self.levels, level)
        y = TOP + level * ROW
        shown = escape(label) if width > 7 * len(label) else ""
        self.boxes.append(
            f"<g><title>{escape(detail)}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{max(width, 1.5):.1f}" height="{ROW - 6}" '
            f'fill="{ink}" stroke="#fff"/>'
            f'<text x="{x + 5:.1f}" y="{y + 25}">{shown}</text></g>'
        )

    def place(self, node: Document, x: float, width: float, level: int) -> None:
        """Add a volume with what stands on it, and that above it."""
        ink = INKS.get(node.get("kind", ""), "#ccc")
        label = node.get("title") or node["state"]
        self.box(x, level, width, label, f"{node['name']}: {click.unstyle(describe(node))}", ink)
        parts = [part for part in node.get("parts", []) if part["role"] != "extended"]
        total = sum(part["node"]["size"] for part in parts if part["role"] == "volume") or 1
        at = 0
        for part in parts:
            if part["role"] == "volume":
                left, right = at / total, (at + part["node"]["size"]) / total
                at += part["node"]["size"]
            else:
                left, right = part["start"] / node["size"], part["end"] / node["size"]
            if part["role"] == "gap":
                size = human(part["end"] - part["start"])
                detail = f"free: {size}, {part['label']}"
                self.box(x + left * width, level + 1, (right - left) * width, "free", detail, "#eee")
            elif part.get("node"):
                self.place(part["node"], x + left * width, (right - left) * width, level + 1)


def svg(document: Document) -> str:
    """Return the picture of a disk."""
    drawing = Drawing()
    drawing.place(document["tree"], MARGIN, WIDTH - 2 * MARGIN, 0)
    disk = document["disk"]
    title = escape(f"{disk['name']}  {human(disk['size'])}, {disk['sector_size']}-byte sectors")
    height = TOP + 10 + (drawing.levels + 1) * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" role="img" '
        f'aria-label="{title}"><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="{MARGIN}" y="30" font-size="16">{title}</text>{"".join(drawing.boxes)}</svg>\n'
    )
