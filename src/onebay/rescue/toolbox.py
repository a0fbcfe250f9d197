"""Run pinned programs on a host of any release: those of the lock, by their own loader and libraries.

So the same lock gives the same bytes wherever it is built.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Inconsistent, Unsupported
from onebay.rescue.files import write_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onebay.base.tool import Result
    from onebay.rescue.files import Node

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"
PLACES = ("usr/sbin", "usr/bin")


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Programs unpacked to `folder`; what they print has the time `date`, in seconds since 1970."""

    folder: Path
    date: int

    def run(
        self,
        program: str,
        *argv: str | Path,
        stdin: bytes = b"",
        cwd: Path | None = None,
        timeout: float = 1800,
    ) -> Result:
        """Run a program; raises ToolFailed, Unsupported where this machine cannot run it."""
        path = next((p for place in PLACES if (p := self.folder / place / program).exists()), None)
        if path is None:
            raise Inconsistent(f"{program} is in no package of the lock")
        return self.load("--argv0", program, path, *argv, stdin=stdin, cwd=cwd, timeout=timeout)

    def load(
        self,
        *argv: str | Path,
        stdin: bytes = b"",
        cwd: Path | None = None,
        timeout: float = 1800,
        ok: Sequence[int] = (0,),
    ) -> Result:
        """Call the loader (ld.so(8))."""
        env = {
            "SOURCE_DATE_EPOCH": str(self.date),
            "TZ": "UTC",
            "PYTHONHOME": str(self.folder / "usr"),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [self.folder / LOADER, "--library-path", self.folder / LIBRARIES, *argv]
        try:
            return tool.run(command, stdin=stdin, env=env, cwd=cwd, timeout=timeout, ok=ok)
        except OSError as error:
            raise Unsupported(f"programs of amd64 do not run here: {error}") from error


def make(tree: Mapping[str, Node], folder: Path, date: int) -> Toolbox:
    """Unpack programs and their libraries to the empty `folder`."""
    write_out(tree, folder)
    return Toolbox(folder, date)


def refuse_lacking(tree: Mapping[str, Node], box: Toolbox) -> None:
    """Raise Inconsistent where a program or library of `tree`, which `box` holds, lacks a library there."""
    libraries = {path.rpartition("/")[2] for path in tree if path.startswith(f"{LIBRARIES}/")}
    lacking = []
    for path, node in tree.items():
        lacks = sorted(needed(path, box) - libraries) if linked(path, node) else []
        lacking += [f"{path} lacks {', '.join(lacks)}"] if lacks else []
    if lacking:
        raise Inconsistent("; ".join(lacking), hint="add to the lock, or leave them out in pruned.txt")


def linked(path: str, node: Node) -> bool:
    """Whether a file is a library or a program that is not static."""
    if not stat.S_ISREG(node.mode) or node.data[:4] != b"\x7fELF":
        return False
    return ".so" in path or b"\0/lib64/ld-linux-x86-64.so.2\0" in node.data


def needed(path: str, box: Toolbox) -> set[str]:
    """Return the names of the libraries that a program needs, those of its libraries included."""
    # 1: needs none; 127: one is not there, and the first such is named
    done = box.load("--inhibit-cache", "--list", box.folder / path, ok=(0, 1, 127))
    names = {line.split()[0].rpartition("/")[2] for line in done.text.splitlines() if line.startswith("\t")}
    names |= set(re.findall(r"libraries: (\S+?):", done.stderr.decode("utf-8", "replace")))
    return {name for name in names if ".so" in name and not name.startswith("linux-vdso")}
