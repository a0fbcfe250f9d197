"""Small two-disk appliances for the tests of fold, made with the field's own tools."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
LAYOUTS = {
    "v8-mbr": ("dos", [(2048, 4980480, "fd"), (4982528, 4194304, "fd"), (9437184, 15523840, "fd")], 12),
    "v8-gpt": ("gpt", [(2048, 4980480, "R"), (4982528, 4194304, "R"), (9437184, 15523840, "R")], 12),
    "v9-gpt": ("gpt", [(8192, 16777216, "R"), (16785408, 4194304, "R"), (21241856, 12107776, "R")], 16),
    "v9-mbr": ("dos", [(8192, 16777216, "fd"), (16785408, 4194304, "fd"), (21241856, 12107776, "fd")], 16),
    "v7-mbr": ("dos", [(256, 4980480, "fd"), (4980736, 4194304, "fd"), (9437184, 15523840, "fd")], 12),
    "v7-gpt": ("gpt", [(256, 4980480, "R"), (4980736, 4194304, "R"), (9437184, 15523840, "R")], 12),
}
RAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"
GRUB_CFG = """\
set timeout=0
set default=0
serial --unit=0 --speed=115200
terminal_output serial console
if [ -s $prefix/grubenv ]; then load_env; fi
menuentry 'appliance' --class os {
\tsearch --no-floppy --set=root --fs-uuid @UUID2@
\tlinux (hd0,msdos2)/zImage console=ttyS0,115200n8 no_timer_check panic=-1
\tinitrd /rd.gz
}
"""


def run(*argv: object, stdin: str | bytes = b"") -> str:
    """Run a tool of the test; its output is in the failure."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    path = {"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    env = {**path, "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run([str(a) for a in argv], input=data, capture_output=True, env=env, check=False)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout.decode("utf-8", "replace")


@dataclass
class Files:
    """What goes onto a boot disk."""

    first: dict[str, bytes]
    second: dict[str, bytes]


def files(kernel: bytes = b"kernel", ramdisk: bytes = b"ramdisk", config: str = GRUB_CFG) -> Files:
    """Return the files of a boot disk of the usual cut: GRUB on p1, kernel on p2."""
    uuid = "11111111-2222-3333-4444-555555555555"
    return Files(
        {"/boot/grub/grub.cfg": config.replace("@UUID2@", uuid).encode(), "/Read me.txt": b"hello"},
        {"/zImage": kernel, "/rd.gz": ramdisk},
    )


def tree(folder: Path, content: dict[str, bytes]) -> Path:
    """Write files into a folder of the host."""
    for path, data in content.items():
        place = folder / path.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def fat(path: Path, size: int, content: dict[str, bytes], *options: str) -> Path:
    """Make a FAT with files."""
    with path.open("xb") as file:
        file.truncate(size)
    run("mkfs.fat", *options, path)
    folder = tree(path.with_suffix(".tree"), content)
    entries = sorted(folder.iterdir())
    if entries:
        run("mcopy", "-s", "-i", path, *entries, "::/")
    shutil.rmtree(folder)
    return path


def ext2(path: Path, size: int, content: dict[str, bytes], *options: str) -> Path:
    """Make an ext2 with files."""
    folder = tree(path.with_suffix(".tree"), content)
    folder.mkdir(exist_ok=True)
    base = ("-q", "-t", "ext2", "-U", "11111111-2222-3333-4444-555555555555", "-L", "KERNEL")
    run("mke2fs", *base, *options, "-d", folder, path, f"{size // 1024}k")
    shutil.rmtree(folder)
    return path


def boot_disk(folder: Path, content: Files, *, sizes: tuple[int, int] = (48, 75)) -> Path:
    """Make a 128 MiB boot disk: MBR, FAT32, ext2 and an unused third partition."""
    disk = folder / "boot.img"
    first = fat(folder / "p1.img", sizes[0] * MIB, content.first, "-F", "32", "-i", "1234ABCD", "-n", "BOOT1")
    second = ext2(folder / "p2.img", sizes[1] * MIB, content.second)
    end = 1 + sum(sizes)
    with disk.open("xb") as file:
        file.truncate((end + 5) * MIB)
    script = (
        f"label: dos\nlabel-id: 0xb00710ad\nstart=1MiB, size={sizes[0]}MiB, type=c, bootable\n"
        f"start={1 + sizes[0]}MiB, size={sizes[1]}MiB, type=83\nstart={end}MiB, size=4MiB, type=ef\n"
    )
    run("sfdisk", "-q", disk, stdin=script)
    put(disk, first, MIB)
    put(disk, second, (1 + sizes[0]) * MIB)
    return disk


def put(disk: Path, image: Path, at: int) -> None:
    """Write an image into a disk, and remove it."""
    run("dd", f"if={image}", f"of={disk}", "bs=1M", f"seek={at // MIB}", "conv=notrunc,sparse", "status=none")
    image.unlink()


def data_disk(folder: Path, layout: str) -> Path:
    """Make a data disk of a known cut; an ext4 on its first partition stands for all of its content."""
    label, parts, gib = LAYOUTS[layout]
    disk = folder / f"{layout}.img"
    with disk.open("xb") as file:
        file.truncate(gib << 30)
    lines = [f"label: {label}"]
    if label == "dos":
        lines.append("label-id: 0xda7ad15c")
    elif parts[0][0] < 2048:
        lines.append("first-lba: 34")
    lines += [f"start={s}, size={n}, type={RAID if t == 'R' else t}" for s, n, t in parts]
    run("sfdisk", "-q", disk, stdin="\n".join(lines) + "\n")
    run("mke2fs", "-q", "-t", "ext4", "-E", f"offset={parts[0][0] * 512}", disk, "64M")
    return disk


def partition_digest(disk: Path, layout: str) -> list[str]:
    """Return a digest of the first 4 MiB of each partition of the appliance."""
    _, parts, _ = LAYOUTS[layout]
    out = []
    for start, _, _ in parts:
        done = run("sh", "-c", f"dd if='{disk}' bs=512 skip={start} count=8192 status=none | sha256sum")
        out.append(done.split()[0])
    return out


def data_disk_4k(folder: Path) -> Path:
    """Make a GPT data disk with sectors of 4096 bytes and a gap of 128 MiB; needs root for a loop device."""
    disk = folder / "4k.img"
    with disk.open("xb") as file:
        file.truncate(2 << 30)
    loop = run("losetup", "-b", "4096", "-f", "--show", disk).strip()
    try:
        run("sfdisk", "-q", loop, stdin="label: gpt\nstart=256, size=65536\nstart=98304, size=300000\n")
    finally:
        run("losetup", "-d", loop)
    return disk
