"""A folded disk boots alone, under both firmwares, whatever the strategy: a kernel that says one line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foldkit

from onebay.block import open_disk
from onebay.machine import cpio
from onebay.machine.boot import boot
from onebay.machine.worker import worker
from onebay.ops.fold import plan_fold
from onebay.ops.run import execute

if TYPE_CHECKING:
    from onebay.machine.boot import Firmware

LINE = "onebay-test: the appliance runs"
INIT = f"#!/busybox sh\n/busybox echo '{LINE}'\n/busybox sleep 5\n/busybox poweroff -f\n"

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox-static is not installed"),
]


@pytest.fixture(scope="module")
def appliance(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a boot disk with a real kernel, and a ramdisk that says one line."""
    busybox = Path("/bin/busybox").read_bytes()
    ramdisk = cpio.archive({"init": INIT.encode(), "busybox": busybox})
    kernel = worker(cache).kernel.read_bytes()
    return foldkit.boot_disk(tmp_path_factory.mktemp("boot"), foldkit.files(kernel, ramdisk))


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize(
    ("layout", "table"),
    [("v8-mbr", None), ("v9-gpt", None), ("v8-mbr", "gpt"), ("v7-mbr", None), ("v7-gpt", None)],
)
def test_boots_alone(
    appliance: Path,
    tmp_path: Path,
    layout: str,
    table: str | None,
    firmware: Firmware,
    request: pytest.FixtureRequest,
) -> None:
    if (layout, table) not in (("v8-mbr", None), ("v9-gpt", None)) and not request.config.getoption(
        "--matrix"
    ):
        pytest.skip("only with --matrix")
    disk = foldkit.data_disk(tmp_path, layout)
    source, target = open_disk(appliance), open_disk(disk, writable=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    execute(plan_fold(source, target, scratch=scratch, table=table))
    target.close()
    shutil.rmtree(scratch)
    result = boot(disk, log=tmp_path / "serial.log", firmware=firmware, expect=LINE, timeout=120)
    assert result.found
    disk.unlink()


def test_boots_from_sectors_of_4096_bytes(appliance: Path, tmp_path: Path) -> None:
    disk = foldkit.data_disk_4k(tmp_path)
    source, target = open_disk(appliance), open_disk(disk, writable=True, sector_size=4096)
    plan = plan_fold(source, target, scratch=tmp_path)
    assert any("BIOS cannot boot" in line for line in plan.why)
    execute(plan)
    target.close()
    result = boot(
        disk, log=tmp_path / "log", firmware="uefi", bus="nvme", expect=LINE, timeout=120, sector_size=4096
    )
    assert result.found
    disk.unlink()
