"""The disks and images that the page offers, by keys of ours: no path ever comes from a browser."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import tempfile
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebay.base import tool
from onebay.base.error import Error, Refused, ToolFailed
from onebay.block import DeviceVolume, open_disk, whole_disks
from onebay.web.jobs import ONEBAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUFFIX = ".raw.zst"
MOST_IMAGES = 500  # of a folder that are shown
PATIENCE = 600.0  # seconds for looking at a disk


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as it is now; `size` in bytes, None where it cannot be opened, and `trouble` says why."""

    key: str
    path: Path
    device: bool = False
    size: int | None = None
    model: str = ""
    serial: str = ""
    trouble: str = ""
    fingerprint: str = ""

    @property
    def word(self) -> str:
        """What is typed to confirm that it may be written."""
        name = self.serial or self.path.name
        return name.encode("utf-8", "replace").decode()  # as it is shown


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image of ours in a folder; `size` in bytes."""

    key: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Look:
    """What inspect found: its document and its picture, or why there is none."""

    document: dict[str, Any] | None
    picture: bytes
    trouble: str = ""


class Shelf:
    """What is offered: the disks `paths`, with `machine` those of the machine, and the images in a folder.

    `scratch` is a folder for what goes away with the server.
    """

    def __init__(
        self, scratch: Path, paths: Sequence[Path] = (), *, machine: bool = False, images: Path | None = None
    ) -> None:
        self.scratch = scratch
        self.paths = [path.resolve() for path in paths]
        self.machine, self.images = machine, images.resolve() if images else None
        self.media: dict[str, Path] = {}  # folders under which disks of the machine are mounted, by key
        self.secret = secrets.token_bytes(16)
        self.looks: dict[str, tuple[str, Look]] = {}  # with the fingerprint of the disk that was seen
        self.looking = asyncio.Lock()

    def key(self, path: Path) -> str:
        """Return the name of a path that a browser gets."""
        return hmac.new(self.secret, bytes(path), sha256).hexdigest()[:16]

    def disks(self) -> list[Disk]:
        """Return the disks, as they are now."""
        paths = dict.fromkeys([*self.paths, *(whole_disks() if self.machine else ())])
        return [self.seen(path) for path in paths]

    def seen(self, path: Path) -> Disk:
        """Look how large a disk is and what its name is."""
        try:
            with closing(open_disk(path)) as disk:
                device = isinstance(disk, DeviceVolume)
                names = disk.identity if isinstance(disk, DeviceVolume) else {}
                model, serial = names.get("model", ""), names.get("serial", "")
                mark = disk.fingerprint()
                return Disk(self.key(path), path, device, disk.size, model, serial, fingerprint=mark)
        except Error as error:
            return Disk(self.key(path), path, trouble=str(error))

    def disk(self, key: str) -> Disk:
        """Return the disk that a browser names; raises Refused for any other name."""
        for disk in self.disks():
            if disk.key == key:
                return disk
        raise Refused("no such disk")

    def files(self) -> list[ImageFile]:
        """Return the images, as they are now."""
        return [
            ImageFile(self.key(path), path, path.stat().st_size)
            for folder in (self.images, *self.media.values())
            if folder is not None
            for path in images_in(folder)
        ]

    def file(self, key: str) -> ImageFile:
        """Return the image that a browser names; raises Refused for any other name."""
        for file in self.files():
            if file.key == key:
                return file
        raise Refused("no such image")

    async def look(self, disk: Disk) -> Look:
        """Return what is on a disk: from memory, or by one `onebay inspect` after the other."""
        async with self.looking:
            if not self.looked(disk):
                self.looks[disk.key] = disk.fingerprint, await asyncio.to_thread(inspect, disk)
            return self.looks[disk.key][1]

    def looked(self, disk: Disk) -> bool:
        """Whether it is known what is on this very disk."""
        return self.looks.get(disk.key, ("",))[0] == disk.fingerprint != ""

    def forget(self, keys: Iterable[str] = ()) -> None:
        """Look at these disks anew, or at all."""
        for key in list(keys) or list(self.looks):
            self.looks.pop(key, None)


def images_in(folder: Path) -> list[Path]:
    """Return the images of ours in a folder and in those directly in it, by name; links are not followed."""
    found: list[Path] = []
    try:
        for path in sorted(folder.iterdir()):
            inner = sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else [path]
            found += [file for file in inner if file.name.endswith(SUFFIX) and is_plain(file)]
            if len(found) > MOST_IMAGES:
                break
    except OSError:
        pass  # what was found until then
    return found[:MOST_IMAGES]


def is_plain(path: Path) -> bool:
    """Whether a path is an ordinary file itself."""
    return path.is_file() and not path.is_symlink()


def inspect(disk: Disk) -> Look:
    """Have the command line look at a disk, in a process of its own: its input is hostile.

    An image file is named without its folder, which the pages would repeat in every line.
    """
    short = not disk.device and not disk.path.name.startswith("-")
    path, folder = (Path(disk.path.name), disk.path.parent) if short else (disk.path, None)
    with tempfile.TemporaryDirectory(prefix="onebay-") as scratch:
        picture = Path(scratch) / "disk.svg"
        argv: list[str | Path] = [*ONEBAY, "inspect", "--json", "--svg", picture, path]
        try:
            done = tool.run(argv, timeout=PATIENCE, cwd=folder, ok=range(-64, 256))
            if done.status:
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                return Look(None, b"", said[0] if said else f"ended with status {done.status}")
            return Look(json.loads(done.stdout), picture.read_bytes())
        except ToolFailed as error:
            return Look(None, b"", str(error))
        except (OSError, ValueError) as error:
            return Look(None, b"", f"no answer: {error}")
