"""All files of a FAT with their digests, as far as they can be read."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Inconsistent
from onebay.fs.fat.directory import DELETED, END, parse_directory
from onebay.fs.fat.record import ATTR_LONG_NAME, ATTR_MASK, ATTR_VOLUME, DIR_ENTRY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.fs.fat import Fat
    from onebay.fs.fat.directory import Entry

PIECE = 1 << 20
MAX_DEPTH = 32
MAX_FILES = 100_000


@dataclass(frozen=True, slots=True)
class Seen:
    """A file: `size` in bytes, `stamp` (date << 16 | time, as stored), SHA-256; "" where it is unreadable."""

    size: int
    stamp: int
    sha256: str


def survey(fat: Fat) -> dict[str, Seen]:
    """Return every file by its path; folders that cannot be read are left out.

    Raises Inconsistent where more is told than the volume can hold.
    """
    found: dict[str, Seen] = {}
    todo: list[tuple[str, int, int]] = [("", 0, 0)]
    seen: set[int] = set()
    total = 0
    while todo:
        folder, cluster, depth = todo.pop()
        if cluster in seen or depth > MAX_DEPTH:
            continue
        seen.add(cluster)
        try:
            raw = fat.read_folder(cluster) if cluster else fat.read_root()
        except Damaged:
            continue
        for entry, stamp in dated(raw):
            path = f"{folder}/{entry.name}"
            if entry.is_dir:
                todo.append((path, entry.cluster, depth + 1))
                continue
            found[path] = Seen(entry.size, stamp, digest(fat, entry))
            total += entry.size if found[path].sha256 else 0
            if total > 2 * fat.volume.size or len(found) > MAX_FILES:
                raise Inconsistent("files share clusters or folders", volume=fat.volume.name, found=path)
    return found


def dated(raw: bytes) -> Iterator[tuple[Entry, int]]:
    """Yield the entries of a directory with their time of change."""
    stamps: list[int] = []
    for record in DIR_ENTRY.unpack_all(raw):
        if record.name[0] == END:
            break
        hidden = record.attr & ATTR_MASK == ATTR_LONG_NAME or record.attr & ATTR_VOLUME
        if record.name[0] != DELETED and not hidden and record.name[:1] != b".":
            stamps.append(record.date << 16 | record.time)
    return zip(parse_directory(raw), stamps, strict=True)


def digest(fat: Fat, entry: Entry) -> str:
    """Return the SHA-256 of a file, "" where it cannot be read."""
    found = sha256()
    try:
        if entry.size > fat.volume.size:
            return ""
        for start, end in fat.file_extents(entry):
            for at in range(start, end, PIECE):
                found.update(fat.volume.read(at, min(PIECE, end - at)))
    except Damaged:
        return ""
    return found.hexdigest()
