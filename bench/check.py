"""Is what was restored what was captured? The field's own checkers, and a comparison of content.

Of an ext4 every block that dumpe2fs does not name as free must be the same; of other file systems, and where
files were restored and not blocks, every file, through a read-only mount by the kernel. onebay's own view is
only asked where on the disk a file system lies (under md and LVM), never what of it matters.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench import loop
from bench.work import free_runs, number
from onebay.base import tool
from onebay.base.error import Error, ToolFailed
from onebay.block import open_disk
from onebay.block.volume import locate
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Iterator

Level = Literal["disk", "partition", "files"]
PIECE = 4 << 20
GRID = 64 << 10
TIMEOUT = 3600
KINDS = ("ext", "btrfs", "xfs", "fat")


class Place(NamedTuple):
    """A file system of kind `kind` at bytes `start` to `end` of a disk."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `good` is None where it could not be done."""

    what: str
    good: bool | None
    text: str = ""


@cache
def places(disk: Path) -> tuple[Place, ...]:
    """Return the file systems of a disk that lie there in one piece; raises Error."""
    found = []
    with closing(open_disk(disk)) as volume:
        for layer in discover([volume]).layers:
            if layer.kind in KINDS and len(layer.below) == 1:
                pieces = locate(layer.below[0], 0, layer.below[0].size)
                start, end = pieces[0].at, pieces[0].at + layer.below[0].size
                if len(pieces) == 1:
                    found.append(Place(layer.kind, start, end))
    return tuple(found)


def check(source: Path, target: Path, level: Level) -> list[Finding]:
    """Compare the disk in the file `target` with `source`, as far as a tool of this level restores it."""
    found: list[Finding] = []
    if level == "disk":
        found.append(same_table(source, target))
    for place in places(source):
        found.append(checker(target, place))
        if not found[-1].good:
            continue
        try:
            if place.kind == "ext" and level != "files":
                found.append(same_blocks(source, target, place))
            else:
                found.append(same_files(source, target, place))
        except (Error, OSError) as error:
            found.append(Finding("content", good=False, text=str(error)))
    return found


def same_table(source: Path, target: Path) -> Finding:
    """Compare partition tables as sfdisk prints them, and have sgdisk check a GPT."""
    tables = [tool.run(["sfdisk", "--dump", disk], ok=(0, 1)).text for disk in (source, target)]
    plain = [text.replace(str(disk), "") for text, disk in zip(tables, (source, target), strict=True)]
    if plain[0] != plain[1]:
        return Finding("partition table", good=False, text="sfdisk prints another one")
    if "label: gpt" in plain[0]:
        said = tool.run(["sgdisk", "-v", target], ok=(0, 1, 2, 3, 4)).text
        if "No problems found" not in said:
            return Finding("partition table", good=False, text=said.strip()[-200:])
        if gpt_of(source) != gpt_of(target):  # sgdisk is content with one good header
            return Finding("partition table", good=False, text="other bytes in one of its two copies")
    return Finding("partition table", good=True)


def gpt_of(disk: Path) -> bytes:
    """Return the sectors of protective MBR and GPT, at both ends of a disk with sectors of 512 bytes."""
    with disk.open("rb") as file:
        first = file.read(34 * 512)
        file.seek(-33 * 512, os.SEEK_END)
        return first + file.read()


def checker(disk: Path, place: Place) -> Finding:
    """Run the file system's own checker, read-only."""
    what = f"{place.kind} at {place.start}"
    if place.kind == "ext":
        return asked(["e2fsck", "-fn", f"{disk}?offset={place.start}"], what)
    programs = {
        "btrfs": ["btrfs", "check", "--readonly"],
        "xfs": ["xfs_repair", "-n"],
        "fat": ["fsck.fat", "-n"],
    }
    if not loop.possible():
        return Finding(what, good=None, text="not checked: needs a loop device")
    with loop.loop(disk, start=place.start, end=place.end) as device:
        return asked([*programs[place.kind], str(device)], what)


def asked(argv: list[str], what: str) -> Finding:
    """Run a checker; what it says counts."""
    try:
        tool.run(argv, timeout=TIMEOUT)
    except ToolFailed as error:
        return Finding(what, good=False, text=str(error))
    return Finding(what, good=True)


