"""Boot loaders for the folded disk: a GRUB core for BIOS and a stand-alone one for UEFI, and where they go.

Both are made by grub-mkimage from the distribution's modules, find the folded partition by its own file
system UUID, and use a folder on it with modules of the very same build as prefix; from there they go on with
the appliance's own grub.cfg. The modules that the appliance brought are never loaded.

Sources: grub 2.06: util/setup.c (SETUP: what grub-bios-setup patches), include/grub/i386/pc/boot.h (offsets
in boot.img and diskboot.img), util/mkimage.c. Unlike grub-bios-setup, no Reed-Solomon copy of the core is
written: what damages it here is a storage manager that clears the area, not single bad sectors.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import BadMagic, Refused, ToolMissing
from onebay.boot.grubcfg.rewrite import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

GRUB = Path("/usr/lib/grub")
BIOS, UEFI = "i386-pc", "x86_64-efi"
PACKAGES = {BIOS: "grub-pc-bin", UEFI: "grub-efi-amd64-bin"}
HOME = "/onebay/grub"  # on the folded FAT: our prefix
EFI_FILE = "/EFI/BOOT/BOOTX64.EFI"
SECTOR = 512
FIND = "search.fs_uuid {uuid} root\nset prefix=($root){prefix}\n"  # for a core that is not of a fold

# enough to reach the prefix; everything else is loaded from there
BIOS_MODULES = ("biosdisk", "part_msdos", "part_gpt", "fat", "search_fs_uuid")
UEFI_MODULES = (
    *("part_msdos", "part_gpt", "fat", "ext2", "search", "search_fs_uuid", "search_label", "search_fs_file"),
    *("normal", "configfile", "linux", "chain", "echo", "test", "true", "ls", "cat", "minicmd", "sleep"),
    *("boot", "reboot", "halt", "loadenv", "serial", "terminal", "efi_gop", "efi_uga", "video", "all_video"),
    *("gfxterm", "font", "gzio", "regexp", "probe"),
)

# boot.img (include/grub/i386/pc/boot.h)
KERNEL_SECTOR = 0x5C
BOOT_DRIVE = 0x64
DRIVE_CHECK = 0x66
CODE_SIZE = 440  # the disk signature and the table behind it belong to the disk
# diskboot.img: the last block list entry, and what mkimage leaves there
BLOCK_LIST = SECTOR - 12
BLOCK_SEGMENT = 0x820


@dataclass(frozen=True, slots=True)
class Loader:
    """What makes a disk boot.

    `core` is the BIOS core as it stands on the disk (whole sectors; b"" where BIOS cannot boot the disk),
    `code` GRUB's boot.img, `efi` the UEFI program, `files` what belongs on the FAT (path -> bytes), `build`
    the version of GRUB.
    """

    core: bytes
    code: bytes
    efi: bytes
    files: dict[str, bytes]
    build: str


def folder(platform: str) -> Path:
    """Return the folder with the modules of a platform; raises ToolMissing with the package to install."""
    path = GRUB / platform
    if not (path / "moddep.lst").is_file():
        raise ToolMissing(
            f"GRUB's modules for {platform} are not installed", hint=f"apt-get install {PACKAGES[platform]}"
        )
    return path


def build_name() -> str:
    """Return the version of GRUB that the loaders are made from."""
    return tool.run(["grub-mkimage", "--version"]).text.strip().rpartition(" ")[2]


def modules(platform: str) -> dict[str, bytes]:
    """Return all modules of a platform and the lists beside them: path on the FAT -> content."""
    files = sorted(path for path in folder(platform).iterdir() if path.suffix in (".mod", ".lst"))
    return {f"{HOME}/{platform}/{path.name}": path.read_bytes() for path in files}


def commands_of(platform: str) -> frozenset[str]:
    """Return the commands that the modules of a platform bring, without those of the kernel itself."""
    lines = (folder(platform) / "command.lst").read_text("ascii").splitlines()
    return frozenset(line.partition(":")[0].lstrip("*") for line in lines)


def core_config(uuid: str) -> str:
    """Return the configuration inside a core: find the folded partition by its file system UUID.

    GRUB's rescue parser reads it: no conditions, no quotes needed.
    """
    return f"search.fs_uuid {uuid} onebay_1\nset root=$onebay_1\nset prefix=($onebay_1){HOME}\n"


def first_config(devices: Sequence[tuple[str, str]], variable: str, config: str) -> bytes:
    """Return our grub.cfg: name every folded partition, then go on with the appliance's own configuration.

    `devices` are (variable, file system UUID); `variable` and `config` are partition and path of grub.cfg.
    """
    lines = ["# Made by onebay. The appliance's own menu is in the file named in the last line."]
    lines += [f"insmod {name}" for name in ("part_msdos", "part_gpt", "fat", "ext2", "search_fs_uuid")]
    lines += [f"search --no-floppy --fs-uuid --set={name} {uuid}" for name, uuid in devices]
    lines += [
        f"set root=${variable}",
        f'set {PREFIX}="(${variable}){quoted(config.rpartition("/")[0])}"',
        " ".join(["export", PREFIX, *(name for name, _ in devices)]),
        f'configfile "(${variable}){quoted(config)}"',
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def quoted(path: str) -> str:
    """Return `path` for use inside double quotes of a GRUB configuration."""
    return "".join(f"\\{char}" if char in '"\\$' else char for char in path)


def mkimage(platform: str, uuid: str, names: Sequence[str], scratch: Path) -> bytes:
    """Run grub-mkimage with an embedded configuration that looks for `uuid`."""
    config, out = scratch / f"{platform}.cfg", scratch / f"{platform}.img"
    config.write_text(core_config(uuid), "ascii")
    tool.run(
        ["grub-mkimage", "-O", platform, "-d", folder(platform), "-p", HOME, "-c", config, "-o", out, *names]
    )
    return out.read_bytes()


def core_for(uuid: str, prefix: str, names: Sequence[str], scratch: Path) -> bytes:
    """Return a core for BIOS, in whole sectors, that goes on from folder `prefix` of file system `uuid`."""
    config, out = scratch / "core.cfg", scratch / "core.img"
    config.write_text(FIND.format(uuid=uuid, prefix=prefix), "ascii")
    tool.run(["grub-mkimage", "-O", BIOS, "-d", folder(BIOS), "-p", prefix, "-c", config, "-o", out, *names])
    core = out.read_bytes()
    return core + bytes(-len(core) % SECTOR)


def make_loader(uuid: str, scratch: Path, *, bios: bool = True) -> Loader:
    """Build both loaders for the folded partition with file system UUID `uuid`; `scratch` is a folder.

    Without `bios` there is no core: GRUB's BIOS code cannot work with sectors of 4096 bytes.
    """
    files = {**modules(UEFI)}
    core = code = b""
    if bios:
        files |= modules(BIOS)
        core = mkimage(BIOS, uuid, BIOS_MODULES, scratch)
        core += bytes(-len(core) % SECTOR)
        code = (folder(BIOS) / "boot.img").read_bytes()
        check_images(core, code)
    efi = mkimage(UEFI, uuid, UEFI_MODULES, scratch)
    files[EFI_FILE] = efi
    return Loader(core, code, efi, files, build_name())


def check_images(core: bytes, code: bytes) -> None:
    """Raise BadMagic where GRUB's images are not laid out as the offsets above expect."""
    start, _, segment = struct.unpack_from("<QHH", core, BLOCK_LIST) if len(core) > SECTOR else (0, 0, 0)
    if segment != BLOCK_SEGMENT or len(code) != SECTOR:
        raise BadMagic(
            "grub core: unknown block list", at=BLOCK_LIST, expected=hex(BLOCK_SEGMENT), found=hex(segment)
        )
    if code[DRIVE_CHECK] not in (0xEB, 0x90) or start not in (1, 2):
        raise BadMagic("grub boot.img: unknown layout", at=DRIVE_CHECK, found=code[DRIVE_CHECK])


