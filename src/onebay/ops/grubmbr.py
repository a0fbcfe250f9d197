"""GRUB as a distribution installs it on an MBR disk, made anew so that it also finds its files under a GPT.

Its core says "(,msdos1)/boot/grub", knows no other table, and cannot be patched. A new core is made from the
modules of the GRUB that is installed here, which have to be the very ones that the disk holds: GRUB loads
the rest from there, and parts of two builds do not work together. It looks for the file system by its UUID,
so it works before and after the conversion. Only for ext.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Refused
from onebay.boot import loader
from onebay.boot.core import read_bios_core
from onebay.fs.ext import ExtFs

if TYPE_CHECKING:
    from onebay.block import Volume
    from onebay.table import Partition
    from onebay.tree import Tree

__all__ = ["rebuilt"]

PLACE = re.compile(r"\(,msdos(\d+)\)(/[\w./-]*)")
# what differs between two builds, and what a menu needs first
PROOF = ("normal.mod", "linux.mod", "part_gpt.mod")
MODULES = ("biosdisk", "part_msdos", "part_gpt", "ext2", "search_fs_uuid")
HINT = "boot the disk under UEFI, or convert it by hand and install GRUB there with grub-install"


def rebuilt(tree: Tree, parts: tuple[Partition, ...], raw: bytes) -> tuple[bytes, bytes]:
    """Return (core, boot.img) that do what the core `raw` does, under either table.

    Raises Refused where it is of another make, another build than is installed here, or not on ext.
    """
    disk = tree.disks[0]
    part, prefix = files_of(tree, parts, raw)
    layer = tree.on(part.volume)
    if not isinstance(layer, ExtFs):
        raise refusal(disk, f"GRUB's files are on p{part.number}, which is no ext file system")
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        scratch = Path(name)
        for file in PROOF:
            here = (loader.folder(loader.BIOS) / file).read_bytes()
            if content(disk, part, f"{prefix}/{loader.BIOS}/{file}", scratch) != here:
                raise refusal(disk, "the disk has another build of GRUB than is installed here")
        made = loader.core_for(str(layer.facts()["uuid"]), prefix, MODULES, scratch)
    code = (loader.folder(loader.BIOS) / "boot.img").read_bytes()
    loader.check_images(made, code)
    return made, code


def files_of(tree: Tree, parts: tuple[Partition, ...], raw: bytes) -> tuple[Partition, str]:
    """Return the partition and folder with the files of a core; also of one that we made before a cut."""
    core = read_bios_core(raw)
    match = PLACE.fullmatch(core.prefix) if core is not None and not core.config.strip() else None
    for part in parts:
        if match is not None and part.number == int(match[1]):
            return part, match[2]
        layer = None if part.is_extended else tree.on(part.volume)
        uuid = str(layer.facts().get("uuid")) if layer is not None else ""
        if core is not None and core.config == loader.FIND.format(uuid=uuid, prefix=core.prefix):
            return part, core.prefix
    raise refusal(tree.disks[0], "BIOS boots the disk by a GRUB that finds its files in a way of its own")


def refusal(disk: Volume, what: str) -> Refused:
    """Return the refusal of a boot path that cannot be taken along."""
    return Refused(f"{what}; it looks for an MBR", volume=disk.name, hint=HINT)


def content(disk: Volume, part: Partition, path: str, scratch: Path) -> bytes:
    """Return a file of the ext file system on a partition; b"" where there is none. Nothing is written."""
    if not Path(disk.name).exists():
        raise refusal(disk, "GRUB's files can be looked at on an image file or a device only")
    out = scratch / "file"
    out.unlink(missing_ok=True)
    tool.run(["debugfs", "-R", f"dump {path} {out}", f"{disk.name}?offset={part.start}"])
    return out.read_bytes() if out.exists() else b""