def same_blocks(source: Path, target: Path, place: Place) -> Finding:
    """Compare every block of an ext4 that is not free."""
    what = f"used blocks at {place.start}"
    with source.open("rb") as left, target.open("rb") as right:
        compared = 0
        for start, end in stored_parts(left, right, used_runs(source, place)):
            for at in range(start, end, PIECE):
                size = min(PIECE, end - at)
                ours, theirs = os.pread(left.fileno(), size, at), os.pread(right.fileno(), size, at)
                compared += size
                if ours != theirs:
                    return Finding(what, good=False, text=f"differs in {size} bytes at {at}")
    return Finding(what, good=True, text=f"{compared} bytes compared")


@cache
def used_runs(disk: Path, place: Place) -> tuple[tuple[int, int], ...]:
    """Return the bytes of the disk that an ext4 uses, as dumpe2fs says."""
    text = tool.run(["dumpe2fs", f"{disk}?offset={place.start}"], timeout=TIMEOUT).text
    block, total = number(text, "Block size"), number(text, "Block count")
    runs, at = [], 0
    for start, end in [*free_runs(text), (total, total)]:
        if start > at:
            runs.append((place.start + at * block, place.start + start * block))
        at = end
    return tuple(runs)


def stored_parts(left: object, right: object, runs: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    """Yield the parts of `runs` that either file has on its own disk; both read as zeros elsewhere."""
    ends = dict.fromkeys((left, right), (0, 0))
    for start, stop in runs:
        at = start
        while at < stop:
            for file, (first, last) in ends.items():
                if last <= at and first != -1:
                    ends[file] = next_data(file.fileno(), at)  # type: ignore[attr-defined]
            here = [(first, last) for first, last in ends.values() if first != -1 and first < stop]
            if not here:
                break
            at = max(at, min(first for first, _ in here))
            end = min(stop, max((last for first, last in here if first <= at), default=stop))
            yield at, end
            at = end


def next_data(fd: int, at: int) -> tuple[int, int]:
    """Return the next stretch of a file that is not a hole; (-1, -1) where there is none."""
    try:
        first = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        return -1, -1
    return first, os.lseek(fd, first, os.SEEK_HOLE)


def same_files(source: Path, target: Path, place: Place) -> Finding:
    """Compare every file, through mounts."""
    what = f"files at {place.start}"
    if not loop.possible():
        return Finding(what, good=None, text="not compared: needs root and loop devices")
    ours, theirs = tree_of(source, place), snapshot(target, place)
    if ours == theirs:
        return Finding(what, good=True, text=f"{len(ours)} files compared")
    names = {entry.split("\0")[0] for entry in set(ours) ^ set(theirs)}
    return Finding(what, good=False, text=f"{len(names)} differ, for example {min(names)}")


@cache
def tree_of(disk: Path, place: Place) -> tuple[str, ...]:
    """Return `snapshot` of a source, which does not change."""
    return snapshot(disk, place)


def snapshot(disk: Path, place: Place) -> tuple[str, ...]:
    """Return a line for each file of a file system: name, kind, owner, size, and a digest of its content."""
    options = {"ext": ("ro", "noload"), "xfs": ("ro", "norecovery"), "btrfs": ("ro",), "fat": ("ro",)}
    lines = []
    with (
        loop.loop(disk, start=place.start, end=place.end) as device,
        loop.mounted(device, *options[place.kind]) as root,
    ):
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted([*names, *folders]):
                path = Path(folder, name)
                facts = path.lstat()
                content = ""
                if stat.S_ISREG(facts.st_mode):
                    content = f"{facts.st_size}\0{digest(path)}"
                elif stat.S_ISLNK(facts.st_mode):
                    content = str(path.readlink())
                fields = (path.relative_to(root), facts.st_mode, facts.st_uid, facts.st_gid, content)
                lines.append("\0".join(map(str, fields)))
    return tuple(lines)


def digest(path: Path) -> str:
    """Return a digest of what a file holds; holes and written zeros are the same."""
    done, zeros = hashlib.sha256(), bytes(GRID)
    with path.open("rb") as file:
        fd, at, size = file.fileno(), 0, path.stat().st_size
        while at < size:
            first, last = next_data(fd, at)
            if first == -1:
                break
            first = first // GRID * GRID
            for place in range(first, last, GRID):
                block = os.pread(fd, GRID, place)
                if block != zeros[: len(block)]:
                    done.update(place.to_bytes(8, "little") + block)
            at = max(last, place + GRID)
    return done.hexdigest()
