"""What a file is, told by its own header: made by qemu-img, then broken, and raw disks that look alike."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from pathlib import Path

import pytest

from onebay.base.error import Damaged, Error, Unsupported
from onebay.block import FileVolume
from onebay.block.container import Container, detect
from onebay.block.whole import refuse_short

MIB = 1 << 20
MADE = {
    "qcow2": ("qcow2", ""),
    "vmdk": ("vmdk", ""),
    "stream": ("vmdk", "subformat=streamOptimized"),
    "vhdx": ("vhdx", ""),
    "vdi": ("vdi", ""),
    "vpc": ("vpc", ""),
    "fixed": ("vpc", "subformat=fixed,force_size=on"),
}


def create(path: Path, form: str, options: str = "", *more: str) -> Path:
    argv = ["qemu-img", "create", "-q", "-f", form, *(["-o", options] if options else []), *more]
    subprocess.run([*argv, str(path), "3M"], check=True, capture_output=True)
    return path


def found(path: Path) -> Container | None:
    file = FileVolume(path)
    try:
        return detect(file)
    finally:
        file.close()


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        file.write(data)


@pytest.mark.parametrize("name", MADE)
def test_what_qemu_makes(name: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", *MADE[name])
    assert found(path) == Container(MADE[name][0])


@pytest.mark.parametrize("content", [b"", b"\0", b"QFI", bytes(511), b"\xff" * 513, b"<<< text"])
def test_what_is_raw(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    assert found(path) is None


def test_fixed_vhd_and_disks_that_hold_one(tmp_path: Path) -> None:
    """The footer counts only where it stands at the end and fits the file's length."""
    path = create(tmp_path / "disk", *MADE["fixed"])
    footer = path.read_bytes()[-512:]
    inside = tmp_path / "inside.img"
    inside.write_bytes(path.read_bytes() + bytes(512))
    longer = tmp_path / "longer.img"
    longer.write_bytes(bytes(512) + path.read_bytes())
    bare = tmp_path / "bare.img"
    bare.write_bytes(bytes(MIB) + footer)
    assert found(inside) is found(longer) is found(bare) is None
    named = longer.rename(tmp_path / "longer.vhd")
    with pytest.raises(Damaged, match="size or type in the vhd footer"):
        found(named)
    named = path.rename(tmp_path / "disk.vhd")
    patch(named, -500, b"\x55")
    with pytest.raises(Damaged, match="checksum of the vhd footer"):
        found(named)


def test_differencing_vhd(tmp_path: Path) -> None:
    """qemu would read it without its parent: half a disk."""
    path = create(tmp_path / "disk", "vpc")
    raw = bytearray(path.read_bytes()[:512])
    raw[60:64] = struct.pack(">I", 4)
    raw[64:68] = bytes(4)
    raw[64:68] = struct.pack(">I", ~sum(raw) & 0xFFFFFFFF)
    patch(path, 0, bytes(raw))
    with pytest.raises(Unsupported, match="differencing"):
        found(path)
    patch(path, 70, b"\x01")
    with pytest.raises(Damaged, match="checksum"):
        found(path)


def test_files_that_lead_to_others(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(bytes(3 * MIB))
    backed = create(tmp_path / "backed", "qcow2", "", "-F", "raw", "-b", str(base))
    assert found(backed) == Container("qcow2", (str(base),))
    missing = create(tmp_path / "missing", "qcow2", "", "-u", "-F", "raw", "-b", "/nowhere/at-all")
    assert found(missing) == Container("qcow2", ("/nowhere/at-all",))
    data = create(tmp_path / "data", "qcow2", f"data_file={tmp_path / 'outside'},data_file_raw=on")
    assert found(data) == Container("qcow2", ("an external data file",))
    flat = create(tmp_path / "flat.vmdk", "vmdk", "subformat=monolithicFlat")
    assert found(flat) == Container("vmdk", ("flat-flat.vmdk",))
    parent = create(tmp_path / "parent.vmdk", "vmdk")
    child = create(tmp_path / "child.vmdk", "vmdk", "", "-F", "vmdk", "-b", str(parent))
    assert found(child) == Container("vmdk", (str(parent),))


@pytest.mark.parametrize(
    ("at", "data", "match"),
    [
        (4, b"\0\0\0\1", "version 1"),
        (4, b"\0\0\0\7", "out of range"),
        (20, b"\0\0\0\x40", "out of range"),
        (32, b"\0\0\0\1", "encrypted"),
        (8, b"\0\0\0\0\0\0\2\0\xff\xff\xff\xff", "backing file's name"),
        (8, b"\xff" * 8 + b"\0\0\0\4", "beyond the end"),
    ],
)
def test_broken_qcow2(at: int, data: bytes, match: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2")
    patch(path, at, data)
    with pytest.raises(Error, match=match):
        found(path)


def test_broken_vmdk(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "vmdk")
    whole = path.read_bytes()
    patch(path, 12, bytes(8))
    with pytest.raises(Unsupported, match="several files"):
        found(path)
    path.write_bytes(whole)
    patch(path, 36, b"\xff" * 8)
    with pytest.raises(Damaged, match="length of the vmdk descriptor"):
        found(path)
    path.write_bytes(b"# Disk DescriptorFile\nversion=1\n")
    with pytest.raises(Damaged, match="names no extent"):
        found(path)
    path.write_bytes(b"COWD" + bytes(508))
    with pytest.raises(Unsupported, match="COWD"):
        found(path)


@pytest.mark.parametrize("name", MADE)
def test_any_flipped_byte_is_an_error_of_ours_or_none(name: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", *MADE[name])
    whole = path.read_bytes()
    places = [*range(128), *range(max(128, len(whole) - 512), len(whole))]
    for at in places:
        patch(path, at, bytes([whole[at] ^ 0xFF]))
        with contextlib.suppress(Error):  # anything else is a bug
            found(path)
        patch(path, at, whole[at : at + 1])


@pytest.mark.parametrize("name", MADE)
def test_tables_led_astray_are_an_error_of_ours_or_none(name: str, tmp_path: Path) -> None:
    """A file that another one leads to is followed as its header says, be qemu told to ignore that."""
    path = create(tmp_path / "disk", *MADE[name])
    whole = path.read_bytes()
    heads = (0, 512, 1024, 1536, 192 << 10)
    for at in (at for head in heads for at in range(head, min(head + 400, len(whole)))):
        for byte in {0, whole[at] ^ 0xFF}:
            patch(path, at, bytes([byte]))
            with contextlib.suppress(Error):  # anything else is a bug
                refuse_short(path, 1 << 40)
        patch(path, at, whole[at : at + 1])
