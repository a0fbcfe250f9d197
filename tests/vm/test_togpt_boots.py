"""A disk whose MBR became a GPT boots, and so does one whose conversion was cut short."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.base.step import Write, apply
from onebay.block import open_disk
from onebay.machine.boot import Firmware, boot
from onebay.machine.worker import accel
from onebay.ops.togpt import plan_to_gpt
from onebay.sample.build import build
from tests.crash.disks import tool
from tests.grubdisk import with_grub
from tests.story import onebay

pytestmark = pytest.mark.vm


def test_grub_goes_on_after_every_write(tmp_path: Path, cache: Path) -> None:
    path = with_grub(tmp_path / "disk.img")

    def goes_on_from(place: str) -> None:
        log = tmp_path / "serial.log"
        boot(path, log=log, expect=f"it goes on from {place}", timeout=120, accel=accel(cache))

    goes_on_from("hd0,msdos1")
    disk = open_disk(path, writable=True)
    plan = plan_to_gpt(disk)
    for step in plan.steps:
        if isinstance(step, Write) and "protective" in step.why:
            goes_on_from("hd0,msdos1")
            with closing(open_disk(path)) as cut:
                assert [one.why for one in plan_to_gpt(cut).steps if isinstance(one, Write)]
        apply(step)
        if isinstance(step, Write) and step.at == 0:
            goes_on_from("hd0,msdos1")
    disk.close()
    assert "No problems found" in tool("sgdisk", "-v", path)
    goes_on_from("hd0,gpt1")


def test_another_build_of_grub_is_refused(tmp_path: Path) -> None:
    disk = open_disk(with_grub(tmp_path / "disk.img", modules="another build"))
    with pytest.raises(Refused, match="another build of GRUB than is installed here"):
        plan_to_gpt(disk)
    disk.close()


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("name", ["v8-mbr-btrfs", "shr-mbr-lvm-btrfs"])
def test_a_folded_appliance(
    name: str, firmware: Firmware, cache: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    sample = build(name, cache=cache)
    disk = tmp_path / "disk.img"
    onebay("fold", "--boot", sample.boot, "--data", sample.data, "--output", disk)
    onebay("grow", disk, "--table", "gpt")
    assert "No problems found" in tool("sgdisk", "-v", disk)
    log = tmp_path / "serial.log"
    boot(disk, log=log, firmware=firmware, expect=sample.verdict, timeout=600, accel=accel(cache))
    disk.unlink()
