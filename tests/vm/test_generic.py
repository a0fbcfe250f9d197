"""Generic single-disk Linux goes through capture, restore to a larger and to the smallest disk, and boots.

All of it with --matrix: the disks take minutes to build. What is short of it is in test_growth.py,
test_togpt_boots.py and tests/op/test_shrink_limits.py.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onebay.machine.boot import BootResult, Firmware, boot
from onebay.machine.worker import Disk, accel, run_job
from onebay.sample.generic import KINDS, Generic, build
from tests.story import inspect, onebay

pytestmark = pytest.mark.vm

SIZE = 6 << 30
CHECKS = {
    "cloud-ext4": "e2fsck -fn /dev/vdb1",
    "cloud-btrfs": "btrfs check --readonly /dev/vdb1",
    "cloud-xfs": "xfs_repair -n /dev/vdb1",
    "installer-crypt": """cryptsetup open --readonly --key-file /mnt/share/key /dev/vdb4 crypt
        vgchange -q --activate y debian-vg
        e2fsck -fn /dev/debian-vg/root
        vgchange -q --activate n debian-vg
        cryptsetup close crypt""",
    "installer-mbr": "e2fsck -fn /dev/vdb1; e2fsck -fn /dev/vdb6",
}


# what these stand on keeps its size, so only free space behind it goes
KEEPING = ("cloud-xfs", "installer-crypt")
BIOS_ONLY = "it was installed under BIOS and has no ESP"


def boots(generic: Generic, disk: Path, firmware: Firmware, cache: Path) -> BootResult:
    """Boot a disk and wait for its own check of its files."""
    if (generic.kind, firmware) == ("installer-mbr", "uefi"):
        pytest.skip(BIOS_ONLY)
    log = disk.with_suffix(f".{firmware}.log")
    options = {"firmware": firmware, "timeout": 900, "accel": accel(cache)}
    return boot(disk, log=log, expect=generic.verdict, **options)  # type: ignore[arg-type]


def refuse_errors(generic: Generic, disks: list[Path], folder: Path, cache: Path) -> None:
    """Have the kernel's own checkers look at disks."""
    (share := folder / "share").mkdir()
    if generic.kind == "installer-crypt":
        shutil.copyfile(generic.key, share / "key")
    script = "set -eu\nmodprobe -a btrfs xfs ext4 dm-crypt\n"
    for letter, _ in zip("bcd", disks, strict=False):
        script += CHECKS[generic.kind].replace("/dev/vdb", f"/dev/vd{letter}") + "\n"
    done = run_job(script, [Disk(disk, readonly=True) for disk in disks], cache=cache, share=share)
    assert done.status == 0


@dataclass(frozen=True)
class Told:
    """A disk that was captured and restored to a larger one, and grown."""

    generic: Generic
    folder: Path
    restored: Path
    cache: Path

    @property
    def key(self) -> list[str | Path]:
        """The options that open what is inside."""
        # all of that disk's end is LUKS, where nobody can tell what is free for the journal
        options: list[str | Path] = ["--key-file", self.generic.key, "--journal", self.folder / "journal"]
        return options if self.generic.kind == "installer-crypt" else []


@pytest.fixture(scope="module", params=KINDS)
def told(
    request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Told]:
    """One story after the other; its files go away before the next begins, for they are large."""
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    generic = build(request.param, cache=cache)
    folder = tmp_path_factory.mktemp("generic")
    story = Told(generic, folder, folder / "restored.img", cache)
    image = folder / "debian.raw.zst"
    onebay("capture", generic.disk, image)
    onebay("restore", image, story.restored, "--size", str(SIZE), "--cache", cache, *story.key)
    yield story
    shutil.rmtree(folder, ignore_errors=True)


def table_of(disk: Path) -> list[dict[str, Any]]:
    """Return the partitions by what inspect says."""
    return list(inspect(disk)["tree"]["facts"]["partitions"])


def volume_of(output: str) -> int:
    """Return the size of the volume with the files, as the system printed it."""
    match = re.search(r"ONEBAY-MANIFEST OK .* volume=(\d+)", output)
    assert match
    return int(match[1])


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_grown_disk_boots(told: Told, firmware: Firmware) -> None:
    before, after = table_of(told.generic.disk), table_of(told.restored)
    for key in ("number", "uuid", "type", "start"):
        assert [part[key] for part in before] == [part[key] for part in after]
    found = boots(told.generic, told.restored, firmware, told.cache)
    grown = volume_of(found.output) - volume_of(told.generic.expect)
    assert grown > (SIZE - told.generic.disk.stat().st_size) * 95 // 100


