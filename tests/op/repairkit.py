"""Folded miniature disks, and the ways to damage them, for tests/repair/NNN-what/case.json.

A case names a disk, the damage as a list of steps, a kit, and what repair must do. Steps use the field's own
tools or write bytes; positions are sums of numbers (with K, M, G) and of names: home (first byte of the boot
partition), home.fat and home.fats (its tables), p1 .. p12, p3.size, core, tail, end.
"""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import foldkit

from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Volume, open_disk
from onebay.fs.fat import Fat
from onebay.ops.capture import capture, look
from onebay.ops.fold import plan_fold
from onebay.ops.foldrecord import read_record
from onebay.ops.kit import find_copies, make_kit
from onebay.ops.kitformat import parse_kit
from onebay.ops.repair.survey import survey
from onebay.ops.run import execute
from onebay.table import GptTable, Table
from onebay.tree import discover

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
CORPUS = Path(__file__).parents[1] / "repair"
KERNEL = b"kernel" * 4000
STAGING = "staging"


@dataclass
class Folded:
    """A folded disk before any damage: `places` are the names that cases may use."""

    path: Path
    places: dict[str, int] = field(default_factory=dict)

    def at(self, text: str) -> int:
        """Return the value of a sum."""
        total = 0
        for term in text.replace("-", "+-").split("+"):
            sign, word = (-1, term[1:]) if term.startswith("-") else (1, term)
            if word[-1:] in UNITS and word[:-1].isdigit():
                total += sign * int(word[:-1]) * UNITS[word[-1]]
            elif word:
                total += sign * (int(word) if word.isdigit() else self.places[word])
        return total


def build(folder: Path, name: str) -> Folded:
    """Make a data disk and, unless it is to stay plain, fold a boot disk into it."""
    layouts = {"v8-mbr": ("v8-mbr", None), "v9-gpt": ("v9-gpt", None), "v8-to-gpt": ("v8-mbr", "gpt")}
    layouts["unrecorded"] = ("v9-gpt", None)
    layout, table = layouts.get(name, ("v8-mbr", None))
    folder.mkdir()
    disk = foldkit.data_disk_4k(folder) if name == "4k" else foldkit.data_disk(folder, layout)
    if name != "plain":
        (folder / STAGING).mkdir()
        boot = open_disk(foldkit.boot_disk(folder, foldkit.files(kernel=KERNEL, ramdisk=b"ramdisk" * 3000)))
        target = open_disk(disk, writable=True)
        execute(plan_fold(boot, target, scratch=folder / STAGING, table=table))
        soil(target)
        target.close()
    folded = Folded(disk, places(disk))
    if name == "unrecorded":  # as if somebody else had made it
        spoken = [["zero", "tail", "16M"], ["mtools", ["mdel", "-i", "HOME", "::/onebay/fold.json"]]]
        damage(folded, disk, spoken)
    return folded


def soil(disk: FileVolume) -> None:
    """Fill the ends of every free stretch of the boot partitions: free space is never clean."""
    chance = random.Random(5)
    for layer in discover([disk]).layers:
        volume = layer.below[0]
        if layer.kind in ("fat", "ext") and volume.size < 256 << 20 and not volume.name.endswith("p1"):
            for start, end in ExtentSet.single(0, volume.size) - layer.used()[0]:
                volume.write(start, chance.randbytes(min(1024, end - start)))
                volume.write(max(start, end - 1024), chance.randbytes(min(1024, end - start)))


@contextmanager
def looped(path: Path) -> Iterator[str]:
    """A loop device with sectors of 4096 bytes over a disk; needs root."""
    device = foldkit.run("losetup", "-b", "4096", "-f", "--show", path).strip()
    try:
        yield device
    finally:
        foldkit.run("losetup", "-d", device)


