"""A disk whose MBR became a GPT boots, and so does one whose conversion was cut short."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.base.step import Write, apply
from onebay.block import open_disk
from onebay.boot import loader
from onebay.machine.boot import Firmware, boot
from onebay.machine.worker import accel
from onebay.ops.togpt import plan_to_gpt
from onebay.sample.build import build
from tests.crash.disks import tool
from tests.story import onebay

pytestmark = pytest.mark.vm

MIB = 1 << 20
MODULES = Path("/usr/lib/grub/i386-pc")
MENU = "serial --unit=0 --speed=115200\nterminal_output serial\necho it goes on from $root\nsleep 60\n"


def with_grub(path: Path, *, modules: str = "") -> Path:
    """Make an MBR disk with an ext4 and GRUB behind LBA 0, as grub-install leaves it."""
    tree = path.with_suffix(".tree") / "boot" / "grub" / "i386-pc"
    tree.mkdir(parents=True)
    for file in MODULES.iterdir():
        if file.suffix in (".mod", ".lst"):
            shutil.copyfile(file, tree / file.name)
    if modules:
        (tree / "normal.mod").write_bytes(modules.encode())
    (tree.parent / "grub.cfg").write_text(MENU)
    with path.open("xb") as empty:
        empty.truncate(96 * MIB)
    table = b"label: dos\nstart=2048, size=102400, type=83, bootable\n"
    subprocess.run(["/usr/sbin/sfdisk", "-q", path], input=table, check=True)
    part, core = path.with_suffix(".p1"), path.with_suffix(".core")
    tool("mke2fs", "-q", "-t", "ext4", "-d", path.with_suffix(".tree"), part, "50m")
    tool("dd", f"if={part}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    names = ("biosdisk", "part_msdos", "ext2")
    tool("grub-mkimage", "-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o", core, *names)
    raw = core.read_bytes()
    with path.open("r+b") as disk:
        disk.write(loader.boot_code((MODULES / "boot.img").read_bytes(), 1))
        disk.seek(512)
        disk.write(loader.embedded_core(raw + bytes(-len(raw) % 512), 1, MIB - 512))
    return path


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
