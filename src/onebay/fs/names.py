"""Formats that are known by name and kept whole.

One table of kinds, each with the magics that all must match; a negative place counts from the end of the
volume. Where identities are cheap to read, `facts` shows them. Nothing here is parsed further, nothing here
is ever written.

Sources: util-linux v2.40 libblkid/src/superblocks/*.c for places and magics; ECMA-119 and 167; Linux headers
of f2fs, erofs, squashfs, jfs, reiserfs, bcache; the exFAT specification; Apple TN1150.
"""

from __future__ import annotations

import struct
import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Truncated
from onebay.layer import Suspect, Whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.block.volume import Volume
    from onebay.layer import Value

KIB = 1 << 10
MIB = 1 << 20


class Known(NamedTuple):
    """A kind, the (place, bytes) that all must be there, and what more it takes.

    `usage` is "filesystem", "member" (of an array or pool) or "other". `test` looks where one place does not
    do; `facts` reads identities.
    """

    kind: str
    magics: tuple[tuple[int, bytes], ...]
    facts: Callable[[Volume], dict[str, Value]] | None = None
    usage: str = "filesystem"
    test: Callable[[Volume], bool] | None = None


class Named(Whole):
    """A format known by name; `usage` as in `Known`."""

    def __init__(self, known: Known, volume: Volume) -> None:
        super().__init__(known.kind, volume, known.facts(volume) if known.facts else {})
        self.usage = known.usage


def text(raw: bytes, encoding: str = "utf-8") -> str | None:
    """Decode a padded string; None where it is empty."""
    return raw.decode(encoding, "replace").split("\0", 1)[0].rstrip() or None


def guid(raw: bytes) -> str | None:
    """Print 16 bytes as a UUID; None where all are zero."""
    return str(uuid.UUID(bytes=raw)) if any(raw) else None


def ntfs(volume: Volume) -> dict[str, Value]:
    """Boot sector: serial number, sizes; the label in file record 3 ($Volume)."""
    boot = volume.read(0, 512)
    sector, clusters_per = struct.unpack_from("<HB", boot, 11)
    sectors, mft = struct.unpack_from("<QQ", boot, 40)
    per = clusters_per if clusters_per <= 128 else 1 << (256 - clusters_per)
    record = boot[64] if boot[64] < 128 else 0
    size = record * per * sector if record else 1 << min(256 - boot[64], 16)
    return {
        "uuid": f"{int.from_bytes(boot[72:80], 'little'):016X}",
        "label": ntfs_label(volume, mft * per * sector + 3 * size, size),
        "size": (sectors + 1) * sector,
        "cluster_size": per * sector,
    }


def ntfs_label(volume: Volume, at: int, size: int) -> str | None:
    """Walk the attributes of $Volume's record for $VOLUME_NAME (0x60); None where it is not as expected."""
    if not 0 < size <= 64 * KIB or at + size > volume.size:
        return None
    record = volume.read(at, size)
    if record[:4] != b"FILE":
        return None
    here = int.from_bytes(record[20:22], "little")
    while here + 24 <= size:
        kind, length = struct.unpack_from("<II", record, here)
        if kind == 0x60:
            value, start = struct.unpack_from("<IH", record, here + 16)
            return text(record[here + start : here + start + min(value, 256)], "utf-16-le")
        if kind == 0xFFFFFFFF or length < 24:
            return None
        here += length
    return None


def exfat(volume: Volume) -> dict[str, Value]:
    """Main boot sector: serial number, sizes."""
    boot = volume.read(0, 512)
    sectors = int.from_bytes(boot[72:80], "little")
    serial = int.from_bytes(boot[100:104], "little")
    shift = min(boot[108], 12)
    heap, _, root = struct.unpack_from("<III", boot, 88)
    cluster_shift = min(shift + boot[109], 25)
    return {
        "uuid": f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
        "label": exfat_label(volume, (heap << shift) + (root - 2 << cluster_shift), 1 << cluster_shift),
        "size": sectors << shift,
        "cluster_size": 1 << cluster_shift,
    }


