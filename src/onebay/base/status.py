"""Files of status: each part of the rescue system writes its own, whole and at once; others show it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MOST = 1 << 20  # bytes of a file that is read


def write_status(path: Path, document: object) -> None:
    """Put a document in the place of what was there, readable by its owner only; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.touch(0o600)
    beside.write_text(json.dumps(document, indent=1), "utf-8")
    beside.replace(path)


def read_status(path: Path) -> dict[str, Any]:
    """Return the document of a part, an empty one where it has none yet or is no object."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
