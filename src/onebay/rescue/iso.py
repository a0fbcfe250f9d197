"""One medium for CD drive and disk, BIOS and UEFI, Secure Boot included, by xorriso and GRUB's own tools.

UEFI: Debian's shim, signed by Microsoft, starts Debian's signed GRUB (the one made for CDs: it looks for
/.disk/info and reads /boot/grub/grub.cfg there), which starts Debian's signed kernel. BIOS: GRUB's El Torito
image, and boot_hybrid.img in the first sector. The layout is that of xorriso's manual for mkisofs emulation,
`--grub2-mbr`, `-appended_part_as_gpt`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from onebay.boot import fatimage
from onebay.rescue.system import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onebay.rescue.files import Node
    from onebay.rescue.toolbox import Toolbox

LABEL = "ONEBAY_RESCUE"
VOLUME_ID = 0x1BA71BA7
ESP_SIZE = 8 << 20
ESP_KIND = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
COMMAND_LINE = "console=ttyS0,115200 console=tty0 raid=noautodetect panic=30 quiet"
SIGNED = {
    "EFI/BOOT/BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
    "EFI/BOOT/grubx64.efi": "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
    "EFI/BOOT/mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
}
BIOS = "usr/lib/grub/i386-pc"
BIOS_MODULES = (
    "biosdisk iso9660 part_msdos part_gpt fat serial terminal normal linux configfile search "
    "search_fs_file search_label test echo loopback reboot halt"
)


def config() -> str:
    """Return GRUB's configuration."""
    return text_of("grub.cfg").replace("COMMAND_LINE", COMMAND_LINE)


def loopback() -> str:
    """Return the configuration for another GRUB that finds us in a file: everything is in RAM afterwards."""
    return (
        f'menuentry "onebay rescue" {{\n    linux /boot/vmlinuz {COMMAND_LINE}\n    initrd /boot/initrd\n}}\n'
    )


def make_iso(
    target: Path, *, kernel: Path, initrd: Path, build: Mapping[str, Node], box: Toolbox, scratch: Path
) -> None:
    """Make the ISO `target`; `build` holds the signed loaders, `scratch` is an empty folder."""
    tree, esp = scratch / "tree", scratch / "esp.img"
    grub = tree / "boot/grub"
    grub.mkdir(parents=True)
    (tree / ".disk").mkdir()
    (tree / ".disk/info").write_text("onebay rescue\n", "ascii")
    (grub / "grub.cfg").write_text(config(), "ascii")
    (grub / "loopback.cfg").write_text(loopback(), "ascii")
    loaders = {f"/{path}": build[source].data for path, source in SIGNED.items()}
    for path, data in loaders.items():
        place = tree / path.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    fatimage.make(esp, ESP_SIZE, sector_size=512, label="ONEBAY", volume_id=VOLUME_ID)
    fatimage.put_files(esp, loaders, scratch / "stage")
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd")):
        os.link(source, tree / "boot" / name)
    modules = box.folder / BIOS
    argv: list[str | Path] = [
        "-O",
        "i386-pc-eltorito",
        "-d",
        modules,
        "-p",
        "/boot/grub",
        "-o",
        grub / "eltorito.img",
    ]
    box.run("grub-mkimage", *argv, *BIOS_MODULES.split())
    dated(tree, box.date)
    box.run("xorriso", *xorriso_argv(target, tree, esp, modules / "boot_hybrid.img"))


def dated(tree: Path, date: int) -> None:
    """Give everything below a folder one time, in seconds since 1970, and plain modes."""
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (date, date))


def xorriso_argv(target: Path, tree: Path, esp: Path, hybrid: Path) -> list[str | Path]:
    """Return xorriso's arguments; it takes times and identities from SOURCE_DATE_EPOCH."""
    return [
        *("-no_rc", "-as", "mkisofs", "-quiet", "-o", target, "-V", LABEL, "-r", "-J", "-joliet-long"),
        *("--grub2-mbr", hybrid, "-partition_offset", "16", "--mbr-force-bootable"),
        *("-append_partition", "2", ESP_KIND, esp, "-appended_part_as_gpt"),
        *("-c", "boot/grub/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot"),
        *("-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info"),
        *("-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"),
        tree,
    ]
