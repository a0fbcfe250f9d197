"""What goes into the gap: copies of the boot disk's partitions, or one FAT with all of their files.

Both kinds get configurations that follow the move, identities of their own, our loaders and, last, a record
of the fold (/onebay/fold.json), by which a later run recognises what is there.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay import __version__
from onebay.base.error import Damaged, Refused
from onebay.boot import fatimage, loader
from onebay.boot.grubcfg import functions, parse_config
from onebay.boot.grubcfg.rewrite import PREFIX, Place, rewrite
from onebay.ops.foldsource import dump
from onebay.table import kinds

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.boot.loader import Loader
    from onebay.ops.foldsource import BootDisk, Part

RECORD = "/onebay/fold.json"
RECORD_SIZE = 256 << 10  # bytes to keep free for it
MIB = 1 << 20
HOME_SIZE = 32 * MIB  # of our own FAT, where the boot disk has none
# GRUB's kernel and normal mode bring these themselves
BUILT_IN = frozenset(
    (
        *("", ".", "[", ":", "set", "unset", "export", "ls", "insmod", "rmmod", "lsmod", "dump", "clear"),
        *("break", "continue", "return", "shift", "setparams", "menuentry", "submenu", "hiddenentry"),
        *("normal", "normal_exit", "configfile", "source"),
        *("extract_entries_configfile", "extract_entries_source"),
    )
)


@dataclass
class Image:
    """One partition to be: `parts` are the boot disk's partitions in it; sizes in bytes.

    `uuid` is its new file system UUID, `variable` the GRUB variable with its device; `number`, `start` and
    `partuuid` are known once it has a place on the data disk. `fresh` means a FAT that we make.
    """

    parts: list[Part]
    size: int
    uuid: str
    variable: str
    fresh: bool
    home: bool = False
    sector_size: int = 512
    number: int = 0
    start: int = 0
    partuuid: str = ""
    path: Path | None = None

    @property
    def label(self) -> str:
        """Label for a FAT that we make."""
        return next((part.label for part in self.parts if part.kind == "fat" and part.label), "ONEBAY")[:11]

    @property
    def kind(self) -> str:
        """Format: fat, ext or raw."""
        return "fat" if self.fresh else self.parts[0].kind

    @property
    def type_guid(self) -> str:
        """GPT partition type."""
        if self.home:
            return kinds.ESP
        return kinds.BASIC_DATA if self.kind == "fat" else kinds.LINUX_FILE_SYSTEM

    @property
    def name(self) -> str:
        """GPT partition name."""
        return "onebay boot" if self.home else (self.parts[0].name or f"boot disk p{self.parts[0].number}")


@dataclass
class Configs:
    """All configuration files after the move: (part number, path) -> content, and what to tell the user."""

    files: dict[tuple[int, str], bytes] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    roots: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)


class Identities:
    """New identities, derived from those of both disks: the same fold gives the same bytes."""

    def __init__(self, *seeds: str) -> None:
        self.seed = "\n".join(seeds).encode()

    def raw(self, what: str) -> bytes:
        """Return 32 bytes."""
        return hashlib.sha256(self.seed + what.encode()).digest()

    def fat(self, what: str) -> str:
        """Return a volume serial number as blkid writes it."""
        text = self.raw(what).hex().upper()
        return f"{text[:4]}-{text[4:8]}"

    def guid(self, what: str) -> str:
        """Return a UUID of version 4 in form, in lower case."""
        return str(uuid.UUID(bytes=self.raw(what)[:16], version=4))


def rewrite_configs(disk: BootDisk, images: list[Image]) -> Configs:
    """Rewrite the menu, what it reads in turn, and every other configuration beside it.

    Raises Inconsistent where the menu itself cannot be parsed.
    """
    out = Configs()
    places = [place_of(part, image) for image in images if image.uuid for part in image.parts]
    main, menu = disk.config
    folder = menu.rpartition("/")[0]
    todo = [disk.config]
    for part in disk.parts:
        for path in sorted(part.files):
            beside = part is main and path.startswith(f"{folder}/") and path.casefold().endswith(".cfg")
            if beside or path.casefold().endswith("/grub.cfg"):
                todo.append((part, path))
    seen: set[tuple[int, str]] = set()
    while todo:
        part, path = todo.pop(0)
        if (part.number, path) in seen:
            continue
        seen.add((part.number, path))
        name = f"p{part.number}:{path}"
        data = part.read(path)
        try:
            config = parse_config(data, name)
        except Damaged as error:
            if (part, path) == disk.config:
                raise
            out.warnings.append(f"{error}; the file stays as it is")
            continue
        done = rewrite(config, places)
        out.defined.update(functions(config.script))
        out.changes += done.changes
        out.warnings += done.warnings
        out.roots |= done.roots
        out.names |= done.names
        if done.data != data:
            out.files[part.number, path] = done.data
        todo += follow(disk, images, done.sources)
    return out


def place_of(part: Part, image: Image) -> Place:
    """Return where a partition of the boot disk will be."""
    return Place(
        part.number,
        part.uuid,
        part.label,
        part.partuuid,
        image.variable,
        image.uuid,
        image.partuuid.lower(),
        part.has,
    )


def follow(
    disk: BootDisk, images: list[Image], sources: tuple[tuple[str, str], ...]
) -> list[tuple[Part, str]]:
    """Find the files that a configuration reads in turn."""
    main, menu = disk.config
    found: list[tuple[Part, str]] = []
    for variable, wanted in sources:
        path = wanted
        if variable == PREFIX:
            parts, path = [main], f"{menu.rpartition('/')[0]}{wanted}"
        elif variable:
            parts = [part for image in images if image.variable == variable for part in image.parts]
        else:
            parts = [main, *disk.parts]
        hit = next(((part, known) for part in parts if (known := part.find(path))), None)
        if hit is not None:
            found.append(hit)
    return found


def merged_files(parts: list[Part], configs: Configs) -> dict[str, bytes]:
    """Return the files of all partitions as one tree; identical ones meet.

    Raises Refused for a path with two contents, and for what FAT cannot hold.
    """
    out: dict[str, bytes] = {}
    owner: dict[str, tuple[Part, str]] = {}
    hint = "use --table gpt, so that the partitions can be copied whole"
    for part in parts:
        if part.kind == "raw":
            raise Refused(
                f"p{part.number} of the boot disk cannot be merged into a FAT: {part.title}", hint=hint
            )
        if part.odd:
            raise Refused(f"FAT cannot hold the link or special file p{part.number}:{part.odd[0]}", hint=hint)
        for path in sorted(part.files):
            fatimage.check_name(path)
            data = configs.files.get((part.number, path)) or part.read(path)
            other = owner.setdefault(path.casefold(), (part, path))
            if other != (part, path) and out[other[1]] != data:
                raise Refused(
                    f"two different files would have the same name: p{other[0].number}:{other[1]} and "
                    f"p{part.number}:{path}",
                    hint=hint,
                )
            out[other[1]] = data
    return out


def build(image: Image, configs: Configs, extra: dict[str, bytes], scratch: Path) -> None:
    """Make the content of one partition in the file `image.path`, and have its own checker agree.

    `extra` are files that we add, to a FAT only.
    """
    image.path = scratch / f"new-{image.variable}.img"
    stage = scratch / f"stage-{image.variable}"
    if image.fresh:
        files = {**merged_files(image.parts, configs)} if image.parts else {}
        files = overlaid(files, extra)
        entries = sum(1 + -(-len(path) // 13) for path in files if path.count("/") == 1)
        fatimage.make(
            image.path,
            image.size,
            sector_size=image.sector_size,
            label=image.label,
            volume_id=int(image.uuid.replace("-", ""), 16),
            root_entries=2 * entries + 64,
        )
        fatimage.put_files(image.path, files, stage)
        fatimage.verify(image.path)
        return
    part = image.parts[0]
    mine = {path: data for (number, path), data in configs.files.items() if number == part.number}
    if part.image is not None:
        image.path = part.image.path
        if image.uuid != part.uuid:
            part.image.set_uuid(image.uuid)
        for path, data in mine.items():
            part.image.replace(path, data)
        part.image.verify()
        return
    dump(part.volume, image.path)
    if part.kind == "fat":
        fatimage.mend(image.path)
        fatimage.set_volume_id(image.path, int(image.uuid.replace("-", ""), 16))
        fatimage.put_files(image.path, overlaid(mine, extra), stage)
        fatimage.verify(image.path)


def overlaid(files: dict[str, bytes], extra: dict[str, bytes]) -> dict[str, bytes]:
    """Return `files` with `extra` in place of what has the same name on a FAT."""
    taken = {path.casefold() for path in extra}
    return {**{path: data for path, data in files.items() if path.casefold() not in taken}, **extra}


def home_files(disk: BootDisk, images: list[Image], made: Loader) -> dict[str, bytes]:
    """Return what we put on the folded FAT beside the appliance's files, without the record."""
    main, menu = disk.config
    devices = list(dict.fromkeys((image.variable, image.uuid) for image in images if image.uuid))
    variable = next(image.variable for image in images if main in image.parts)
    return {**made.files, f"{loader.HOME}/grub.cfg": loader.first_config(devices, variable, menu)}