def exfat_label(volume: Volume, at: int, size: int) -> str | None:
    """Look for the label entry (0x83) in the first part of the root directory."""
    if at < 0 or at + size > volume.size:
        return None
    raw = volume.read(at, min(size, 64 * KIB))
    for start in range(0, len(raw), 32):
        if raw[start] == 0x83:
            return text(raw[start + 2 : start + 2 + 2 * min(raw[start + 1], 11)], "utf-16-le")
    return None


def f2fs(volume: Volume) -> dict[str, Value]:
    """Superblock at 1024."""
    raw = volume.read(1024, 1148)
    block = 1 << min(int.from_bytes(raw[16:20], "little"), 16)
    blocks = int.from_bytes(raw[36:44], "little")
    return {
        "uuid": guid(raw[108:124]),
        "label": text(raw[124 : 124 + 1024], "utf-16-le"),
        "size": blocks * block,
    }


def erofs(volume: Volume) -> dict[str, Value]:
    """Superblock at 1024."""
    raw = volume.read(1024, 128)
    blocks = int.from_bytes(raw[36:40], "little")
    return {
        "uuid": guid(raw[48:64]),
        "label": text(raw[64:80]),
        "size": blocks << min(raw[12], 16),
    }


def squashfs(volume: Volume) -> dict[str, Value]:
    """Superblock, version 4."""
    raw = volume.read(0, 96)
    return {
        "size": int.from_bytes(raw[40:48], "little"),
        "block_size": int.from_bytes(raw[12:16], "little"),
        "version": f"{int.from_bytes(raw[28:30], 'little')}.{int.from_bytes(raw[30:32], 'little')}",
    }


def iso9660(volume: Volume) -> dict[str, Value]:
    """Primary volume descriptor."""
    raw = volume.read(32 * KIB, 2 * KIB)
    return {
        "label": text(raw[40:72], "ascii"),
        "size": int.from_bytes(raw[80:84], "little") * int.from_bytes(raw[128:130], "little"),
    }


def jfs(volume: Volume) -> dict[str, Value]:
    """Superblock at 32 KiB."""
    raw = volume.read(32 * KIB, 184)
    return {"uuid": guid(raw[136:152]), "label": text(raw[152:168])}


def reiserfs(volume: Volume) -> dict[str, Value]:
    """Superblock at 64 KiB."""
    raw = volume.read(64 * KIB, 116)
    return {
        "uuid": guid(raw[84:100]),
        "label": text(raw[100:116]),
        "size": int.from_bytes(raw[0:4], "little") * int.from_bytes(raw[44:46], "little"),
    }


def hfsplus(volume: Volume) -> dict[str, Value]:
    """Volume header at 1024."""
    raw = volume.read(1024, 512)
    block, blocks = struct.unpack_from(">II", raw, 40)
    return {"size": block * blocks, "block_size": block}


def apfs(volume: Volume) -> dict[str, Value]:
    """Container superblock in block 0."""
    raw = volume.read(0, 96)
    block, blocks = struct.unpack_from("<IQ", raw, 36)
    return {"uuid": guid(raw[72:88]), "size": block * blocks, "block_size": block}


def bcache(volume: Volume) -> dict[str, Value]:
    """Superblock in sector 8."""
    raw = volume.read(4 * KIB, 208)
    version = int.from_bytes(raw[16:24], "little")
    return {
        "uuid": guid(raw[40:56]),
        "set_uuid": guid(raw[56:72]),
        "label": text(raw[72:104]),
        "role": "backing" if version in (1, 4) else "cache",
    }


def bcachefs(volume: Volume) -> dict[str, Value]:
    """Superblock in sector 8."""
    raw = volume.read(4 * KIB, 104)
    return {"uuid": guid(raw[56:72]), "label": text(raw[72:104])}


def lvm1(volume: Volume) -> dict[str, Value]:
    """PV header in sector 0."""
    raw = volume.read(0, 300)
    name = raw[44:76].decode("ascii", "replace")
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    parts = [name[start:end] for start, end in pairwise(cuts)]
    return {"uuid": "-".join(parts), "vg_name": text(raw[172:300])}


def bluestore(volume: Volume) -> dict[str, Value]:
    """The text line with the OSD's UUID."""
    raw = volume.read(0, 60)
    return {"uuid": text(raw[23:59], "ascii")}


