"""Miniature appliances to cut the power of, and what the field's own tools say of them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Overlay, Volume
from onebay.sample.build import Sample
from tests.crash.recording import GRAIN, Replayed, Soiled

MIB = 1 << 20
BLOCK = 4096
CHUNK = 1 << 20


def tool(*argv: object, ok: tuple[int, ...] = (0,)) -> str:
    """Run a tool; its output is in the failure."""
    path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        [str(arg) for arg in argv],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": path, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode in ok, f"{argv}: {done.returncode}\n{text[-3000:]}"
    return text


@dataclass(frozen=True)
class Place:
    """Where the data volume's file system begins on the disk, in bytes, and its kind."""

    start: int
    kind: str


def place_of(sample: Sample) -> Place:
    """Work out the place from the reports of sfdisk, mdadm and LVM: our own mapping is not asked."""
    golden = sample.golden
    table = json.loads(golden["data.sfdisk.json"])["partitiontable"]
    number = sample.layout.data_number
    node = next(p for p in table["partitions"] if re.search(rf"\D{number}$", p["node"]))
    start = node["start"] * table["sectorsize"]
    offset = re.search(r"Data Offset : (\d+) sectors", golden["md2.examine"])
    assert offset
    start += int(offset[1]) * 512
    if sample.layout.group:
        (pv,) = json.loads(golden["pvs.json"])["report"][0]["pv"]
        (vg,) = json.loads(golden["vgs.json"])["report"][0]["vg"]
        lvs = json.loads(golden["lvs.json"])["report"][0]["lv"]
        lv = next(each for each in lvs if "reserved" not in each["lv_name"])
        first = int(re.findall(r":(\d+)-\d+$", lv["seg_pe_ranges"])[0])
        start += int(pv["pe_start"].rstrip("B")) + first * int(vg["vg_extent_size"].rstrip("B"))
    return Place(start, sample.layout.filesystem)


def manifest_of(sample: Sample) -> dict[str, str]:
    """Return path -> SHA-256 of every file of the data volume, as sha256sum wrote it inside the sample."""
    lines = sample.golden["volume1.sha256"].splitlines()
    assert len(lines) > 50
    return {path.lstrip("\\"): digest for digest, path in (line.split("  ", 1) for line in lines)}


class Bench:
    """A file with part of the disk, as it was, that takes the form of one state after the other.

    Tools look at it; afterwards it is what it was.
    """

    def __init__(self, path: Path, base: Volume, start: int) -> None:
        self.path, self.base, self.start = path, base, start
        with path.open("wb") as file:
            file.truncate(base.size - start)
            for low, high in base.data(start, base.size):
                for at in range(low, high, CHUNK):
                    file.seek(at - start)
                    file.write(base.read(at, min(CHUNK, high - at)))

    @contextmanager
    def showing(self, state: Overlay) -> Iterator[Path]:
        """Let the file hold what `state` holds, an overlay on the base or on a state of the base."""
        numbers = {number for number in state.pages if number * BLOCK >= self.start}
        if isinstance(state.base, Replayed):
            below = {sector * GRAIN // BLOCK for sector in state.base.content}
            numbers |= {number for number in below if number * BLOCK >= self.start}
        volume = FileVolume(self.path, writable=True)
        try:
            for number in numbers:
                size = min(BLOCK, state.size - number * BLOCK)
                volume.write(number * BLOCK - self.start, state.read(number * BLOCK, size))
            yield self.path
        finally:
            for number in numbers:
                size = min(BLOCK, self.base.size - number * BLOCK)
                volume.write(number * BLOCK - self.start, self.base.read(number * BLOCK, size))
            volume.close()


class Judge:
    """The field's own tools, read-only, on states of one disk."""

    def __init__(self, sample: Sample, base: Volume, folder: Path) -> None:
        self.sample, self.base, self.folder = sample, base, folder
        self.place = place_of(sample)
        self.manifest = manifest_of(sample)
        assert self.place.start % BLOCK == 0
        self.whole = Bench(folder / "disk.img", base, 0)
        self.volume = Bench(folder / "volume.img", base, self.place.start)
        self.count = 0

    def close(self) -> None:
        """Remove the files."""
        self.whole.path.unlink()
        self.volume.path.unlink()

    def table(self, state: Overlay) -> None:
        """The partition table is fit for use; a GPT may have one good copy only."""
        with self.whole.showing(state) as path:
            if state.sector_size != 512:
                return  # they take every file for a disk with sectors of 512 bytes
            if json.loads(tool("sfdisk", "--json", path))["partitiontable"]["label"] == "dos":
                tool("sfdisk", "--verify", path)
            else:
                found = tool("sgdisk", "-v", path)
                assert "No problems found" in found, found

    def file_system(self, state: Overlay) -> None:
        """The checker of the data volume's file system is content."""
        self.count += 1
        with self.volume.showing(state) as path:
            if self.place.kind == "ext4":
                tool("e2fsck", "-fn", path)
            else:
                tool("btrfs", "check", "--readonly", path)

    def files(self, state: Overlay) -> None:
        """Every file of the data volume has the content of the manifest."""
        out = self.folder / "files"
        out.mkdir()
        try:
            with self.volume.showing(state) as path:
                if self.place.kind == "ext4":
                    tool("debugfs", "-R", f"rdump / {out}", path)
                else:
                    tool("btrfs", "restore", "-i", "-s", path, out)
            for name, digest in self.manifest.items():
                found = hashlib.sha256((out / name).read_bytes()).hexdigest()
                assert found == digest, name
        finally:
            tool("rm", "-rf", out)

    @cached_property
    def data_blocks(self) -> set[int]:
        """Numbers of the disk's 4096-byte blocks that hold the content of files, found by their content.

        No file system is asked: whatever block looks like one of a file's must not be written.
        """
        out = self.folder / "content"
        out.mkdir()
        state = Overlay(self.base)
        with self.volume.showing(state) as path:
            if self.place.kind == "ext4":
                tool("debugfs", "-R", f"rdump / {out}", path)
            else:
                tool("btrfs", "restore", "-i", "-s", path, out)
        wanted = set()
        for name in self.manifest:
            raw = (out / name).read_bytes()
            wanted |= {raw[at : at + 1024] for at in range(0, len(raw) - 1023, 1024)}
        tool("rm", "-rf", out)
        wanted.discard(bytes(1024))
        found = set()
        for at in range(self.place.start, self.base.size - BLOCK, 1024):
            if self.base.read(at, 1024) in wanted:
                found.add(at // BLOCK)
        assert len(found) > 300
        return found


def soiled(sample: Sample, growth: int, dirt: ExtentSet | None = None) -> Soiled:
    """Return the sample's data disk on a larger disk that was in use before, also in `dirt`."""
    disk = FileVolume(sample.data, sector_size=sample.sector_size)
    return Soiled(disk, disk.size + growth, dirt)
