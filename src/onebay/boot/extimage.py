"""Files of ext2, ext3 and ext4 in image files, by e2fsprogs; no mount, no root.

Names come from the disk of a stranger: nothing is ever written under a name that stands in the file system,
and the structure is checked by e2fsck before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Inconsistent, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ROOT_INODE = 2
MAX_ENTRIES = 100_000
KINDS = {0o100000: "file", 0o040000: "folder", 0o120000: "link"}


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder, link or something else in an ext file system; `size` is in bytes."""

    path: str
    kind: str
    inode: int
    size: int


class ExtImage:
    """An ext file system in the image file `path`, which is ours to change; `scratch` is a folder."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path, self.scratch = path, scratch

    def mend(self) -> None:
        """Replay the journal and mend what is safe to mend; raises ToolFailed where more is wrong."""
        self.check("-fp", ok=(0, 1))

    def verify(self) -> None:
        """Raise ToolFailed where e2fsck finds anything."""
        self.check("-fn")

    def check(self, how: str, ok: Sequence[int] = (0,)) -> None:
        """Run e2fsck; raises ToolFailed, as where the journal is on another device.

        Such a journal e2fsck would look for among the devices of this machine, and write to it: so it is
        told to look in the image itself, where none is.
        """
        tool.run(["e2fsck", how, "-j", self.path, self.path], ok=ok)

    def debugfs(self, commands: Sequence[str], *, write: bool = False) -> str:
        """Run debugfs commands from a file; return what they print."""
        script = self.scratch / "debugfs.txt"
        script.write_text("".join(f"{command}\n" for command in commands), "utf-8", "surrogateescape")
        argv = ["debugfs", "-f", str(script), *(["-w"] if write else []), str(self.path)]
        return tool.run(argv).stdout.decode("utf-8", "surrogateescape")

    def walk(self) -> Iterator[Node]:
        """Yield everything in the file system but lost+found, a folder before what is in it.

        Raises Inconsistent where debugfs lists what nobody can read, or more than 100 000 entries.
        """
        todo, seen, count = [("", ROOT_INODE)], {ROOT_INODE}, 0
        while todo:
            folder, inode = todo.pop()
            for node in self.listing(folder, inode):
                count += 1
                if count > MAX_ENTRIES:
                    raise Inconsistent("ext: too many files for a boot disk", found=count)
                if node.path == "/lost+found":
                    continue
                yield node
                if node.kind == "folder" and node.inode not in seen:
                    seen.add(node.inode)
                    todo.append((node.path, node.inode))

    def listing(self, folder: str, inode: int) -> Iterator[Node]:
        """Yield what is in one folder; lines are /inode/mode/uid/gid/name/size/."""
        for line in self.debugfs([f"ls -p <{inode}>"]).split("\n"):
            if not line.startswith("/"):
                continue
            fields = line.split("/")
            if len(fields) != 8 or not fields[1].isdigit():
                raise Inconsistent("ext: name with a new line or a slash", found=line)
            name, number = fields[5], int(fields[1])
            if name in (".", "..") or number == 0:
                continue
            kind = KINDS.get(int(fields[2], 8) & 0o170000, "other")
            yield Node(f"{folder}/{name}", kind, number, int(fields[6] or 0))

    def read(self, inode: int) -> bytes:
        """Return the content of a file."""
        out = self.scratch / "debugfs.out"
        out.unlink(missing_ok=True)
        self.debugfs([f"dump <{inode}> {out}"])
        if not out.is_file():
            raise Inconsistent("ext: file cannot be read", found=f"inode {inode}")
        return out.read_bytes()

    def replace(self, path: str, data: bytes) -> None:
        """Give the file at `path` other content; raises Refused for names that debugfs cannot take."""
        if '"' in path or "\n" in path:
            raise Refused(f"debugfs cannot write a file of this name: {path!r}")
        source = self.scratch / "debugfs.in"
        source.write_bytes(data)
        source.chmod(0o644)
        quoted = f'"{path}"'
        commands = [f"rm {quoted}", f"write {source} {quoted}", f"sif {quoted} uid 0", f"sif {quoted} gid 0"]
        self.debugfs(commands, write=True)
        node = next((node for node in self.walk() if node.path == path), None)
        if node is None or self.read(node.inode) != data:
            raise Refused(f"{path} could not be written to the copy of the file system")

    def set_uuid(self, uuid: str) -> None:
        """Give the file system another UUID."""
        tool.run(["tune2fs", "-U", uuid, self.path])