def places(path: Path) -> dict[str, int]:
    """Return the names of places on an undamaged disk."""
    disk = open_disk(path)
    tree = discover([disk])
    table = tree.on(disk)
    assert isinstance(table, Table)
    found = {"end": disk.size}
    for part in table.partitions:
        found |= {f"p{part.number}": part.start, f"p{part.number}.size": part.size}
        layer = tree.on(part.volume)
        record = read_record(layer)
        if isinstance(layer, Fat) and record is not None:
            geometry = layer.geometry
            found |= {"home": part.start, "home.fat": part.start + geometry.fat_at}
            found["home.fats"] = geometry.boot.fats * geometry.fat_size
            if record.core is not None:
                found["core"] = record.core.at
    for copy in find_copies(disk, table):
        assert copy.kit is not None, copy
        found["tail"] = copy.at
    disk.close()
    return found


def damage(folded: Folded, path: Path, steps: list[list[Any]]) -> None:
    """Carry out the damage of a case on the copy `path`."""
    for verb, *words in steps:
        if verb in ("sfdisk", "sgdisk"):
            argv = [str(path) if word == "DISK" else word for word in words[0]]
            foldkit.run(verb, *argv, stdin=words[1] if len(words) > 1 else "")
        elif verb == "mtools":
            home = f"{path}@@{folded.places['home']}"
            foldkit.run(*[home if word == "HOME" else word for word in words[0]])
        elif verb == "mput":
            source = path.with_suffix(".put")
            source.write_text(words[1])
            foldkit.run("mcopy", "-o", "-i", f"{path}@@{folded.places['home']}", source, f"::{words[0]}")
            source.unlink()
        elif verb == "fdisk-4k":
            with looped(path) as device:
                foldkit.run("sgdisk", *words[0], device)
        elif verb == "truncate":
            foldkit.run("truncate", "-s", words[0], path)
        else:
            with path.open("r+b") as file:
                spoil(folded, file, verb, words)


def spoil(folded: Folded, file: Any, verb: str, words: list[str]) -> None:
    """Write bytes."""
    if verb == "rot":  # inside a file, found by its content
        at = find(folded.path, b"kernel" * 1000, folded.places["home"])
        data = b"KERNEL"
    elif verb == "rot-ext":
        at = find(folded.path, words[1].encode() * 1000, folded.at(words[0]))
        data = b"rotten"
    else:
        at = folded.at(words[0])
        file.seek(at)
        if verb == "zero":
            data = bytes(folded.at(words[1]))
        elif verb == "random":
            data = random.Random(at).randbytes(folded.at(words[1]))
        elif verb == "hex":
            data = bytes.fromhex(words[1])
        elif verb == "text":
            data = words[1].encode()
        elif verb in ("or", "xor"):
            mask = int(words[1], 16)
            old = file.read(1)[0]
            data = bytes([old | mask if verb == "or" else old ^ mask])
        elif verb == "md12":
            at, data = at + 4096, md_superblock(folded.at(words[1]))
        else:
            raise AssertionError(verb)
    file.seek(at)
    file.write(data)


def find(path: Path, needle: bytes, start: int) -> int:
    """Return where `needle` stands behind byte `start` of a disk."""
    with path.open("rb") as file:
        file.seek(start)
        block = file.read(128 << 20)
    at = block.find(needle)
    assert at >= 0
    return start + at


