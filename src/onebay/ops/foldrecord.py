"""The record that a fold leaves on its FAT (/onebay/fold.json), read with suspicion.

Written by ops.foldimage; docs/verbs/fold.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from onebay.base.error import Error
from onebay.fs.fat import Fat
from onebay.ops.foldimage import RECORD, RECORD_SIZE

MAX_DISK = 1 << 63


@dataclass(frozen=True, slots=True)
class RecordPart:
    """A partition that the fold made; `start` and `size` are bytes."""

    number: int
    start: int
    size: int
    uuid: str
    home: bool


@dataclass(frozen=True, slots=True)
class Core:
    """GRUB's core for BIOS: `size` bytes at byte `at` of the disk."""

    at: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Record:
    """What a fold did: `files` are our own on the FAT (path -> SHA-256), `menu` the appliance's grub.cfg."""

    boot_disk: str
    grub: str
    menu: str
    parts: tuple[RecordPart, ...]
    core: Core | None
    code_sha256: str
    files: dict[str, str]

    @property
    def home(self) -> RecordPart | None:
        """The partition with our loaders."""
        return next((part for part in self.parts if part.home), None)


def read_record(layer: object) -> Record | None:
    """Return the record on a FAT; None where there is none that can be read."""
    if not isinstance(layer, Fat):
        return None
    try:
        raw = layer.read_file(RECORD, limit=RECORD_SIZE)
        return None if raw is None else parse_record(json.loads(raw))
    except (Error, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def parse_record(text: Any) -> Record:
    """Return a record from its JSON; raises KeyError, TypeError, ValueError or AttributeError."""
    core = text["core"]
    menu = text.get("menu") or {}
    return Record(
        boot_disk=str(text["boot_disk"]),
        grub=str(text.get("grub", "")),
        menu=str(menu.get("path", "")),
        parts=tuple(
            RecordPart(
                number(part["number"]),
                number(part["start"]),
                number(part["size"]),
                str(part["uuid"]),
                part["home"] is True,
            )
            for part in text["partitions"]
        ),
        core=Core(number(core["at"]), number(core["size"]), str(core["sha256"])) if core else None,
        code_sha256=str(text.get("code_sha256") or ""),
        files={str(path): str(sha) for path, sha in text["files"].items()},
    )


def number(value: object) -> int:
    """Return a number that a disk can have; raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < MAX_DISK:
        raise ValueError(f"no position or size: {value!r:.40}")
    return value
