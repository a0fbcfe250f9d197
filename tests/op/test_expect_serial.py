"""--expect-serial and --expect-disk: what writes to a disk refuses another one than somebody looked at.

tests/vm/test_rescue_web.py has disks with serial numbers; an image file has none, which is another one too.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from onebay.block import open_disk

MIB = 1 << 20


def onebay(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onebay", *map(str, argv)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("verb", ["grow", "repair", "restore", "smaller", "fold", "new"])
def test_another_disk_is_refused(tmp_path: Path, verb: str) -> None:
    disk, image, boot = tmp_path / "disk.img", tmp_path / "image.raw.zst", tmp_path / "boot.img"
    disk.write_bytes(b"photos" * 1000 + bytes(8 * MIB - 6000))
    boot.write_bytes(bytes(MIB))
    assert onebay("capture", disk, image).returncode == 0
    disk.write_bytes(disk.read_bytes()[: 4 * MIB if verb == "smaller" else 8 * MIB])
    before = disk.read_bytes()
    argv = {
        "grow": ("grow", disk),
        "repair": ("repair", disk),
        "restore": ("restore", image, disk),
        "smaller": ("restore", image, disk),
        "fold": ("fold", "--boot", boot, "--data", disk, "--in-place"),
        "new": ("restore", image, tmp_path / "new.img"),
    }[verb]
    done = onebay(*argv, "--yes", "--expect-serial", "WD-1234")
    assert done.returncode == 3
    assert "another disk: serial number: expected WD-1234, found none" in done.stderr
    assert done.stderr.endswith("nothing was written\n")
    assert disk.read_bytes() == before
    assert not (tmp_path / "new.img").exists()


@pytest.mark.parametrize("verb", ["grow", "repair", "restore", "smaller", "fold", "boot"])
def test_a_file_under_the_same_name_is_another_disk(tmp_path: Path, verb: str) -> None:
    """Files and many virtual disks have no serial number; they have a fingerprint."""
    disk, image, boot = tmp_path / "disk.img", tmp_path / "image.raw.zst", tmp_path / "boot.img"
    disk.write_bytes(b"photos" * 1000 + bytes(8 * MIB - 6000))
    boot.write_bytes(bytes(MIB))
    assert onebay("capture", disk, image).returncode == 0
    swapped = boot if verb == "boot" else disk
    with closing(open_disk(swapped)) as seen:
        before = seen.fingerprint()
    other = tmp_path / "other.img"
    other.write_bytes(swapped.read_bytes())
    other.replace(swapped)
    if verb == "smaller":
        disk.write_bytes(disk.read_bytes()[: 4 * MIB])
    content = disk.read_bytes()
    fold = ("fold", "--boot", boot, "--data", disk, "--in-place")
    argv = {
        "grow": ("grow", disk),
        "repair": ("repair", disk),
        "restore": ("restore", image, disk),
        "smaller": ("restore", image, disk),
        "fold": fold,
        "boot": fold,
    }[verb]
    done = onebay(*argv, "--yes", "--expect-boot" if verb == "boot" else "--expect-disk", before)
    assert done.returncode == 3, done.stderr
    assert "another disk, or one that changed: expected file=" in done.stderr
    assert done.stderr.endswith("nothing was written\n")
    assert disk.read_bytes() == content
