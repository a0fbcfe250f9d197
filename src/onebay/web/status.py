"""The folder through which the parts of a rescue tell one another what they do (docs/web.md).

Each part writes a file of its own, whole at every moment.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 1 << 20  # bytes of a file that is read


def write(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Replace a file of the folder; only its owner may read it, because it holds the code. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    part.touch(0o600)
    part.write_text(json.dumps(document), "utf-8")
    part.replace(folder / f"{name}.json")


def read(folder: Path | None, name: str) -> dict[str, Any]:
    """Return what another part tells, {} where it tells nothing that can be read."""
    if folder is None:
        return {}
    try:
        with (folder / f"{name}.json").open("rb") as file:
            found = json.loads(file.read(LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
