"""The folder through which the parts of a rescue tell one another what they do (docs/web.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebay.base.status import read_status, write_status

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Replace a file of the folder; only its owner may read it, because it holds the code. Raises OSError."""
    write_status(folder / f"{name}.json", document)


def read(folder: Path | None, name: str) -> dict[str, Any]:
    """Return what another part tells, {} where it tells nothing that can be read."""
    return {} if folder is None else read_status(folder / f"{name}.json")
