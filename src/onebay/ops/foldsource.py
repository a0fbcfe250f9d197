"""What a boot disk holds: its partitions, their files, and the GRUB configuration that boots it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent, Refused
from onebay.base.step import CHUNK
from onebay.boot.extimage import ExtImage
from onebay.fs.fat import Fat
from onebay.table import Table
from onebay.table.kinds import BIOS_BOOT
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from onebay.block import Volume
    from onebay.layer import Layer
    from onebay.tree import Tree

# the first of these that exists is the menu; any other grub.cfg (on an ESP) comes after them
CONFIGS = ("/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg")
OTHER_LOADERS = {
    "isolinux.cfg": "isolinux",
    "syslinux.cfg": "syslinux",
    "extlinux.conf": "extlinux",
    "loader.conf": "systemd-boot",
    "refind.conf": "rEFInd",
    "limine.conf": "limine",
    "menu.lst": "GRUB legacy",
}
MAX_DEPTH = 32
MAX_FILES = 100_000


@dataclass
class Part:
    """One partition of the boot disk; sizes in bytes.

    `kind` is fat, ext or raw; `files` are path -> size; `odd` are links and special files, which FAT cannot
    hold. `image` is a copy of an ext file system that may be changed.
    """

    number: int
    volume: Volume
    kind: str
    title: str
    uuid: str = ""
    label: str = ""
    partuuid: str = ""
    name: str = ""
    used: int = 0
    block_size: int = 0
    files: dict[str, int] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    image: ExtImage | None = None
    reader: Callable[[str], bytes] | None = None

    def find(self, path: str) -> str | None:
        """Return the path as it is written here (FAT knows no case), or None."""
        wanted = "/" + "/".join(part for part in path.split("/") if part)
        if wanted in self.files:
            return wanted
        if self.kind != "fat":
            return None
        return next((known for known in self.files if known.casefold() == wanted.casefold()), None)

    def has(self, path: str) -> bool:
        """Whether there is a file at `path`."""
        return self.find(path) is not None

    def read(self, path: str) -> bytes:
        """Return the content of one of `files`."""
        assert self.reader is not None, path
        return self.reader(path)


@dataclass
class BootDisk:
    """A boot disk as it was read; `config` is (partition, path) of its menu."""

    volume: Volume
    parts: list[Part]
    skipped: list[str]
    config: tuple[Part, str]
    identity: str


def read_boot(disk: Volume, scratch: Path, room: int) -> BootDisk:
    """Read a boot disk; `scratch` gets copies of ext file systems, `room` is the free space in bytes.

    Raises Refused where it holds more than `room`, nothing at all, or no GRUB configuration.
    """
    tree = discover([disk])
    skipped: list[str] = []
    parts = [part for part in found_parts(tree) if keep(part, skipped)]
    if not parts:
        raise Refused("nothing to boot was found on the boot disk", volume=disk.name)
    refuse_large(disk, parts, room)
    for part in parts:
        list_files(part, tree.on(part.volume), scratch)
    for part in [part for part in parts if part.kind != "raw" and not part.files and not part.odd]:
        skipped.append(f"p{part.number} ({part.title}) is empty")
        parts.remove(part)
    return BootDisk(disk, parts, skipped, find_config(disk, parts), identity(parts))


def found_parts(tree: Tree) -> Iterator[Part]:
    """Yield the partitions of the boot disk; a file system on the bare disk counts as partition 1."""
    disk = tree.disks[0]
    layer = tree.on(disk)
    if not isinstance(layer, Table):
        yield describe(1, disk, layer)
        return
    for entry in layer.partitions:
        if entry.is_extended or entry.type == BIOS_BOOT:
            continue
        part = describe(entry.number, entry.volume, tree.on(entry.volume))
        part.partuuid, part.name = entry.uuid, entry.name
        yield part


def describe(number: int, volume: Volume, layer: Layer | None) -> Part:
    """Return a partition by what stands on it."""
    if layer is None or layer.kind not in ("fat", "ext"):
        return Part(number, volume, "raw", layer.title if layer else "not recognised", used=volume.size)
    facts = layer.facts()
    size = facts.get("block_size")
    return Part(
        number,
        volume,
        layer.kind,
        layer.title,
        uuid=str(facts.get("uuid") or ""),
        label=str(facts.get("label") or ""),
        used=layer.used_bytes() or volume.size,
        block_size=size if isinstance(size, int) else 0,
    )


def keep(part: Part, skipped: list[str]) -> bool:
    """Whether a partition holds anything; one that nobody recognises and that is zero was never used."""
    if part.kind != "raw":
        return True
    for start, end in part.volume.data(0, part.volume.size):
        for at in range(start, end, CHUNK):
            if any(part.volume.read(at, min(CHUNK, end - at))):
                return True
    skipped.append(f"p{part.number} is unused")
    return False


def refuse_large(disk: Volume, parts: list[Part], room: int) -> None:
    """Raise Refused, with the sizes, where the content can by no means fit."""
    total = sum(part.used for part in parts)
    if total <= room:
        return
    largest = max(parts, key=lambda part: part.used)
    raise Refused(
        f"the boot disk does not fit into the free space of the data disk; p{largest.number} "
        f"({largest.title}) alone takes {largest.used} of {total} bytes",
        volume=disk.name,
        expected=f"at most {room} bytes",
        found=f"{total} bytes",
        hint="a last partition with whole kernels (RR, arc) is larger than any gap" if room else None,
    )


def list_files(part: Part, layer: Layer | None, scratch: Path) -> None:
    """Fill in the files of a partition."""
    if isinstance(layer, Fat):
        fat = layer
        total = 0
        for file, size in walk_fat(fat, "", 0):
            part.files[file] = size
            total += size
            if total > part.volume.size or len(part.files) > MAX_FILES:
                raise Inconsistent("files share clusters or folders", volume=part.volume.name, found=file)
        part.reader = lambda path: fat.read_file(path, limit=part.volume.size) or b""
    elif part.kind == "ext":
        path = scratch / f"p{part.number}.img"
        dump(part.volume, path)
        image = part.image = ExtImage(path, scratch)
        image.mend()
        inodes: dict[str, int] = {}
        for node in image.walk():
            if node.kind == "file":
                part.files[node.path], inodes[node.path] = node.size, node.inode
            elif node.kind != "folder":
                part.odd.append(node.path)
        part.reader = lambda path: image.read(inodes[path])


def walk_fat(fat: Fat, folder: str, depth: int) -> Iterator[tuple[str, int]]:
    """Yield (path, size) of every file; raises Inconsistent for folders without end."""
    if depth > MAX_DEPTH:
        raise Inconsistent(f"more than {MAX_DEPTH} nested folders", volume=fat.volume.name, found=folder)
    for entry in fat.listdir(folder or "/") or []:
        if entry.name in (".", ".."):
            continue
        path = f"{folder}/{entry.name}"
        if entry.is_dir:
            yield from walk_fat(fat, path, depth + 1)
        else:
            yield path, entry.size


def dump(volume: Volume, path: Path) -> None:
    """Copy a volume into a new sparse file."""
    with path.open("xb") as file:
        file.truncate(volume.size)
        for start, end in volume.data(0, volume.size):
            for at in range(start, end, CHUNK):
                data = volume.read(at, min(CHUNK, end - at))
                if any(data):
                    file.seek(at)
                    file.write(data)


def find_config(disk: Volume, parts: list[Part]) -> tuple[Part, str]:
    """Return where the menu is; raises Refused naming the boot loader that was found instead."""
    for wanted in CONFIGS:
        for part in parts:
            if path := part.find(wanted):
                return part, path
    for part in parts:
        for path in sorted(part.files):
            if path.casefold().endswith("/grub.cfg"):
                return part, path
    others = sorted(
        f"{OTHER_LOADERS[name]} (p{part.number}:{path})"
        for part in parts
        for path in part.files
        if (name := path.rpartition("/")[2].casefold()) in OTHER_LOADERS
    )
    have = ", ".join(others) or ", ".join(f"p{part.number}: {part.title}" for part in parts)
    raise Refused(
        "no grub.cfg on the boot disk: only boot disks with GRUB can be folded", volume=disk.name, found=have
    )


def identity(parts: list[Part]) -> str:
    """Return a digest over everything that will be folded, the same for every copy of a boot disk."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part.number} {part.kind} {part.uuid} {part.label}\n".encode())
        if part.kind == "raw":
            for at in range(0, part.volume.size, CHUNK):
                total.update(part.volume.read(at, min(CHUNK, part.volume.size - at)))
        for path in sorted(part.files):
            inside = hashlib.sha256(part.read(path)).hexdigest()
            total.update(f"{path} {inside}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()
