"""The smallest disk of every layout boots alone and finds all its data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from onebay.machine.boot import Firmware, boot
from onebay.machine.worker import accel
from onebay.sample.build import build
from tests.story import inspect, onebay

pytestmark = pytest.mark.vm

CASES: list[tuple[str, int, Firmware]] = [
    ("v8-mbr-btrfs", 512, "bios"),
    ("v9-gpt-lvm-ext4", 512, "uefi"),
    ("shr-mbr-lvm-btrfs", 512, "bios"),
    ("v9-gpt-lvm-ext4", 4096, "uefi"),
]


@pytest.mark.parametrize(("name", "sector_size", "firmware"), CASES)
def test_the_smallest_disk_boots(
    name: str,
    sector_size: int,
    firmware: Firmware,
    cache: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The image of the floor goes to a disk of exactly that size; the image of the whole disk fits it too."""
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    sample = build(name, cache=cache, sector_size=sector_size)
    folded, image, small = tmp_path / "folded.img", tmp_path / "small.raw.zst", tmp_path / "small.img"
    onebay("fold", "--boot", sample.boot, "--data", sample.data, "--output", folded)
    onebay("capture", folded, image, "--minimize")
    onebay("restore", image, small, "--no-grow", "--verify")
    floor = small.stat().st_size
    assert floor < sample.data.stat().st_size * 3 / 4
    before, after = inspect(folded), inspect(small)
    assert before["boot"] == after["boot"]
    onebay("repair", small, "--dry-run")
    log = tmp_path / "serial.log"
    options = {"firmware": firmware, "sector_size": sector_size, "timeout": 600, "accel": accel(cache)}
    assert boot(small, log=log, expect=sample.verdict, **options).found  # type: ignore[arg-type]
    if name == "v9-gpt-lvm-ext4":
        onebay("capture", folded, image, "--yes")
        folded.unlink()
        small.unlink()
        onebay("restore", image, small, "--size", str(floor), "--verify", "--scratch", tmp_path)
        assert boot(small, log=log, expect=sample.verdict, **options).found  # type: ignore[arg-type]
    shutil.rmtree(tmp_path)
