"""The work: disks that every contestant gets, made once and kept outside the repository by their recipe."""

from __future__ import annotations

import inspect
import json
import re
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench import content, loop, make_extents, make_files
from bench.make_files import START, Shape
from onebay.base import tool
from onebay.base.error import Unsupported
from onebay.machine.cache import built, recipe_key
from onebay.sample import build as samples
from onebay.sample.layout import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SIZES = ("small", "full")
DISK = "disk.img"
FACTS = "facts.json"
SAMPLES = tuple(f"sample-{layout.name}" for layout in LAYOUTS)
NAMES = ("fresh", "aged", *SAMPLES, "files", "extents-ext4", "extents-btrfs")
TIMEOUT = 3600


@dataclass(frozen=True, slots=True)
class Work:
    """A disk: bytes of its `used` blocks (0: not known without our own code), and of its file as `stored`.

    `end` is 0 where the peers that take one partition have nothing to take. `whole`: a tool that copies the
    whole disk, free space included, comes to an end. `extents` are runs of used blocks, as many as there
    really are, and `seconds` what it took to make the disk.
    """

    name: str
    disk: Path
    size: int
    stored: int
    kind: str = ""
    start: int = 0
    end: int = 0
    used: int = 0
    extents: int = 0
    whole: bool = True
    seconds: float = 0.0

    @property
    def partition(self) -> bool:
        """Whether there is a partition for the peers that take one."""
        return self.end > 0


def shapes(size: str) -> dict[str, Shape]:
    """Return the disks with their sizes."""
    if size == "full":
        aging = Shape(12 * GIB, 3_000_000_000, 64 * MIB)
        huge = Shape(16 * TIB - GIB, 0, 0)
        return {"aging": aging, "files": Shape(8 * GIB, 0, 0), "huge": huge}
    if size == "quick":
        return {"aging": Shape(GIB, 200_000_000, 16 * MIB)}
    return {
        "aging": Shape(320 * MIB, 48 << 20, 4 * MIB),
        "files": Shape(64 * MIB, 0, 0),
        "huge": Shape(64 * GIB, 0, 0),
    }


COUNTS = {"full": {"files": 1_000_000, "extents": 10_000_000}, "small": {"files": 4000, "extents": 20_000}}


def work(name: str, size: str, cache: Path) -> Work:
    """Return a disk, made where it is not there yet; raises Unsupported where this machine cannot make it."""
    if name.startswith("sample-"):
        make = samples.build if size == "full" else samples.build_mini
        disk = make(name.removeprefix("sample-"), cache=cache).data
        return Work(name, disk, disk.stat().st_size, stored(disk))
    if name not in NAMES:
        raise Unsupported(f"unknown disk {name}", hint=f"one of {', '.join(NAMES)}")
    if name != "fresh" and not loop.possible():
        raise Unsupported(f"{name}: making it needs root and loop devices")
    shape, make_disk = maker(name, size, cache)
    return made(name, size, cache, shape, make_disk)


def maker(name: str, size: str, cache: Path) -> tuple[Shape, Callable[[Path], None]]:
    """Return the shape of a disk and what makes it."""
    known = shapes(size)
    if name == "fresh":
        return known["aging"], partial(make_files.fresh, shape=known["aging"])
    if name == "aged":
        young = work("fresh", size, cache).disk
        return known["aging"], partial(make_files.aged, shape=known["aging"], young=young)
    count = COUNTS[size]
    if name == "files":
        return known["files"], partial(make_files.many, shape=known["files"], count=count["files"])
    make = make_extents.ext4 if name == "extents-ext4" else make_extents.btrfs
    return known["huge"], partial(make, shape=known["huge"], extents=count["extents"])


def recipe(name: str, size: str, shape: Shape) -> dict[str, str]:
    """Return everything that decides what is on a disk."""
    modules = (make_files, make_extents) if name.startswith("extents") else (content, make_files)
    sources = {module.__name__: inspect.getsource(module) for module in modules}
    return {**sources, "name": name, "size": size, "shape": repr(shape), "counts": repr(COUNTS.get(size))}


def made(name: str, size: str, cache: Path, shape: Shape, make: Callable[[Path], None]) -> Work:
    """Return a disk from the cache, or make it, have its file system checked, and write down its facts."""

    def build(folder: Path) -> None:
        began = time.monotonic()
        make(folder / DISK)
        facts = look(folder / DISK, shape)
        facts["seconds"] = round(time.monotonic() - began, 1)
        (folder / FACTS).write_text(json.dumps(facts, indent=2))

    folder = built(cache, f"bench-{name}-{size}", recipe_key(recipe(name, size, shape)), build)
    facts = json.loads((folder / FACTS).read_text())
    disk = folder / DISK
    whole = not name.startswith("extents")
    return Work(name, disk, shape.size, stored(disk), start=START, end=shape.end, whole=whole, **facts)


def look(disk: Path, shape: Shape) -> dict[str, object]:
    """Return what the file system's own tools say of it, and have them check it first."""
    with disk.open("rb") as file:
        file.seek(START + 1080)
        ext = file.read(2) == b"\x53\xef"
    if ext:
        tool.run(["e2fsck", "-fn", f"{disk}?offset={START}"], timeout=TIMEOUT)
        text = tool.run(["dumpe2fs", f"{disk}?offset={START}"], timeout=TIMEOUT).text
        block, total = number(text, "Block size"), number(text, "Block count")
        free = free_runs(text)
        used = (total - sum(end - start for start, end in free)) * block
        return {"kind": "ext4", "used": used, "extents": len(free)}
    with loop.loop(disk, start=START, end=shape.end) as device:
        tool.run(["btrfs", "check", "--readonly", device], timeout=TIMEOUT)
        text = tool.run(["btrfs", "inspect-internal", "dump-super", device]).text
        used = int(re.search(r"^bytes_used\s+(\d+)", text, re.M)[1])  # type: ignore[index]
        script = "btrfs inspect-internal dump-tree -t extent {} | grep -c EXTENT_ITEM"
        count = tool.run(["sh", "-c", script.format(device)], timeout=TIMEOUT).text
    return {"kind": "btrfs", "used": used, "extents": int(count)}


def number(text: str, name: str) -> int:
    """Return a number from the head of what dumpe2fs says."""
    match = re.search(rf"^{name}:\s+(\d+)$", text, re.M)
    assert match is not None, name
    return int(match[1])


def free_runs(text: str) -> list[tuple[int, int]]:
    """Return the runs of free blocks that dumpe2fs names, half-open and joined where they touch."""
    runs: list[tuple[int, int]] = []
    for line in re.findall(r"^  Free blocks: (.*)$", text, re.M):
        for part in filter(None, line.split(", ")):
            first, _, last = part.partition("-")
            start, end = int(first), int(last or first) + 1
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
    return runs


def stored(path: Path) -> int:
    """Return what a file takes of its own disk, in bytes."""
    return path.stat().st_blocks * 512


def describe(work: Work) -> dict[str, object]:
    """Return a disk's facts for the results, without its place."""
    facts = asdict(work)
    del facts["disk"]
    return facts
