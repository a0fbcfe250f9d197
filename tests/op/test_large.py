"""Disks of any size: seconds and little memory, whatever the disk's length."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
HUGE = (16 << 40) - MIB  # the longest file of ext4 is 16 TiB less 4 KiB
LIMIT_KIB = 300 << 10


# A process inherits the peak of the one it was forked from, and pytest is large; this one is small.
WATCH = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, done.stdout]))
"""


def measured(*argv: str | Path) -> tuple[float, int, str]:
    """Run the command line; return CPU seconds, peak memory in KiB and its output."""
    words = [sys.executable, "-c", WATCH, sys.executable, "-m", "onebay", *map(str, argv)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    status, seconds, peak, output = json.loads(done.stdout)
    assert status == 0, output
    return seconds, peak, output


def tool(*argv: str | Path) -> None:
    subprocess.run([str(arg) for arg in argv], check=True, capture_output=True)


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse disk of 16 TiB with a small ext4 that holds some files."""
    folder = tmp_path_factory.mktemp("huge")
    disk, files, fs = folder / "disk.img", folder / "files", folder / "fs.img"
    files.mkdir()
    for number in range(20):
        (files / f"file-{number}").write_bytes(random.Random(number).randbytes(MIB))
    tool("mke2fs", "-q", "-t", "ext4", "-d", files, fs, "256m")
    with disk.open("wb") as file:
        try:
            file.truncate(HUGE)
        except OSError as error:
            pytest.skip(f"the file system here has no such long files: {error}")
    tool("sgdisk", "-n", "1:2048:+256M", disk)
    tool("dd", f"if={fs}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    return disk


def test_inspect(huge: Path) -> None:
    seconds, peak, output = measured("inspect", huge)
    assert "ext4" in output
    assert seconds < 1
    assert peak < LIMIT_KIB


def test_capture_and_restore(huge: Path) -> None:
    image, target = huge.parent / "huge.raw.zst", huge.parent / "restored.img"
    seconds, peak, _ = measured("capture", huge, image)
    assert seconds < 30
    assert peak < LIMIT_KIB
    seconds, peak, output = measured("restore", image, target)
    assert seconds < 30
    assert peak < LIMIT_KIB
    assert target.stat().st_size == HUGE
    # made for 256 MiB, with blocks of 1 KiB, the file system cannot describe 16 TiB: said, not failed
    assert "stays as it is: resize2fs" in output
    assert target.stat().st_blocks * 512 < 64 * MIB
    tool("sgdisk", "-v", target)
    tool("e2fsck", "-fn", f"{target}?offset={MIB}")
    target.unlink()
    measured("restore", image, target, "--no-grow")
    measured("verify", image, "--against", target)


def test_memory_does_not_follow_the_data(tmp_path: Path) -> None:
    """1 GiB that does not compress: capture, restore to a full disk and verify stay within their memory."""
    disk, image, target = tmp_path / "disk.img", tmp_path / "disk.raw.zst", tmp_path / "target.img"
    block = random.Random(7).randbytes(16 * MIB + 4096)
    for path, turn in ((disk, 0), (target, 1)):
        with path.open("wb") as file:
            for number in range(64):
                at = (number + turn) % 4096
                file.write(block[at : at + 16 * MIB])
    for argv in (
        ("capture", disk, image),
        ("restore", image, target, "--yes", "--no-grow", "--verify"),
        ("verify", image, "--against", target),
        ("verify", image),
    ):
        _, peak, _ = measured(*argv)
        assert peak < LIMIT_KIB, argv
    tool("cmp", disk, target)