def md_superblock(data_size: int) -> bytes:
    """Return an md 1.2 superblock of a RAID1 with one member that has `data_size` bytes (mdadm, super1.c)."""
    raw = bytearray(512)
    struct.pack_into("<IIII", raw, 0, 0xA92B4EFC, 1, 0, 0)
    raw[16:32] = bytes(range(16))
    struct.pack_into("<QIIQIIII", raw, 64, 1, 1, 0, data_size // 512, 0, 1, 0, 0)
    struct.pack_into("<QQQQ", raw, 128, 2048, data_size // 512, 8, 0)
    raw[168:184] = bytes(range(16, 32))
    struct.pack_into("<QQQII", raw, 192, 1, 1, (1 << 64) - 1, 0, 1)
    total = sum(struct.unpack("<64I", raw[:256])) + struct.unpack_from("<H", raw, 256)[0]
    struct.pack_into("<I", raw, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
    return bytes(raw)


def kit_of(path: Path) -> bytes:
    """Return the kit of a disk."""
    disk = open_disk(path)
    out = io.BytesIO()
    make_kit(discover([disk]), out)
    disk.close()
    return out.getvalue()


def image_of(path: Path, image: Path) -> Path:
    """Capture a disk."""
    if not image.exists():
        disk = open_disk(path)
        capture(look(disk), image, level=1)
        disk.close()
    return image


def same(left: Volume, right: Volume) -> bool:
    """Whether two disks of one size hold the same bytes; holes are skipped."""
    assert left.size == right.size
    return not list(differences(left, right, 0, left.size))


def differences(left: Volume, right: Volume, start: int, end: int) -> Iterator[int]:
    """Yield the MiB in which two disks differ."""
    seen: set[int] = set()
    for disk in (left, right):
        for low, high in disk.data(start, min(end, left.size, right.size)):
            for at in range(low // (1 << 20) * (1 << 20), high, 1 << 20):
                first, last = max(at, start), min(at + (1 << 20), end)
                if at not in seen and left.read(first, last - first) != right.read(first, last - first):
                    yield at
                seen.add(at)


def same_boot(kit: bytes, disk: Volume) -> list[str]:
    """Return the regions of the kit, made before the damage, that the disk does not have."""
    known = parse_kit(kit, "before")
    return [
        region.what
        for region in known.facts.regions
        if any(disk.read(at, len(data)) != data for at, data in known.pieces(region))
    ]


def files(path: Path) -> list[dict[str, str]]:
    """Return the digests of all files on all FATs of a disk."""
    disk = open_disk(path)
    found = [
        {name: seen.sha256 for name, seen in survey(layer).items()}
        for layer in discover([disk]).of_kind("fat")
        if isinstance(layer, Fat)
    ]
    disk.close()
    return found


def judge(path: Path) -> None:
    """Have the field's own tools look at the disk: its table, and every FAT on it."""
    disk = open_disk(path)
    if disk.sector_size == 512:
        foldkit.run("sfdisk", "--verify", path)
    else:
        with looped(path) as device:
            foldkit.run("sgdisk", "-v", device)
    tree = discover([disk])
    table = tree.on(disk)
    assert isinstance(table, Table)
    if isinstance(table, GptTable) and disk.sector_size == 512:
        assert "No problems found" in foldkit.run("sgdisk", "-v", path)
    for layer in tree.of_kind("fat") + tree.of_kind("ext"):
        part = next((part for part in table.partitions if part.volume is layer.below[0]), None)
        if part is None or part.number <= 3:
            continue
        copy = path.with_suffix(".part")
        dump(part.volume, copy)
        foldkit.run(*(("fsck.fat", "-n", copy) if layer.kind == "fat" else ("e2fsck", "-fn", copy)))
        copy.unlink()
    disk.close()


def dump(volume: Volume, path: Path) -> None:
    """Copy a partition into a file."""
    with path.open("wb") as file:
        file.truncate(volume.size)
        for start, end in volume.data(0, volume.size):
            file.seek(start)
            file.write(volume.read(start, end - start))


def untouched(before: Path, after: Path) -> list[int]:
    """Return the partitions of the appliance in which repair wrote anything, by the table as it is now."""
    left, right = FileVolume(before), open_disk(after)
    table = discover([right]).on(right)
    assert isinstance(table, Table)
    kept = [part for part in table.partitions if part.number in (1, 2, 3, 5) and not part.is_extended]
    out = [part.number for part in kept if list(differences(left, right, part.start, part.end))]
    left.close()
    right.close()
    return out


def cases() -> list[Path]:
    """Return the corpus."""
    return sorted(CORPUS.glob("[0-9]*/case.json"))


def load(path: Path) -> dict[str, Any]:
    """Return one case."""
    return dict(json.loads(path.read_text()))
