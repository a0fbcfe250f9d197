"""An MBR disk that GRUB boots, as a distribution's installer leaves it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from onebay.boot import loader
from tests.crash.disks import tool

MIB = 1 << 20
MODULES = Path("/usr/lib/grub/i386-pc")
MENU = "serial --unit=0 --speed=115200\nterminal_output serial\necho it goes on from $root\nsleep 60\n"


def with_grub(path: Path, *, modules: str = "", start: int = 2048, size: int = 96 * MIB) -> Path:
    """Make an MBR disk of `size` bytes with an ext4 at sector `start` and GRUB behind LBA 0.

    As grub-install leaves it; `modules` is what normal.mod holds instead of GRUB's.
    """
    tree = path.with_suffix(".tree") / "boot" / "grub" / "i386-pc"
    tree.mkdir(parents=True)
    for file in MODULES.iterdir():
        if file.suffix in (".mod", ".lst"):
            shutil.copyfile(file, tree / file.name)
    if modules:
        (tree / "normal.mod").write_bytes(modules.encode())
    (tree.parent / "grub.cfg").write_text(MENU)
    with path.open("xb") as empty:
        empty.truncate(size)
    table = f"label: dos\nlabel-id: 0xda7ad15c\nstart={start}, size=102400, type=83, bootable\n".encode()
    subprocess.run(["/usr/sbin/sfdisk", "-q", path], input=table, check=True)
    part, core = path.with_suffix(".p1"), path.with_suffix(".core")
    tool("mke2fs", "-q", "-t", "ext4", "-d", path.with_suffix(".tree"), part, "50m")
    tool("dd", f"if={part}", f"of={path}", "bs=512", f"seek={start}", "conv=notrunc,sparse", "status=none")
    names = ("biosdisk", "part_msdos", "ext2")
    tool("grub-mkimage", "-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o", core, *names)
    raw = core.read_bytes()
    with path.open("r+b") as disk:
        disk.write(loader.boot_code((MODULES / "boot.img").read_bytes(), 1))
        disk.seek(512)
        disk.write(loader.embedded_core(raw + bytes(-len(raw) % 512), 1, start * 512 - 512))
        disk.flush()
        os.fsync(disk.fileno())  # its blocks are counted from here on
    return path
