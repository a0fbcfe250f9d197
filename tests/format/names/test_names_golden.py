"""Formats known by name: images of their own tools, headers written by the specification; blkid judges both.

Debian has no tool that makes the second group without a kernel module or a licence, so each header is built
here from its documentation, and it counts only if blkid recognises it too.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onebay.base import tool
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Span
from onebay.fs.names import KNOWN, Named, probe
from onebay.layer import Suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    Golden = Callable[[str, str], FileVolume]

CASES = json.loads((Path(__file__).parent / "expected.json").read_text("utf-8"))
# What blkid calls by another name.
BLKID_NAMES = {
    "zfs": "zfs_member",
    "lvm1": "LVM1_member",
    "ddf": "ddf_raid_member",
    "imsm": "isw_raid_member",
    "bluestore": "ceph_bluestore",
    "vmfs": "VMFS",
    "vmfs-member": "VMFS_volume_member",
    "bitlocker": "BitLocker",
    "refs": "ReFS",
    "dm-verity": "DM_verity_hash",
    "dm-integrity": "DM_integrity",
}
# We do not read these: the time stamp that blkid calls UUID, and what a UDF says of itself.
UNREAD = {"iso9660": {"UUID"}, "udf": {"UUID", "LABEL"}}


@pytest.mark.parametrize("name", sorted(CASES))
def test_kind_and_identities(golden: Golden, name: str) -> None:
    volume, said = golden("names", name), CASES[name]
    layer = probe(volume)
    assert isinstance(layer, Named)
    assert layer.title == said["TYPE"]
    for ours, theirs in (("uuid", "UUID"), ("label", "LABEL")):
        if theirs not in UNREAD.get(said["TYPE"], set()):
            assert layer.facts().get(ours) == said.get(theirs)
    assert layer.used() == (ExtentSet.single(0, volume.size),)


def test_sizes(golden: Golden) -> None:
    for name in ("ntfs", "exfat", "f2fs", "iso9660", "reiserfs"):
        volume = golden("names", name)
        layer = probe(volume)
        assert isinstance(layer, Named)
        assert layer.facts()["size"] == volume.size


def test_the_two_roles_of_bcache(golden: Golden) -> None:
    for name, role in (("bcache-backing", "backing"), ("bcache-cache", "cache")):
        layer = probe(golden("names", name))
        assert isinstance(layer, Named)
        assert layer.facts()["role"] == role


@pytest.mark.parametrize("name", sorted(CASES))
def test_cut_short_anywhere_it_is_nothing_or_a_suspect_or_named(golden: Golden, name: str) -> None:
    volume = golden("names", name)
    for size in (1, 512, 1024, 1536, 4096, 4300, 32768, 34816, 65536, 65600, 69632):
        if size < volume.size:
            assert isinstance(probe(Span("short", volume, 0, size)), Named | Suspect | None)


def hfsplus() -> dict[int, bytes]:
    header = bytearray(512)
    header[0:4] = b"H+\0\4"
    struct.pack_into(">II", header, 40, 4096, 1024)
    return {1024: bytes(header), 4 * 4096: bytes(4096)}


def apfs() -> dict[int, bytes]:
    block = bytearray(4096)
    struct.pack_into("<QQHHHH", block, 8, 1, 1, 1, 0, 0, 0)
    block[32:36] = b"NXSB"
    struct.pack_into("<IQ", block, 36, 4096, 1024)
    block[72:88] = bytes(range(16))
    low = high = 0
    for (word,) in struct.iter_unpack("<I", block[8:]):
        low += word
        high += low
    first = ~((low + high) % 0xFFFFFFFF) & 0xFFFFFFFF
    second = ~((low + first) % 0xFFFFFFFF) & 0xFFFFFFFF
    struct.pack_into("<II", block, 0, first, second)
    return {0: bytes(block)}


def bcachefs() -> dict[int, bytes]:
    block = bytearray(1024)
    block[24:40] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    block[56:72] = bytes(range(16))
    block[72:76] = b"tank"
    struct.pack_into("<QQHBBI", block, 104, 8, 1, 8, 0, 1, 0)
    return {4096: bytes(block)}


def pair(name: bytes, kind: int, value: bytes) -> bytes:
    body = struct.pack(">I", len(name)) + name + bytes(-len(name) % 4) + struct.pack(">II", kind, 1) + value
    return struct.pack(">II", len(body) + 8, len(body) + 8) + body


def zfs() -> dict[int, bytes]:
    pairs = (
        pair(b"version", 8, struct.pack(">Q", 5000))
        + pair(b"name", 9, struct.pack(">I", 4) + b"tank")
        + pair(b"pool_guid", 8, struct.pack(">Q", 1234567890123456789))
        + pair(b"guid", 8, struct.pack(">Q", 987654321))
    )
    label = bytearray(256 << 10)
    label[16 << 10 : (16 << 10) + 12] = b"\1\1\0\0" + bytes(7) + b"\1"
    label[(16 << 10) + 12 : (16 << 10) + 12 + len(pairs)] = pairs
    for number in range(4, 8):
        struct.pack_into("<QQQ", label, (128 << 10) + number * 1024, 0x00BAB10C, 5000, number)
    end = 64 << 20
    return {at: bytes(label) for at in (0, 256 << 10, end - (512 << 10), end - (256 << 10))}


def drbd() -> dict[int, bytes]:
    block = bytearray(4096)
    struct.pack_into(">Q", block, 40, 0xABCDEF0123456789)
    struct.pack_into(">I", block, 60, 0x8374026D)
    return {-4096: bytes(block)}


def ddf() -> dict[int, bytes]:
    header = b"\xde\x11\xde\x11" + bytes(4) + b"Linux-MD" + bytes(range(16)) + b"01.02.00"
    return {-512: header.ljust(512, b"\xff").replace(b"\xff" * 8, b"\0" * 8)}


def imsm() -> dict[int, bytes]:
    return {-1024: b"Intel Raid ISM Cfg Sig. 1.3.00\0\0" + struct.pack("<IIII", 0, 512, 0xFEED, 1)}


def bitlocker() -> dict[int, bytes]:
    boot = bytearray(512)
    boot[0:11] = b"\xeb\x58\x90-FVE-FS-"
    struct.pack_into("<Q", boot, 176, 4096)
    boot[510:512] = b"\x55\xaa"
    return {0: bytes(boot), 4096: b"-FVE-FS-\x70\0\2\0" + bytes(200)}


LVM_ID = b"AbcdefGhijKlmnOpqrStuvWxyzAbcdef"

# kind, bytes by place (negative: from the end), facts that must come out
WRITTEN = {
    "hfsplus": (hfsplus, {"size": 4096 * 1024, "block_size": 4096}),
    "apfs": (apfs, {"uuid": "00010203-0405-0607-0809-0a0b0c0d0e0f", "size": 4096 * 1024}),
    "bcachefs": (bcachefs, {"uuid": "00010203-0405-0607-0809-0a0b0c0d0e0f", "label": "tank"}),
    "zfs": (zfs, {"pool": "tank", "pool_guid": "1234567890123456789", "guid": "987654321"}),
    "drbd": (drbd, {"uuid": "abcdef0123456789", "version": "9"}),
    "ddf": (ddf, {"version": "01.02.00"}),
    "imsm": (imsm, {"version": "1.3.00", "family": "0000feed"}),
    "lvm1": (
        lambda: {0: b"HM\2\0" + bytes(40) + LVM_ID + bytes(96) + b"vgname\0"},
        {"uuid": "Abcdef-Ghij-Klmn-Opqr-Stuv-Wxyz-Abcdef", "vg_name": "vgname"},
    ),
    "bluestore": (
        lambda: {0: b"bluestore block device\n11111111-2222-3333-4444-555555555555\n"},
        {"uuid": "11111111-2222-3333-4444-555555555555"},
    ),
    "vmfs-member": (lambda: {1 << 20: b"\x0d\xd0\x01\xc0\5\0\0\0"}, {"version": 5}),
    "vmfs": (lambda: {2 << 20: b"\x5e\xf1\xab\x2f"}, {}),
    "bitlocker": (bitlocker, {}),
    "refs": (lambda: {0: b"\0\0\0ReFS\0"}, {}),
    "reiser4": (lambda: {64 << 10: b"ReIsEr4"}, {}),
    "dm-verity": (lambda: {0: b"verity\0\0\1\0\0\0"}, {}),
    "dm-integrity": (lambda: {0: b"integrt\0\5" + bytes(64)}, {}),
}


@pytest.mark.parametrize("kind", sorted(WRITTEN))
def test_headers_by_the_specification(kind: str, tmp_path: Path) -> None:
    build, facts = WRITTEN[kind]
    path = tmp_path / "image"
    size = 64 << 20
    with path.open("wb") as out:
        out.truncate(size)
        for at, raw in build().items():
            out.seek(at if at >= 0 else size + at)
            out.write(raw)
    volume = FileVolume(path)
    layer = probe(volume)
    assert isinstance(layer, Named)
    assert layer.title == kind
    assert {name: layer.facts().get(name) for name in facts} == facts
    if kind in ("ddf", "imsm", "drbd", "zfs", "lvm1", "bcachefs", "bluestore"):
        assert layer.usage == "member"
    volume.close()
    name = BLKID_NAMES.get(kind, kind)
    if name not in tool.run(["blkid", "-k"]).text.split():
        pytest.skip(f"this blkid does not know {name}")
    assert tool.run(["blkid", "-p", "-o", "value", "-s", "TYPE", path]).text.strip() == name


def test_every_entry_has_a_case() -> None:
    tested = {said["TYPE"] for said in CASES.values()} | set(WRITTEN)
    assert {known.kind for known in KNOWN} - tested == set()


def test_random_and_empty_volumes_are_nobodys(tmp_path: Path) -> None:
    for raw in (b"", b"\0" * 512, b"\0" * (1 << 20), b"\xff" * (1 << 20)):
        path = tmp_path / "image"
        path.write_bytes(raw)
        volume = FileVolume(path)
        assert probe(volume) is None
        volume.close()