def imsm(volume: Volume) -> dict[str, Value]:
    """Anchor two sectors before the end; the version follows the signature."""
    raw = volume.read(volume.size - 2 * SECTOR, 64)
    return {"version": text(raw[24:32], "ascii"), "family": f"{int.from_bytes(raw[40:44], 'little'):08x}"}


def ddf(volume: Volume) -> dict[str, Value]:
    """Anchor header in the last sector."""
    raw = volume.read(volume.size - SECTOR, 40)
    return {"guid": raw[8:32].hex(), "version": text(raw[32:40], "ascii")}


def drbd(volume: Volume) -> dict[str, Value]:
    """Internal metadata in the last 4 KiB."""
    raw = volume.read(volume.size - 4 * KIB, 64)
    return {"uuid": f"{int.from_bytes(raw[40:48], 'big'):x}", "version": "9" if raw[60:64] == DRBD_9 else "8"}


def vmfs(volume: Volume) -> dict[str, Value]:
    """Volume information at 1 MiB."""
    return {"version": int.from_bytes(volume.read(MIB + 4, 4), "little")}


def is_udf(volume: Volume) -> bool:
    """Look for NSR02 or NSR03 in the volume recognition sequence, which starts at 32 KiB (ECMA-167, 2/8.3.1).

    Descriptors are 2 KiB, or one block where that is larger; beside ISO 9660 they come after its own.
    """
    if volume.size < 34 * KIB or volume.read(32 * KIB + 1, 5) not in (b"BEA01", b"CD001"):
        return False
    for at in range(32 * KIB, min(32 * KIB + UDF_SEQUENCE, volume.size - 2 * KIB + 1), 2 * KIB):
        name = volume.read(at, 6)[1:]
        if name in (b"NSR02", b"NSR03"):
            return True
    return False


def zfs_labels(volume: Volume) -> list[int]:
    """Bytes at which the labels are that have a packed list of names and an uberblock."""
    end = volume.size // ZFS_LABEL * ZFS_LABEL
    places = (0, ZFS_LABEL, end - 2 * ZFS_LABEL, end - ZFS_LABEL)
    return [at for at in places if at >= 0 and at + ZFS_LABEL <= volume.size and is_zfs_label(volume, at)]


def is_zfs_label(volume: Volume, at: int) -> bool:
    """Whether there is an XDR list at 16 KiB of a label, and an uberblock in its second half."""
    head = volume.read(at + 16 * KIB, 12)
    if head[0] != 1 or head[4:] != b"\0\0\0\0\0\0\0\1":
        return False
    raw = volume.read(at + 128 * KIB, 128 * KIB)
    return any(raw[place : place + 8] in UBERBLOCK for place in range(0, len(raw), KIB))


def zfs(volume: Volume) -> dict[str, Value]:
    """Pool name and GUIDs of the first label: name/value pairs in XDR, big-endian."""
    raw = volume.read(zfs_labels(volume)[0] + 16 * KIB, 112 * KIB)
    found: dict[str, Value] = {}
    at = 12
    while at + 12 <= len(raw):
        size, _, length = struct.unpack_from(">III", raw, at)
        start = at + 12 + (length + 3) // 4 * 4
        if size < 24 or start + 12 > min(at + size, len(raw)):
            break
        name = text(raw[at + 12 : at + 12 + length])
        kind, _, first = struct.unpack_from(">III", raw, start)
        if name == "name" and kind == NV_STRING:
            found["pool"] = text(raw[start + 12 : start + 12 + min(first, 256)])
        elif name in ("guid", "pool_guid") and kind == NV_UINT64:
            found[name] = str(int.from_bytes(raw[start + 8 : start + 16], "big"))
        at += size
    return found


SECTOR = 512
UDF_SEQUENCE = 256 * KIB
ZFS_LABEL = 256 * KIB
UBERBLOCK = (struct.pack("<Q", 0x00BAB10C), struct.pack(">Q", 0x00BAB10C))
NV_UINT64, NV_STRING = 8, 9
DDF = b"\xde\x11\xde\x11"
DRBD_8, DRBD_8_UNCLEAN, DRBD_9 = (struct.pack(">I", 0x83740267 + n) for n in (4, 5, 6))
DRBD_AT = -4 * KIB + 60
BCACHE = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
BCACHEFS = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
BOOT_SIGNATURE = (510, b"\x55\xaa")
IN_SECTOR_8 = struct.pack("<Q", 8)

