"""Disks with files: one GPT partition with an ext4, fresh, or aged, or with very many small files.

Sources: mke2fs(8); what ages an ext4 is what fs/ext4/mballoc.c does when free space is in pieces.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.content import Content, sizes
from bench.loop import loop, mounted
from onebay.base import tool

MIB = 1 << 20
START = MIB
SEED = 8
CYCLES = 6
TIMEOUT = 3600


@dataclass(frozen=True, slots=True)
class Shape:
    """A disk of `size` bytes whose file system holds `used` bytes in files of at most `largest`."""

    size: int
    used: int
    largest: int

    @property
    def end(self) -> int:
        """End of the partition; the backup GPT and what aligns it follow."""
        return self.size - MIB


def partition(disk: Path, shape: Shape) -> None:
    """Make a disk with one Linux partition."""
    with disk.open("wb") as file:
        file.truncate(shape.size)
    table = (
        "label: gpt\nlabel-id: 8D6F6C2B-1C4C-4C3D-9E53-0B0E0D9B0008\n"
        f"start={START // 512}, size={(shape.end - START) // 512}, type=linux, name=bench\n"
    )
    tool.run(["sfdisk", "--quiet", "--no-reread", disk], stdin=table.encode())


def fresh(disk: Path, shape: Shape) -> None:
    """Make a disk with an ext4 that mke2fs fills, as an installer leaves it; needs no privileges."""
    partition(disk, shape)
    content = Content(SEED)
    with tempfile.TemporaryDirectory(dir=disk.parent) as name:
        for file in sizes(content.rng, shape.used, shape.largest):
            write(Path(name, "home", file.name), content.bytes(file.size))
        argv: list[str | Path] = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={START},nodiscard"]
        argv += ["-d", name, disk, f"{(shape.end - START) >> 10}k"]
        tool.run(argv, timeout=TIMEOUT)


def write(path: Path, data: bytes) -> None:
    """Write a file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def aged(disk: Path, shape: Shape, young: Path) -> None:
    """Make of a fresh disk one that was lived in: files in pieces, and old content in its free space.

    Each cycle fills space with files of all sizes, deletes most of them in random order, and writes a sixth
    of the lasting files again, into the holes. In the end as many bytes are used as at the beginning.
    """
    tool.run(["cp", "--sparse=always", young, disk], timeout=TIMEOUT)
    content = Content(SEED + 1)
    with (
        loop(disk, start=START, end=shape.end, writable=True) as device,
        mounted(device, "nodiscard") as root,
    ):
        for cycle in range(CYCLES):
            live(root, cycle, shape, content)
        shutil.rmtree(root / "passing")


def live(root: Path, cycle: int, shape: Shape, content: Content) -> None:
    """Go through one cycle."""
    rng = content.rng
    supply = content.chosen(content.words, shape.largest) + rng.randbytes(3 * shape.largest)
    passing: list[Path] = []
    for file in sizes(rng, shape.used // 2, shape.largest):
        at = rng.randrange(len(supply) - file.size)
        passing.append(root / "passing" / f"{cycle}" / file.name)
        write(passing[-1], supply[at : at + file.size])
    tool.run(["sync", "-f", root])
    rng.shuffle(passing)
    for path in passing[: len(passing) * 4 // 5]:
        path.unlink()
    lasting = sorted(path for path in (root / "home").rglob("*") if path.is_file())
    for path in lasting[cycle::CYCLES]:
        size = path.stat().st_size
        path.unlink()
        path.write_bytes(content.bytes(size))
    tool.run(["sync", "-f", root])


def many(disk: Path, shape: Shape, count: int) -> None:
    """Make a disk with `count` small files, of 200 to 4000 bytes."""
    partition(disk, shape)
    content = Content(SEED + 2)
    rng = random.Random(SEED)
    supply = content.chosen(content.words, 8 * MIB) + rng.randbytes(8 * MIB)
    argv: list[str | Path] = ["mke2fs", "-q", "-F", "-t", "ext4", "-N", str(count + count // 8 + 64)]
    argv += ["-E", f"offset={START},nodiscard", disk, f"{(shape.end - START) >> 10}k"]
    tool.run(argv)
    with (
        loop(disk, start=START, end=shape.end, writable=True) as device,
        mounted(device, "nodiscard") as root,
    ):
        for number in range(count):
            if number % 1000 == 0:
                folder = root / f"{number // 1000:04}"
                folder.mkdir()
            at = rng.randrange(len(supply) - 4000)
            (folder / f"{number:07}").write_bytes(supply[at : at + rng.randint(200, 4000)])
