"""Generic single-disk Linux goes through capture, restore to a larger disk, grow and boot.

All of it with --matrix: the disks take minutes to build. What is short of it is in test_growth.py and
test_togpt_boots.py.
"""

from __future__ import annotations

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
        e2fsck -fn /dev/debian-vg/root""",
    "installer-mbr": "e2fsck -fn /dev/vdb1; e2fsck -fn /dev/vdb6",
}


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

    def boots(self, firmware: Firmware) -> BootResult:
        """Boot the disk and wait for its own check of its files."""
        return boot(
            self.restored,
            log=self.folder / f"{firmware}.log",
            firmware=firmware,
            expect=self.generic.verdict,
            timeout=900,
            accel=accel(self.cache),
        )


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
    onebay("restore", image, story.restored, "--size", str(SIZE), "--cache", cache)
    if story.key:
        onebay("grow", story.restored, "--cache", cache, *story.key)
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
    if (told.generic.kind, firmware) == ("installer-mbr", "uefi"):
        pytest.skip("it was installed under BIOS and has no ESP")
    before, after = table_of(told.generic.disk), table_of(told.restored)
    for key in ("number", "uuid", "type", "start"):
        assert [part[key] for part in before] == [part[key] for part in after]
    grown = volume_of(told.boots(firmware).output) - volume_of(told.generic.expect)
    assert grown > (SIZE - told.generic.disk.stat().st_size) * 95 // 100


def test_second_growth_finds_nothing_to_do(told: Told) -> None:
    """And the kernel's own checkers are content with what was written to the disk."""
    done = onebay("grow", told.restored, "--cache", told.cache, *told.key)
    assert "nothing was written" in done.stdout
    (share := told.folder / "share").mkdir()
    if told.key:
        shutil.copyfile(told.generic.key, share / "key")
    script = f"set -eu\nmodprobe -a btrfs xfs ext4 dm-crypt\n{CHECKS[told.generic.kind]}"
    disks = [Disk(told.restored, readonly=True)]
    assert run_job(script, disks, cache=told.cache, share=share).status == 0


def test_mbr_becomes_gpt_and_boots(told: Told) -> None:
    """GRUB as grub-install put it there goes on under the GPT: it is of the build that is installed here."""
    if told.generic.kind != "installer-mbr":
        pytest.skip("has a GPT already")
    with told.restored.open("r+b") as file:
        file.truncate(SIZE + (1 << 20))  # the last partition fills the disk, and a GPT needs room behind it
    onebay("grow", told.restored, "--table", "gpt")
    assert [part["number"] for part in table_of(told.restored)] == [1, 5, 6, 11]
    assert told.boots("bios").found
