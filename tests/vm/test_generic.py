"""Generic single-disk Linux goes through capture, restore to a larger disk, grow and boot.

All of it with --matrix: the disks take minutes to build. What is short of it is in test_growth.py.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onebay.machine.boot import Firmware, boot
from onebay.machine.worker import Disk, accel, run_job
from onebay.sample.generic import Generic, build
from tests.story import inspect, onebay

pytestmark = pytest.mark.vm

MIB = 1 << 20
SIZE = 6 << 30
MATRIX: list[tuple[str, Firmware]] = [
    *(
        (kind, firmware)
        for kind in ("cloud-ext4", "cloud-btrfs", "cloud-xfs", "installer-crypt")
        for firmware in ("bios", "uefi")
    ),
    ("installer-mbr", "bios"),
]


@dataclass(frozen=True)
class Told:
    """A disk that was captured and restored to a larger one, and grown."""

    generic: Generic
    folder: Path
    image: Path
    restored: Path


@pytest.fixture(scope="module")
def told(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Told]]:
    """The stories told so far, one at a time, for they are large."""
    found: dict[str, Told] = {}
    yield found
    for story in found.values():
        shutil.rmtree(story.folder, ignore_errors=True)


def tell(kind: str, told: dict[str, Told], cache: Path, factory: pytest.TempPathFactory) -> Told:
    """Return the story of a kind of disk."""
    if kind not in told:
        for old in told.values():
            shutil.rmtree(old.folder, ignore_errors=True)
        told.clear()
        generic = build(kind, cache=cache)
        folder = factory.mktemp("generic")
        story = told[kind] = Told(generic, folder, folder / "debian.raw.zst", folder / "restored.img")
        onebay("capture", generic.disk, story.image)
        onebay("restore", story.image, story.restored, "--size", str(SIZE), "--cache", cache)
        if kind == "installer-crypt":
            # all of the disk's end is LUKS, where nobody can tell what is free
            options = ["--key-file", generic.key, "--journal", folder / "journal", "--cache", cache]
            onebay("grow", story.restored, *options)
    return told[kind]


def volume_of(output: str) -> int:
    """Return the size of the volume with the files, as the system printed it."""
    match = re.search(r"ONEBAY-MANIFEST OK .* volume=(\d+)", output)
    assert match
    return int(match[1])


@pytest.mark.parametrize(("kind", "firmware"), MATRIX)
def test_grown_disk_boots(
    kind: str,
    firmware: Firmware,
    told: dict[str, Told],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    story = tell(kind, told, cache, tmp_path_factory)
    before, after = inspect(story.generic.disk), inspect(story.restored)
    assert [part["number"] for part in table_of(before)] == [part["number"] for part in table_of(after)]
    assert [part["uuid"] for part in table_of(before)] == [part["uuid"] for part in table_of(after)]
    result = boot(
        story.restored,
        log=tmp_path / "serial.log",
        firmware=firmware,
        expect=story.generic.verdict,
        timeout=900,
        accel=accel(cache),
    )
    assert result.found
    grown = volume_of(result.output) - volume_of(story.generic.expect)
    assert grown > (SIZE - story.generic.disk.stat().st_size) * 95 // 100


def table_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the partitions in what inspect says."""
    return list(document["tree"]["facts"]["partitions"])


@pytest.mark.parametrize("kind", ["cloud-btrfs", "cloud-xfs", "installer-crypt"])
def test_second_growth_finds_nothing_to_do(
    kind: str,
    told: dict[str, Told],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    """And the kernel's own checkers are content with what was written to the disk."""
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    story = tell(kind, told, cache, tmp_path_factory)
    key: list[str | Path] = ["--key-file", story.generic.key] if kind == "installer-crypt" else []
    done = onebay("grow", story.restored, "--cache", cache, *key)
    assert "nothing was written" in done.stdout
    (tmp := story.folder / "share").mkdir(exist_ok=True)
    shutil.copyfile(story.generic.key if key else __file__, tmp / "key")
    script = f"""set -eu
        modprobe -a btrfs xfs ext4 dm-crypt
        case {kind} in
            cloud-btrfs) btrfs check --readonly /dev/vdb1 ;;
            cloud-xfs) xfs_repair -n /dev/vdb1 ;;
            *)
                cryptsetup open --readonly --key-file /mnt/share/key /dev/vdb4 crypt
                vgchange -q --activate y debian-vg
                e2fsck -fn /dev/debian-vg/root
                ;;
        esac"""
    assert run_job(script, [Disk(story.restored)], cache=cache, share=tmp).status == 0


def test_mbr_becomes_gpt_and_boots(
    told: dict[str, Told],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """GRUB as grub-install put it there goes on under the GPT: it is of the build that is installed here."""
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    story = tell("installer-mbr", told, cache, tmp_path_factory)
    onebay("grow", story.restored, "--table", "gpt")
    numbers = [part["number"] for part in table_of(inspect(story.restored))]
    assert numbers == [1, 5, 6, 11]
    result = boot(
        story.restored,
        log=tmp_path / "serial.log",
        expect=story.generic.verdict,
        timeout=900,
        accel=accel(cache),
    )
    assert result.found
