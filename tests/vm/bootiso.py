"""The sample's boot disk as a hybrid ISO: it boots, has its partitions, and is a medium for reading only."""

from __future__ import annotations

import subprocess
from pathlib import Path

from onebay.sample.build import Sample, system

CONFIG = """serial --unit=0 --speed=115200
terminal_output serial
linux /zImage nas.layout={layout} console=tty0 console=ttyS0,115200 loglevel=4 no_timer_check
initrd /rd.gz
boot
"""
MODULES = ["biosdisk", "iso9660", "part_msdos", "serial", "terminal", "normal", "linux", "configfile"]
HYBRID = "/usr/lib/grub/i386-pc/boot_hybrid.img"


def make_iso(sample: Sample, folder: Path, cache: Path) -> Path:
    """Make the ISO with GRUB's and xorriso's own tools; its partitions are those of the boot disk."""
    tree, iso = folder / "tree", folder / "boot.iso"
    grub = tree / "boot/grub"
    grub.mkdir(parents=True)
    made = system(cache)
    for name, source in (("zImage", made.kernel), ("rd.gz", made.initrd)):
        (tree / name).write_bytes(source.read_bytes())
    (grub / "grub.cfg").write_text(CONFIG.format(layout=sample.layout.name))
    loader = grub / "eltorito.img"
    mkimage = ["grub-mkimage", "-O", "i386-pc-eltorito", "-p", "/boot/grub", "-o", loader, *MODULES]
    subprocess.run(mkimage, check=True)
    parts = []
    for number, kind in ((1, "0x0c"), (2, "0x83")):
        place = sample.layout.boot.partitions[number - 1]
        part = folder / f"p{number}.img"
        with sample.boot.open("rb") as file:
            file.seek(place.start * 512)
            part.write_bytes(file.read(place.size * 512))
        parts += ["-append_partition", str(number), kind, part]
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-o", iso, "-V", "NASISO", "--grub2-mbr", HYBRID, *parts]
    argv += ["-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
    subprocess.run([*argv, "--grub2-boot-info", tree], check=True, capture_output=True)
    iso.chmod(0o444)
    return iso
