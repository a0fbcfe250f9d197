"""What a file is that is no raw disk: told by its own header, never by trying.

Programs that guess the format of a disk can be led astray by whoever may write to that disk, so qemu is
always told the format, and files that a container leads to are found here, before qemu opens anything.

Sources: qemu docs/interop/qcow2.txt and vhdx, vpc, vmdk, vdi in qemu block/; Microsoft "Virtual Hard Disk
Image Format Specification" (fixed, dynamic); VMware "Virtual Disk Format 5.0". Not supported: qcow version 1,
encrypted qcow2, differencing VHD (qemu would read it without its parent), VMDK version 3 (COWD).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Damaged, Unsupported

if TYPE_CHECKING:
    from onebay.block.volume import Volume

AS_RAW = "if it is a raw disk after all: --input-format raw"
# qemu's names of the formats by the last part of a file's name; a file must be what it is called
SUFFIXES = {
    ".qcow2": "qcow2",
    ".vhd": "vpc",
    ".vhdx": "vhdx",
    ".vmdk": "vmdk",
    ".vdi": "vdi",
    ".gz": "gzip",
    ".xz": "xz",
    ".zst": "zstd",
}
PACKED = {b"\x1f\x8b\x08": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
HEAD = 512
QCOW2 = struct.Struct(">4sIQIIQI")
DATA_FILE = 0b100
MAX_NAME = 1023
VHD_COOKIE = b"conectix"
VHD = struct.Struct(">8sIIQI4sI4sQQ4sII16s")
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
MAX_DESCRIPTOR = 1 << 20
SECTOR = 512
VMDK = struct.Struct("<4sIIQQQQ")
VMDK_TEXT = b"# Disk DescriptorFile"
# of a VMDK descriptor: sectors, kind, name and first sector of a file that holds a part of the disk
EXTENT = re.compile(rb'^\s*(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)\s+"([^"]*)"(?:[ \t]+(\d+))?', re.MULTILINE)
VDI_SIGNATURE = 0xBEDA107F


class Container(NamedTuple):
    """A file of format `kind` (qemu's name, or gzip, xz, zstd), and the other files that it needs."""

    kind: str
    others: tuple[str, ...] = ()


def detect(file: Volume) -> Container | None:
    """Return what `file` is, None for a raw disk.

    Raises Damaged where a header says one thing and means another, Unsupported for kinds that nobody here
    reads.
    """
    head = file.read(0, min(HEAD, file.size)).ljust(HEAD, b"\0")
    for magic, kind in PACKED.items():
        if head.startswith(magic):
            return Container(kind)
    for magic, probe in (
        (b"QFI\xfb", qcow2),
        (VHD_COOKIE, vhd_dynamic),
        (b"vhdxfile", vhdx),
        (b"KDMV", vmdk_sparse),
        (VMDK_TEXT, vmdk_text),
        (b"COWD", vmdk_old),
        (b"<<<", vdi),
    ):
        if head.startswith(magic):
            return probe(file, head)
    return vhd_fixed(file)


def readable(name: bytes) -> str:
    """Return a file's name for a message."""
    return name.rstrip(b"\0").decode("utf-8", "backslashreplace")


def expected_by_name(name: str) -> str | None:
    """Return the format that a file's name promises, None where it promises nothing."""
    return next((kind for suffix, kind in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def qcow2(file: Volume, head: bytes) -> Container:
    """Read the header of a qcow2 file."""
    _, version, backing_at, backing_size, cluster_bits, _, crypt = QCOW2.unpack_from(head)
    if version == 1:
        raise Unsupported("qcow version 1", volume=file.name, hint="qemu-img convert -f qcow -O qcow2")
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise Damaged("header of a qcow2 file is out of range", volume=file.name, at=4, hint=AS_RAW)
    if crypt:
        raise Unsupported("an encrypted qcow2", volume=file.name, hint="qemu-img convert decrypts it")
    others = []
    if backing_at:
        if not 0 < backing_size <= MAX_NAME:
            raise Damaged("length of the backing file's name", volume=file.name, found=backing_size)
        others.append(readable(file.read(backing_at, backing_size)))
    if version == 3 and int.from_bytes(head[72:80], "big") & DATA_FILE:
        others.append("an external data file")
    return Container("qcow2", tuple(others))


def footer(raw: bytes) -> tuple[int, int] | None:
    """Return (current size in bytes, type) of a VHD footer, None where its checksum is wrong."""
    fields = VHD.unpack_from(raw)
    total = sum(raw[:SECTOR]) - sum(raw[64:68])
    return (fields[9], fields[11]) if fields[12] == ~total & 0xFFFFFFFF else None


def vhd_dynamic(file: Volume, head: bytes) -> Container:
    """Read the copy of the footer that a dynamic VHD begins with."""
    found = footer(head)
    if found is None:
        raise Damaged("checksum of the vhd footer's copy", volume=file.name, at=0, hint=AS_RAW)
    if found[1] == DIFFERENCING:
        raise Unsupported("a differencing vhd: it is nothing without its parent", volume=file.name)
    if found[1] != DYNAMIC:
        raise Damaged("type of the vhd", volume=file.name, at=60, expected=DYNAMIC, found=found[1])
    return Container("vpc")


def vhd_fixed(file: Volume) -> Container | None:
    """Tell a fixed VHD, whose footer stands at its end, from a raw disk that holds such bytes by chance.

    Raises Damaged where a file that is called .vhd has no footer that fits it.
    """
    end = file.size - SECTOR
    raw = file.read(end, SECTOR) if end >= 0 else b""
    if raw.startswith(VHD_COOKIE):
        found = footer(raw)
        if found == (end, FIXED):
            return Container("vpc")
        if file.name.lower().endswith(".vhd"):
            wrong = "checksum of the vhd footer" if found is None else "size or type in the vhd footer"
            raise Damaged(
                wrong,
                volume=file.name,
                at=end,
                expected=(end, FIXED) if found else None,
                found=found,
                hint=AS_RAW,
            )
    return None


def vhdx(file: Volume, head: bytes) -> Container:  # noqa: ARG001
    """Accept a VHDX; qemu refuses those with a parent."""
    return Container("vhdx")


def vmdk_old(file: Volume, head: bytes) -> Container:  # noqa: ARG001
    """Raise Unsupported: nobody writes these any more."""
    raise Unsupported("a vmdk of version 3 (COWD)", volume=file.name, hint="convert it where it was made")


def vmdk_sparse(file: Volume, head: bytes) -> Container:
    """Read the header and the embedded descriptor of a VMDK in one file."""
    *_, capacity, _, at, sectors = VMDK.unpack_from(head)
    if capacity == 0:
        raise Unsupported("a vmdk that is spread over several files", volume=file.name)
    size = sectors * SECTOR
    if size > MAX_DESCRIPTOR:
        raise Damaged("length of the vmdk descriptor", volume=file.name, at=36, found=size, hint=AS_RAW)
    text = file.read(at * SECTOR, size) if at else b""
    return Container("vmdk", parents(text))


def vmdk_text(file: Volume, head: bytes) -> Container:  # noqa: ARG001
    """Read a VMDK that is only a descriptor: its disk lies in other files."""
    text = file.read(0, min(file.size, MAX_DESCRIPTOR))
    extents = [name for _, _, name, _ in EXTENT.findall(text)]
    if not extents:
        raise Damaged("the vmdk descriptor names no extent", volume=file.name, hint=AS_RAW)
    return Container("vmdk", (*(readable(name) for name in extents), *parents(text)))


def parents(text: bytes) -> tuple[str, ...]:
    """Return the parent that a VMDK descriptor names."""
    parent = re.search(rb"^\s*parentCID\s*=\s*([0-9a-fA-F]+)", text, re.MULTILINE)
    hint = re.search(rb'^\s*parentFileNameHint\s*=\s*"([^"]*)"', text, re.MULTILINE)
    if hint is None and (parent is None or int(parent[1], 16) == 0xFFFFFFFF):
        return ()
    return (readable(hint[1]) if hint else "a parent without a name",)


def vdi(file: Volume, head: bytes) -> Container | None:
    """Tell a VDI from text that begins alike; qemu refuses those with a parent."""
    return Container("vdi") if int.from_bytes(head[64:68], "little") == VDI_SIGNATURE else vhd_fixed(file)
