"""A tree of files in memory: what packages hold, less what is not wanted, to be packed without root.

Owner and time are no part of it: everything belongs to root and has the time of the lock.
"""

from __future__ import annotations

import fnmatch
import io
import re
import stat
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from onebay.base import tool
from onebay.base.error import Damaged
from onebay.machine import cpio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

MERGED = ("bin", "sbin", "lib", "lib64")  # links into usr (usr-merge)


class Node(NamedTuple):
    """A file, folder or symbolic link: `mode` with its type, `data` its content or where it leads."""

    mode: int
    data: bytes = b""


Tree = dict[str, Node]  # by path without a leading slash


def folder(mode: int = 0o755) -> Node:
    """Return a folder."""
    return Node(stat.S_IFDIR | mode)


def regular(data: bytes, mode: int = 0o644) -> Node:
    """Return a file."""
    return Node(stat.S_IFREG | mode, data)


def symlink(target: str) -> Node:
    """Return a symbolic link."""
    return Node(stat.S_IFLNK | 0o777, target.encode())


def merged(path: str) -> str:
    """Return where a path is once bin, sbin and lib are links into usr."""
    return f"usr/{path}" if path.partition("/")[0] in MERGED else path


def rules(text: str) -> Callable[[str], bool]:
    """Return what a text of `keep PATTERN` and `drop PATTERN` lines says of a path; the first match counts.

    `*` matches slashes too. What nothing matches is kept where the last line is a `drop`, and dropped where
    it is a `keep`: the list then says what is wanted.
    """
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    patterns = [(verb == "keep", re.compile(fnmatch.translate(pattern)).match) for verb, pattern in lines]
    otherwise = not patterns[-1][0]

    def kept(path: str) -> bool:
        return next((keep for keep, match in patterns if match(path)), otherwise)

    return kept


def unpack(deb: Path, kept: Callable[[str], bool]) -> Iterator[tuple[str, Node]]:
    """Yield the files and links of a package that `kept` wants; raises ToolFailed, Damaged."""
    raw = tool.run(["dpkg-deb", "--fsys-tarfile", deb]).stdout
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            for member in tar:
                path = merged(member.name.removeprefix("./").strip("/"))
                if path and kept(path) and (node := node_of(tar, member)) is not None:
                    yield path, node
    except tarfile.TarError as error:
        raise Damaged(f"the package's files cannot be read: {error}", volume=str(deb)) from error


def node_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Node | None:
    """Return a member, a hard link as the file it leads to; None for a folder, which comes with its files."""
    if member.issym():
        return symlink(member.linkname)
    source = tar.extractfile(member) if member.isreg() or member.islnk() else None
    return regular(source.read(), member.mode & 0o755) if source else None


def with_folders(tree: Mapping[str, Node]) -> Tree:
    """Return the tree sorted by path, with the folders that its paths go through."""
    whole = dict(tree)
    for path in tree:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            whole.setdefault("/".join(parts[:depth]), folder())
    return dict(sorted(whole.items()))


def tar_of(tree: Mapping[str, Node], date: int) -> bytes:
    """Return the tree as a tar (ustar), everything root's and of the time `date`."""
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFREG: tarfile.REGTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, node in with_folders(tree).items():
            member = tarfile.TarInfo(path)
            member.type, member.mode = kinds[stat.S_IFMT(node.mode)], stat.S_IMODE(node.mode)
            member.mtime = date
            if stat.S_ISLNK(node.mode):
                member.linkname = node.data.decode()
                tar.addfile(member)
            else:
                member.size = len(node.data)
                tar.addfile(member, io.BytesIO(node.data))
    return out.getvalue()


def cpio_of(tree: Mapping[str, Node]) -> bytes:
    """Return the tree as a cpio archive for the kernel, sorted by path: everything root's, without a time."""
    parts = [
        cpio.member(number, path, node.mode, node.data)
        for number, (path, node) in enumerate(with_folders(tree).items(), 1)
    ]
    return b"".join([*parts, cpio.member(0, cpio.TRAILER, 0, b"")])


def write_out(tree: Mapping[str, Node], target: Path) -> None:
    """Write the tree below the empty folder `target`, for programs that want files."""
    for path, node in with_folders(tree).items():
        place = target / path
        if stat.S_ISDIR(node.mode):
            place.mkdir(exist_ok=True)
        elif stat.S_ISLNK(node.mode):
            place.symlink_to(node.data.decode())
        else:
            place.write_bytes(node.data)
            place.chmod(stat.S_IMODE(node.mode) | 0o200)


def read_in(source: Path, paths: Iterable[Path]) -> Tree:
    """Return files below `source` as a tree, with the modes that files of packages have."""
    return {str(path.relative_to(source)): regular(path.read_bytes()) for path in paths}
