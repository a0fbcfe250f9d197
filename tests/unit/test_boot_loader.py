"""GRUB's core and boot code as they are put on a disk, and what can be read back from them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from onebay.base.error import BadMagic, Refused
from onebay.block import create_disk
from onebay.boot import core as grub_core
from onebay.boot import loader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not (loader.GRUB / loader.BIOS / "boot.img").is_file() or not (loader.GRUB / loader.UEFI).is_dir(),
    reason="grub-pc-bin and grub-efi-amd64-bin are not installed",
)
UUID = "CAFE-1234"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> loader.Loader:
    return loader.make_loader(UUID, tmp_path_factory.mktemp("grub"))


def test_the_same_input_gives_the_same_bytes(made: loader.Loader, tmp_path: Path) -> None:
    assert loader.make_loader(UUID, tmp_path) == made


def test_fits_the_smallest_layout(made: loader.Loader) -> None:
    assert len(made.core) <= (256 - 34) * 512  # DSM 7 on GPT: 111 KiB before the first partition


def test_boot_code_keeps_to_440_bytes(made: loader.Loader) -> None:
    code = loader.boot_code(made.code, 2048)
    original = (loader.GRUB / loader.BIOS / "boot.img").read_bytes()
    assert len(code) == 440
    assert struct.unpack_from("<Q", code, 0x5C)[0] == 2048
    assert code[0x64] == 0xFF
    assert code[0x66:0x68] == b"\x90\x90"
    changed = {at for at in range(440) if code[at] != original[at]}
    assert changed <= {*range(0x5C, 0x68)}


@pytest.mark.parametrize("lba", [1, 40, 2048, 1 << 33])
def test_core_is_found_where_it_was_put(made: loader.Loader, tmp_path: Path, lba: int) -> None:
    core = loader.embedded_core(made.core, lba, 1 << 20)
    disk = create_disk(tmp_path / "disk", (lba + 4096) * 512)
    disk.write(lba * 512, core)
    found, wrong = grub_core.bios_core(disk, loader.boot_code(made.code, lba) + bytes(72))
    assert (found, wrong) == (core, "")
    seen = grub_core.read_bios_core(found)
    assert seen is not None
    assert (seen.uuid, seen.prefix) == (UUID, loader.HOME)
    # as many modules as the list names, and what they need
    assert seen.modules >= len(loader.BIOS_MODULES)
    disk.close()


def test_core_that_does_not_fit_is_refused(made: loader.Loader) -> None:
    with pytest.raises(Refused, match=f"expected 1024, found {len(made.core)}"):
        loader.embedded_core(made.core, 1, 1024)


def test_efi_program_tells_what_it_looks_for(made: loader.Loader) -> None:
    assert grub_core.pe_machine(made.efi) == 0x8664
    seen = grub_core.read_efi_core(made.efi)
    assert seen is not None
    assert (seen.uuid, seen.prefix) == (UUID, loader.HOME)


def test_modules_come_from_the_same_build(made: loader.Loader) -> None:
    for platform in (loader.BIOS, loader.UEFI):
        for name in ("normal.mod", "linux.mod", "moddep.lst", "command.lst"):
            theirs = (loader.GRUB / platform / name).read_bytes()
            assert made.files[f"{loader.HOME}/{platform}/{name}"] == theirs


@pytest.mark.parametrize("damage", [0, 0x1F0, 0x200, 0x2000, 0x6000])
def test_cleared_core_is_told(made: loader.Loader, tmp_path: Path, damage: int) -> None:
    core = bytearray(loader.embedded_core(made.core, 1, 1 << 20))
    core[damage : damage + 512] = bytes(512)
    disk = create_disk(tmp_path / "disk", 1 << 20)
    disk.write(512, core)
    found, wrong = grub_core.bios_core(disk, loader.boot_code(made.code, 1) + bytes(72))
    assert wrong or grub_core.read_bios_core(found) is None
    disk.close()


def test_unknown_images_are_refused(made: loader.Loader) -> None:
    with pytest.raises(BadMagic):
        loader.check_images(bytes(2048), made.code)
    with pytest.raises(BadMagic):
        loader.check_images(made.core, bytes(512))


def test_first_config_quotes_paths() -> None:
    text = loader.first_config([("onebay_1", UUID)], "onebay_1", '/a "b"/$c/grub.cfg').decode()
    assert 'configfile "($onebay_1)/a \\"b\\"/\\$c/grub.cfg"' in text
