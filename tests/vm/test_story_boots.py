"""One disk that came out of the story boots alone, and checks its own data: the whole point."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from onebay.machine.boot import Firmware, boot
from onebay.machine.qemu import Bus
from onebay.machine.worker import accel
from onebay.sample.build import build
from onebay.sample.layout import LAYOUTS
from tests.story import Story, onebay, tell

pytestmark = pytest.mark.vm

NAMES = [layout.name for layout in LAYOUTS]
MATRIX: list[tuple[str, int, Firmware, Bus]] = [
    (name, 512, firmware, bus)
    for name in NAMES
    for firmware in ("bios", "uefi")
    for bus in ("virtio", "sata", "nvme")
]
MATRIX += [("v9-gpt-lvm-ext4", 4096, "uefi", "virtio"), ("v9-gpt-lvm-ext4", 4096, "uefi", "nvme")]
MATRIX += [("v8-mbr-btrfs", 512, "bios", "usb"), ("v8-mbr-btrfs", 512, "uefi", "usb")]
QUICK = [("v8-mbr-btrfs", 512, "bios", "virtio"), ("v8-mbr-btrfs", 512, "uefi", "sata")]


@pytest.fixture(scope="module")
def stories(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, int], Story]]:
    """The stories told so far; the last one is removed before the next is told, for they are large."""
    told: dict[tuple[str, int], Story] = {}
    yield told
    for story in told.values():
        shutil.rmtree(story.folder, ignore_errors=True)


def story_of(
    stories: dict[tuple[str, int], Story],
    name: str,
    sector_size: int,
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    key = (name, sector_size)
    if key not in stories:
        for old in stories.values():
            shutil.rmtree(old.folder, ignore_errors=True)
        stories.clear()
        sample = build(name, cache=cache, sector_size=sector_size)
        stories[key] = tell(sample, tmp_path_factory.mktemp("story") / f"{name}-{sector_size}", filled=False)
    return stories[key]


@pytest.mark.parametrize(("name", "sector_size", "firmware", "bus"), MATRIX)
def test_boots_alone(
    name: str,
    sector_size: int,
    firmware: Firmware,
    bus: Bus,
    stories: dict[tuple[str, int], Story],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if (name, sector_size, firmware, bus) not in QUICK and not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    story = story_of(stories, name, sector_size, cache, tmp_path_factory)
    result = boot(
        story.restored,
        log=tmp_path / "serial.log",
        firmware=firmware,
        bus=bus,
        sector_size=sector_size,
        expect=story.sample.verdict,
        timeout=600,
        accel=accel(cache),
    )
    assert result.found


@pytest.mark.parametrize("way", ["zstd and dd", "bmaptool"])
def test_restored_without_onebay(
    way: str,
    stories: dict[tuple[str, int], Story],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    """The image is a plain zstd file: other people's tools make a disk of it that boots."""
    story = story_of(stories, "v8-mbr-btrfs", 512, cache, tmp_path_factory)
    disk = tmp_path / "disk.img"
    if way == "bmaptool":
        subprocess.run(["bmaptool", "copy", "--nobmap", story.image, disk], check=True, capture_output=True)
    else:
        command = 'zstd -dc "$1" | dd of="$2" bs=4M iflag=fullblock conv=fsync,sparse'
        subprocess.run(["sh", "-c", command, "sh", story.image, disk], check=True, capture_output=True)
        with disk.open("r+b") as file:
            file.truncate(story.folded.stat().st_size)
    onebay("verify", story.image, "--against", disk)
    result = boot(
        disk, log=tmp_path / "serial.log", expect=story.sample.verdict, timeout=600, accel=accel(cache)
    )
    assert result.found


@pytest.mark.parametrize(
    "name", ["disk.qcow2", "disk.vhd", "disk.vmdk", "disk.vdi", "disk.img", "disk.img.gz", "disk.tar.gz"]
)
def test_an_export_boots(
    name: str,
    stories: dict[tuple[str, int], Story],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """What is uploaded to a cloud is a disk that boots; bmaptool and tar make one of what is packed."""
    if name != "disk.qcow2" and not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    story = story_of(stories, "v8-mbr-btrfs", 512, cache, tmp_path_factory)
    disk = tmp_path / name
    packed = name.endswith((".img", ".img.gz"))
    place = ["--for", "gcp"] if name.endswith(".tar.gz") else ["--bmap"] if packed else []
    onebay("export", story.image, disk, *place)
    if packed:
        target = tmp_path / "target.raw"
        subprocess.run(["bmaptool", "copy", disk, target], check=True, capture_output=True)
        onebay("verify", story.image, "--against", target)
        disk = target
    elif name.endswith(".tar.gz"):
        subprocess.run(["tar", "-xzf", disk, "-C", tmp_path], check=True)
        disk = tmp_path / "disk.raw"
    result = boot(
        disk, log=tmp_path / "serial.log", expect=story.sample.verdict, timeout=600, accel=accel(cache)
    )
    assert result.found
