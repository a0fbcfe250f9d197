"""The worker machine does root's jobs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from onebay.base.error import ToolFailed
from onebay.machine.worker import Disk, run_job

pytestmark = pytest.mark.vm


def test_a_job_writes_disks_and_share(cache: Path, tmp_path: Path) -> None:
    disks = [tmp_path / "a.img", tmp_path / "b.img"]
    for path in disks:
        with path.open("wb") as file:
            file.truncate(16 << 20)
    script = """set -eu
        blockdev --getss /dev/vdb /dev/vdc
        printf hello | dd of=/dev/vdb conv=fsync status=none
        ! dd if=/dev/zero of=/dev/vdc count=1 bs=4096 status=none 2> /dev/null
        cat /mnt/share/in > /mnt/share/out
    """
    (tmp_path / "in").write_text("handed over")
    job = run_job(
        script, [Disk(disks[0]), Disk(disks[1], sector_size=4096, readonly=True)], cache=cache, share=tmp_path
    )
    assert job.status == 0
    assert job.log.split() == ["512", "4096"]
    assert disks[0].read_bytes()[:5] == b"hello"
    assert (tmp_path / "out").read_text() == "handed over"


def test_a_failing_job_says_why(cache: Path) -> None:
    with pytest.raises(ToolFailed, match="status 3: the reason"):
        run_job("echo the reason; exit 3", [], cache=cache)
    assert run_job("exit 3", [], cache=cache, check=False).status == 3


def test_a_job_that_hangs_is_ended(cache: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ToolFailed, match="did not end within 15 s"):
        run_job("sleep 1000", [], cache=cache, timeout=15)
    assert time.monotonic() - began < 60