def missing_commands(configs: Configs, *, bios: bool) -> list[str]:
    """Return a warning for each command of the menu that our GRUB lacks under one of the firmwares."""
    used = {name for name in configs.names - BUILT_IN - configs.defined if "=" not in name}
    out: list[str] = []
    for firmware, platform in (("BIOS", loader.BIOS), ("UEFI", loader.UEFI)):
        if firmware == "UEFI" or bios:
            lacking = sorted(used - loader.commands_of(platform))
            out += [f"the menu uses {name}, which GRUB does not have under {firmware}" for name in lacking]
    return out


def record(disk: BootDisk, images: list[Image], strategy: str, facts: dict[str, object]) -> bytes:
    """Return the record of a fold: what came from where, and what a later check compares."""
    main, menu = disk.config
    document = {
        "onebay": __version__,
        "format": 1,
        "strategy": strategy,
        "boot_disk": disk.identity,
        "menu": {"partition": main.number, "path": menu},
        "partitions": [
            {
                "from": [part.number for part in image.parts],
                "old_uuids": [part.uuid for part in image.parts],
                "number": image.number,
                "start": image.start,
                "size": image.size,
                "uuid": image.uuid,
                "home": image.home,
            }
            for image in images
        ],
        **facts,
    }
    return json.dumps(document, indent=1).encode() + b"\n"