# What stands at the end belongs to the whole disk; it comes first, as membership does everywhere.
KNOWN = (
    Known("ddf", ((-SECTOR, DDF),), ddf, "member"),
    Known("ddf", ((-SECTOR, DDF[::-1]),), ddf, "member"),
    Known("imsm", ((-2 * SECTOR, b"Intel Raid ISM Cfg Sig. "),), imsm, "member"),
    Known("drbd", ((DRBD_AT, DRBD_8),), drbd, "member"),
    Known("drbd", ((DRBD_AT, DRBD_8_UNCLEAN),), drbd, "member"),
    Known("drbd", ((DRBD_AT, DRBD_9),), drbd, "member"),
    Known("lvm1", ((0, b"HM\1\0"),), lvm1, "member"),
    Known("lvm1", ((0, b"HM\2\0"),), lvm1, "member"),
    Known("bcache", ((4120, BCACHE), (4104, IN_SECTOR_8)), bcache, "member"),
    Known("bcachefs", ((4120, BCACHE), (4200, IN_SECTOR_8)), bcachefs, "member"),
    Known("bcachefs", ((4120, BCACHEFS), (4200, IN_SECTOR_8)), bcachefs, "member"),
    Known("bluestore", ((0, b"bluestore block device\n"),), bluestore, "member"),
    Known("zfs", (), zfs, "member", lambda volume: bool(zfs_labels(volume))),
    Known("vmfs-member", ((MIB, b"\x0d\xd0\x01\xc0"),), vmfs, "member"),
    Known("vmfs", ((2 * MIB, b"\x5e\xf1\xab\x2f"),)),
    Known("bitlocker", ((3, b"-FVE-FS-"), BOOT_SIGNATURE), usage="other"),
    Known("dm-verity", ((0, b"verity\0\0\1\0\0\0"),), usage="other"),
    Known("dm-integrity", ((0, b"integrt\0"),), usage="other"),
    Known("ntfs", ((3, b"NTFS    "), BOOT_SIGNATURE), ntfs),
    Known("exfat", ((3, b"EXFAT   "), BOOT_SIGNATURE), exfat),
    Known("refs", ((3, b"ReFS\0"),)),
    Known("f2fs", ((1024, b"\x10\x20\xf5\xf2"),), f2fs),
    Known("erofs", ((1024, b"\xe2\xe1\xf5\xe0"),), erofs),
    Known("squashfs", ((0, b"hsqs"), (28, b"\4\0")), squashfs),
    Known("hfsplus", ((1024, b"H+\0\4"),), hfsplus),
    Known("hfsplus", ((1024, b"HX\0\5"),), hfsplus),
    Known("apfs", ((32, b"NXSB"), (24, b"\1\0")), apfs),
    Known("jfs", ((32 * KIB, b"JFS1"),), jfs),
    Known("reiserfs", ((64 * KIB + 52, b"ReIsErFs"),), reiserfs),
    Known("reiserfs", ((64 * KIB + 52, b"ReIsEr2Fs"),), reiserfs),
    Known("reiserfs", ((64 * KIB + 52, b"ReIsEr3Fs"),), reiserfs),
    Known("reiser4", ((64 * KIB, b"ReIsEr4"),)),
    Known("udf", (), None, "filesystem", is_udf),
    Known("iso9660", ((32 * KIB, b"\1CD001\1"),), iso9660),
)


def has_magics(known: Known, volume: Volume) -> bool:
    """Whether all bytes of an entry are in their places."""
    for at, magic in known.magics:
        start = at if at >= 0 else volume.size + at
        if start < 0 or start + len(magic) > volume.size or volume.read(start, len(magic)) != magic:
            return False
    return known.test is None or known.test(volume)


def probe(volume: Volume) -> Named | Suspect | None:
    """Return the first known format that `volume` holds, with its identities; the order is the table's."""
    known = next((known for known in KNOWN if has_magics(known, volume)), None)
    if known is None:
        return None
    try:
        return Named(known, volume)
    except Truncated as error:
        return Suspect(known.kind, volume, str(error), error.at)
