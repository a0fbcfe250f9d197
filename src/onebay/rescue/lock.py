"""The lock file: which packages, byte for byte, the rescue system is made of.

Lines of words: `release NAME`, `date SECONDS` (since 1970; the time stamp of all that is built), and for each
package `system` (unpacked into the rescue system) or `build` (used to build it only), then name, version,
architecture, size in bytes and SHA-256, the last two as the archive's Packages index states them
(Debian's repository format, wiki.debian.org/DebianRepository/Format). `#` starts a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from onebay.base.error import Damaged

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["system", "build"]
# Debian policy 5.6.1, 5.6.12: they become arguments and names of files
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
VERSION = re.compile(r"(\d+:)?[A-Za-z0-9.+~-]+")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_SIZE = 1 << 30
HEAD = """# What the rescue system is made of. Written by: onebay rescue lock (docs/rescue.md)
# role name version architecture size sha256
"""


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One package; `size` is in bytes."""

    role: Role
    name: str
    version: str
    architecture: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """All packages, of one release; `date` is in seconds since 1970."""

    release: str
    date: int
    packages: tuple[Package, ...]

    def of(self, role: Role) -> tuple[Package, ...]:
        """Return the packages with a role."""
        return tuple(package for package in self.packages if package.role == role)


def parse_lock(text: str, name: str) -> Lock:
    """Read a lock file called `name`; raises Damaged with the line that breaks the rules."""
    release, date = "", 0
    packages: list[Package] = []
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0] == "release" and len(words) == 2 and NAME.fullmatch(words[1]):
            release = words[1]
        elif words[0] == "date" and len(words) == 2 and re.fullmatch(r"[0-9]{1,11}", words[1]):
            date = int(words[1])
        else:
            package = parse_package(words)
            if package is None or package.name in seen:
                expected = "a package that is not there yet" if package else "role name version ... sha256"
                raise Damaged(f"line {number} of the lock", volume=name, expected=expected, found=line[:80])
            seen.add(package.name)
            packages.append(package)
    if not (release and date and packages):
        raise Damaged("the lock is not whole", volume=name, expected="release, date and packages")
    return Lock(release, date, tuple(sorted(packages)))


def parse_package(words: Sequence[str]) -> Package | None:
    """Return the package of a line, None where it says no such thing."""
    if len(words) != 6 or words[0] not in get_args(Role):
        return None
    name, version, architecture, size, digest = words[1:]
    fits = NAME.fullmatch(name) and VERSION.fullmatch(version) and architecture in ("amd64", "all")
    if not (fits and re.fullmatch(r"[0-9]{1,10}", size) and DIGEST.fullmatch(digest)):
        return None
    role: Role = "system" if words[0] == "system" else "build"
    return Package(role, name, version, architecture, int(size), digest) if int(size) <= MAX_SIZE else None


def format_lock(lock: Lock) -> str:
    """Return the text of a lock file."""
    lines = [f"release {lock.release}", f"date {lock.date}"]
    lines += [
        f"{package.role} {package.name} {package.version} {package.architecture} "
        f"{package.size} {package.sha256}"
        for package in sorted(lock.packages)
    ]
    return HEAD + "".join(f"{line}\n" for line in lines)