def embedded_core(core: bytes, lba: int, limit: int) -> bytes:
    """Return the core as it must stand at 512-byte sector `lba`, in at most `limit` bytes.

    Raises Refused with both sizes where it does not fit. Source: SETUP, the embedding branch: the first
    sector's block list names where the rest is.
    """
    if len(core) > limit:
        raise Refused("GRUB's core does not fit before the first partition", expected=limit, found=len(core))
    rest_sectors = len(core) // SECTOR - 1
    out = bytearray(core)
    struct.pack_into("<QHH", out, BLOCK_LIST, lba + 1, rest_sectors, BLOCK_SEGMENT)
    return bytes(out)


def boot_code(code: bytes, lba: int) -> bytes:
    """Return the first 440 bytes of LBA 0 that load a core from 512-byte sector `lba` of the same disk.

    Source: SETUP: kernel_sector, boot_drive 0xff (use what the BIOS passes), and two nops over the jump that
    would make code believe a BIOS that passes a floppy's number.
    """
    out = bytearray(code)
    struct.pack_into("<Q", out, KERNEL_SECTOR, lba)
    out[BOOT_DRIVE] = 0xFF
    out[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(out[:CODE_SIZE])


def digest(data: bytes) -> str:
    """SHA-256 in hex, as the fold's record keeps it."""
    return hashlib.sha256(data).hexdigest()
