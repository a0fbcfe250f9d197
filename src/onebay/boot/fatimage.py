"""FAT file systems made and filled in image files, by mkfs.fat and mtools; no mount, no root.

Times and identities come from the caller or are fixed, so that the same input gives the same bytes.
"""

from __future__ import annotations

import os
import shutil
import struct
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Inconsistent, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MIB = 1 << 20
EPOCH = 1704067200  # 2024-01-01: the time of every file that we write
FORBIDDEN = frozenset('"*:<>?\\|') | {chr(code) for code in range(32)}
FAT16_CLUSTERS = 65500  # a little below the limit of 65524, where implementations disagree
FAT16_LEAST = 4200
FAT32_SIZE = 512 * MIB
BATCH = 200  # names on one command line


def environment() -> dict[str, str]:
    """Variables that make mtools and mkfs.fat repeatable and tolerant of odd geometry."""
    return {"SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1", "MTOOLS_NO_VFAT": "0"}


def cluster_size(size: int, sector_size: int) -> int:
    """Return the cluster size in bytes for a file system of `size` bytes."""
    if size >= FAT32_SIZE:
        return max(4096, sector_size)
    cluster = sector_size
    while size // cluster > FAT16_CLUSTERS:
        cluster *= 2
    return cluster


def room_needed(files: Mapping[str, int], cluster: int) -> int:
    """Return the bytes that `files` (path -> size) and their folders take, in whole clusters."""
    entries: dict[str, int] = {}
    total = 0
    for path, size in files.items():
        total += -(-size // cluster) * cluster
        folder, _, name = path.strip("/").rpartition("/")
        entries[folder] = entries.get(folder, 0) + 32 * (1 + -(-len(name) // 13))
        while folder:
            folder, _, name = folder.rpartition("/")
            entries.setdefault(folder, 0)
            entries[folder] += 32 * (1 + -(-len(name) // 13))
    return total + sum(-(-(size + 64) // cluster) * cluster for size in entries.values())


def overhead(size: int, sector_size: int) -> int:
    """Return the bytes of a file system of `size` bytes that no file can have, at most."""
    entry = 4 if size >= FAT32_SIZE else 2
    return 2 * entry * (size // cluster_size(size, sector_size)) + 128 * 1024 + 32 * sector_size


def make(
    path: Path, size: int, *, sector_size: int, label: str, volume_id: int, root_entries: int = 512
) -> None:
    """Make a FAT16 or FAT32 of `size` bytes in the new file `path`; raises Refused where it is too small."""
    cluster = cluster_size(size, sector_size)
    if size // cluster < FAT16_LEAST:
        raise Refused("too small for a FAT16", expected=FAT16_LEAST * cluster, found=size)
    with path.open("xb") as file:
        file.truncate(size)
    bits = 32 if size >= FAT32_SIZE else 16
    argv = ["mkfs.fat", "--invariant", "-F", str(bits)]
    argv += ["-S", str(sector_size), "-s", str(cluster // sector_size)]
    argv += ["-i", f"{volume_id:08x}", "-n", label or "NO NAME"]
    if bits == 16:
        argv += ["-r", str(max(512, -(-root_entries // 512) * 512))]
    tool.run([*argv, path], env=environment())


def check_name(path: str) -> None:
    """Raise Refused where FAT cannot hold the name of a file."""
    for name in path.strip("/").split("/"):
        if not name or name in (".", "..") or FORBIDDEN & set(name) or name[-1] in ". " or len(name) > 255:
            raise Refused(f"FAT cannot hold a file of this name: {path!r}")


def put_files(image: Path, files: Mapping[str, bytes], stage: Path) -> None:
    """Write `files` (absolute path -> content) into a FAT, replacing what is there; `stage` is a new folder.

    Raises Refused for names that FAT cannot hold, ToolFailed where it becomes full.
    """
    folders: dict[str, list[str]] = {}
    for path in sorted(files):
        check_name(path)
        folder, _, name = path.strip("/").rpartition("/")
        folders.setdefault(folder, []).append(name)
    make_folders(image, folders)
    for number, (folder, names) in enumerate(sorted(folders.items())):
        place = stage / str(number)
        place.mkdir(parents=True)
        for name in names:
            prefix = f"{folder}/" if folder else ""
            (place / name).write_bytes(files[f"/{prefix}{name}"])
            os.utime(place / name, (EPOCH, EPOCH))
        for first in range(0, len(names), BATCH):
            batch = [place / name for name in names[first : first + BATCH]]
            tool.run(["mcopy", "-o", "-m", "-i", image, *batch, f"::/{folder}"], env=environment())
        shutil.rmtree(place)


def make_folders(image: Path, folders: Iterable[str]) -> None:
    """Make folders and what they lie in, where they are not there."""
    wanted: set[str] = set()
    for folder in folders:
        parts = folder.split("/") if folder else []
        wanted.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    if wanted:
        # sorted: a folder comes after the one it lies in; -D s skips those that exist
        names = [f"::/{folder}" for folder in sorted(wanted)]
        tool.run(["mmd", "-D", "s", "-i", image, *names], env=environment(), ok=(0, 1))


def set_volume_id(image: Path, volume_id: int) -> None:
    """Give a FAT another serial number, also in FAT32's backup of the boot sector.

    Source: Microsoft FAT specification 1.03, sections 3.1 to 3.3: BS_VolID at 39 or 67, BPB_BkBootSec at 50.
    """
    with image.open("r+b") as file:
        boot = file.read(512)
        if len(boot) < 512:
            raise Inconsistent("fat: no boot sector", volume=image.name)
        sector_size, fat_size = struct.unpack_from("<H", boot, 11)[0], struct.unpack_from("<H", boot, 22)[0]
        at = 39 if fat_size else 67
        file.seek(at)
        file.write(struct.pack("<I", volume_id))
        backup = struct.unpack_from("<H", boot, 50)[0]
        if not fat_size and 0 < backup < 64:
            file.seek(backup * sector_size + at)
            file.write(struct.pack("<I", volume_id))


def mend(image: Path) -> None:
    """Clear the dirty flag and what fsck.fat mends by itself; raises ToolFailed where more is wrong."""
    tool.run(["fsck.fat", "-a", image], env=environment(), ok=(0, 1))


def verify(image: Path) -> None:
    """Raise ToolFailed where fsck.fat finds anything."""
    tool.run(["fsck.fat", "-n", image], env=environment())
