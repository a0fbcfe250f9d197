"""Fill a data volume; runs inside the worker, with the interpreter and standard library of its Debian.

    content.py VOLUME SCALE [SUBVOLUME]

SCALE 100 is some 4 thousand files and 300 MiB, 2 is what a miniature holds. While files are written, others
full of random bytes are written between them and deleted at the end, so that free space is dirty and what
stays is in pieces. The lists in VOLUME/manifest are what manifest.sh checks.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
SHARES = ("photo", "music", "home/admin", "docker/db", "#recycle", "文档")


class Content:
    """What is written so far, by the checks it is meant for."""

    def __init__(self, volume: Path, scale: int, subvolume: str) -> None:
        self.volume = volume
        self.scale = scale
        self.random = random.Random(scale)
        self.links: list[tuple[str, str]] = []
        self.tagged: list[str] = []
        self.holes: list[str] = []
        self.dirt: list[Path] = []
        self.shares = (*SHARES, subvolume) if subvolume else SHARES

    def place(self, number: int, name: str) -> Path:
        """Return where file `number` goes; its folders are made."""
        folder = self.volume / self.shares[number % len(self.shares)] / f"{number // 300:03}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def small(self) -> None:
        """Many small files of text, some with an extended attribute or a second name."""
        line = "The quick brown fox jumps over the lazy dog, and the dog does not care. "
        for number in range(40 * self.scale):
            path = self.place(number, f"note {number:05}.txt")
            path.write_text(f"{number} {line}" * self.random.randrange(220), "utf-8")
            name = str(path.relative_to(self.volume))
            if number % 10 == 0:
                os.setxattr(path, "user.onebay", f"tag {number}".encode() * self.random.randrange(1, 40))
                self.tagged.append(name)
            if number % 15 == 0:
                other = path.with_name(f"again {number:05}.txt")
                other.hardlink_to(path)
                self.links.append((name, str(other.relative_to(self.volume))))
            if number % 8 == 0:
                self.soil(64 * KIB)

    def large(self) -> None:
        """Files of random bytes, of real zeros, and of holes with a little data."""
        for number in range(max(2, self.scale)):
            self.place(number, f"film {number:03}.bin").write_bytes(os.urandom(self.size()))
            self.soil(self.size())
        for number in range(max(1, self.scale // 10)):
            self.place(number, f"zeros {number:03}.bin").write_bytes(bytes(MIB))
        for number in range(max(2, self.scale // 5)):
            self.sparse(self.place(number, f"disk {number:03}.img"), self.random.randrange(1, 5) * MIB)

    def size(self) -> int:
        """Return the size of a large file: up to 5 MiB, or a tenth of that in a miniature."""
        return self.random.randrange(64 * KIB, 5 * MIB if self.scale > 20 else MIB // 2)

    def sparse(self, path: Path, size: int) -> None:
        """One file with holes in front, between and at its end."""
        with path.open("wb") as file:
            for _ in range(3):
                file.seek(self.random.randrange(size // 4096 - 8) * 4096)
                file.write(os.urandom(4096))
            file.truncate(size)
        self.holes.append(str(path.relative_to(self.volume)))

    def names(self) -> None:
        """Names as long as they get, deep folders, empty files, links that lead nowhere."""
        folder = self.volume / "names"
        folder.mkdir()
        (folder / ("n" * 255)).write_text("long\n", "utf-8")
        (folder / ("名" * 85)).write_text("long in UTF-8\n", "utf-8")
        (folder / " leading, trailing and 'quoted' ").write_text("odd\n", "utf-8")
        deep = folder.joinpath(*["deep" * 10] * 20)
        deep.mkdir(parents=True)
        (deep / "file").write_text("deep\n", "utf-8")
        for number in range(self.scale):
            (folder / f"empty {number}").touch()
        (folder / "nowhere").symlink_to("/does/not/exist")
        (folder / "note").symlink_to("deep")

    def soil(self, size: int) -> None:
        """Write random bytes that will be deleted."""
        path = self.volume / "#dirt" / str(len(self.dirt))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(size))
        self.dirt.append(path)

    def clean(self) -> None:
        """Delete the dirt, after it has reached the disk."""
        os.sync()
        for path in self.dirt:
            path.unlink()
        (self.volume / "#dirt").rmdir()

    def lists(self) -> None:
        """Write what the checks need, except the digests."""
        folder = self.volume / "manifest"
        folder.mkdir()
        (folder / "links").write_text("".join(f"{a}\t{b}\n" for a, b in self.links), "utf-8")
        (folder / "tagged").write_text("".join(f"{name}\n" for name in self.tagged), "utf-8")
        (folder / "holes").write_text("".join(f"{name}\n" for name in self.holes), "utf-8")


def main() -> None:
    """Fill the volume named on the command line."""
    volume, scale, *subvolume = sys.argv[1:]
    content = Content(Path(volume), int(scale), subvolume[0] if subvolume else "")
    content.small()
    content.large()
    content.names()
    content.clean()
    content.lists()


if __name__ == "__main__":
    main()
