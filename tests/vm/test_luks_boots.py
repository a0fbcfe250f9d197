"""A Debian that its installer put into LUKS and LVM: captured by what is used inside, restored, booted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from onebay.machine.boot import boot
from onebay.machine.worker import Disk, accel, run_job
from onebay.sample.generic import build
from tests.story import fill, onebay

pytestmark = pytest.mark.vm

SCRIPT = """set -eu
modprobe -a ext4 dm-crypt
cryptsetup open --readonly --key-file /mnt/share/key /dev/vdb4 crypt
vgchange -q --activate y debian-vg
e2fsck -fn /dev/debian-vg/root
vgchange -q --activate n debian-vg
cryptsetup close crypt
"""


def test_used_blocks_inside_are_enough(cache: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    generic = build("installer-crypt", cache=cache)
    image, restored = tmp_path / "debian.raw.zst", tmp_path / "restored.img"
    told = json.loads(onebay("capture", generic.disk, image, "--key-file", generic.key, "--json").stdout)
    assert told["image_size"] < generic.disk.stat().st_size // 3
    # what the image does not hold is random afterwards, as on a disk that had a life before
    fill(restored, generic.disk.stat().st_size, 3)
    onebay("restore", image, restored, "--yes", "--no-grow", "--verify")
    image.unlink()
    (share := tmp_path / "share").mkdir()
    shutil.copyfile(generic.key, share / "key")
    assert run_job(SCRIPT, [Disk(restored, readonly=True)], cache=cache, share=share).status == 0
    log = tmp_path / "bios.log"
    # the system checks every one of its files
    assert boot(restored, log=log, expect=generic.verdict, timeout=900, accel=accel(cache)).found
    restored.unlink()