def test_second_growth_finds_nothing_to_do(told: Told) -> None:
    """And the kernel's own checkers are content with what was written to the disk."""
    done = onebay("grow", told.restored, "--cache", told.cache, *told.key)
    assert "nothing was written" in done.stdout
    refuse_errors(told.generic, [told.restored], told.folder, told.cache)


def test_mbr_becomes_gpt_and_boots(told: Told) -> None:
    """GRUB as grub-install put it there goes on under the GPT: it is of the build that is installed here."""
    if told.generic.kind != "installer-mbr":
        pytest.skip("has a GPT already")
    with told.restored.open("r+b") as file:
        file.truncate(SIZE + (1 << 20))  # the last partition fills the disk, and a GPT needs room behind it
    onebay("grow", told.restored, "--table", "gpt")
    assert [part["number"] for part in table_of(told.restored)] == [1, 5, 6, 11]
    assert boots(told.generic, told.restored, "bios", told.cache).found


@dataclass(frozen=True)
class Smallest:
    """A disk that was made as small as it gets: `shrunk` on a MiB, `restored` to exactly `floor` bytes."""

    generic: Generic
    shrunk: Path
    image: Path
    restored: Path
    floor: int
    cache: Path


@pytest.fixture(scope="module", params=KINDS)
def smallest(
    request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Smallest]:
    """From the disk itself, or from one in a larger disk where all that can go is the space behind it."""
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    generic = build(request.param, cache=cache)
    folder = tmp_path_factory.mktemp("smallest")
    disk, image, shrunk, restored = generic.disk, *(folder / each for each in ("a.raw.zst", "b.img", "c.img"))
    onebay("capture", disk, image)
    if generic.kind in KEEPING:
        disk = folder / "larger.img"
        onebay("restore", image, disk, "--size", str(SIZE), "--no-grow")
        onebay("capture", disk, image, "--yes")
    document = json.loads(onebay("shrink", disk, "--output", shrunk, "--json", "--cache", cache).stdout)
    floor = document["floor"]
    onebay("restore", image, restored, "--size", str(floor), "--verify", "--cache", cache)
    yield Smallest(generic, shrunk, image, restored, floor, cache)
    shutil.rmtree(folder, ignore_errors=True)


def test_smallest_disk_is_whole(smallest: Smallest, tmp_path: Path) -> None:
    old = smallest.generic.disk
    size = old.stat().st_size
    keeps = smallest.generic.kind in KEEPING
    assert smallest.floor == size if keeps else smallest.floor < size * 3 // 4
    assert smallest.restored.stat().st_size == smallest.floor
    assert 0 <= smallest.shrunk.stat().st_size - smallest.floor < 1 << 20
    for disk in (smallest.restored, smallest.shrunk):
        for key in ("number", "uuid", "type", "start"):
            assert [part[key] for part in table_of(old)] == [part[key] for part in table_of(disk)]
        assert inspect(disk)["boot"] == inspect(old)["boot"]
        done = onebay("grow", disk, "--dry-run", "--cache", smallest.cache)
        assert "nothing to do" in done.stdout
    refuse_errors(smallest.generic, [smallest.restored, smallest.shrunk], tmp_path, smallest.cache)


def test_one_sector_less_is_refused(smallest: Smallest, tmp_path: Path) -> None:
    if smallest.generic.kind == "cloud-btrfs":
        pytest.skip("how far a btrfs gets, its kernel finds out")
    size = str(smallest.floor - 512)
    done = onebay("restore", smallest.image, tmp_path / "no", "--size", size, status=3)
    assert f"cannot be so small: expected >= {smallest.floor} bytes" in done.stderr


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_smallest_disk_boots(smallest: Smallest, firmware: Firmware) -> None:
    assert boots(smallest.generic, smallest.restored, firmware, smallest.cache).found


def test_what_shrink_wrote_boots(smallest: Smallest) -> None:
    assert boots(smallest.generic, smallest.shrunk, "bios", smallest.cache).found
