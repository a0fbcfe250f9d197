"""Damaged disks: inspect says what is wrong, capture keeps every byte, nothing damaged is written."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from badkit import (
    MIB,
    blank,
    comes_back,
    ends,
    fails,
    findings,
    golden,
    onebay,
    patch,
    tool,
    untouched,
)

SUPER = 64 << 10  # of btrfs


def part_of(folder: Path, kind: str, case: str) -> tuple[Path, int]:
    """A disk with a golden image as its only partition, and room behind it; where the partition starts."""
    inner = golden(kind, case, folder / "inner.img")
    size = inner.stat().st_size
    disk = blank(folder / "disk.img", size + 3 * MIB)
    tool("sfdisk", "-q", disk, stdin=f"label: gpt\nstart=2048, size={size // 512}\n")
    tool("dd", f"if={inner}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    inner.unlink()
    os.truncate(disk, size + 8 * MIB)
    return disk, MIB


def content(disk: Path, start: int) -> str:
    """Digest of what stands in the partition that part_of made."""
    size = disk.stat().st_size - 8 * MIB
    return tool("sh", "-c", f"tail -c +{start + 1} '{disk}' | head -c {size} | sha256sum")


def grows_or_refuses(disk: Path, *allowed: int) -> None:
    """Plan to grow: where that fails, it fails cleanly and in the same way for programs."""
    with untouched(disk):
        status = ends(allowed, "grow", disk, "--dry-run")
        assert status == ends(allowed, "grow", disk, "--dry-run", "--json")


@pytest.mark.parametrize("case", ["primary-bad", "primary-array-bad", "backup-bad"])
def test_gpt_with_one_bad_half(case: str, tmp_path: Path) -> None:
    """The other half is used; growing mends, and a capture is exact."""
    disk = golden("gpt", case, tmp_path / "disk.img")
    assert findings(disk) & {"gpt-primary-bad", "gpt-backup-bad"}
    comes_back(disk, tmp_path)
    grows_or_refuses(disk, 3)


def test_gpt_with_both_headers_bad(tmp_path: Path) -> None:
    disk = golden("gpt", "both-bad", tmp_path / "disk.img")
    assert findings(disk) == {"gpt-damaged"}
    comes_back(disk, tmp_path)
    with untouched(disk):
        fails(3, "grow", disk, match="gpt is damaged")
        fails(3, "fold", "--boot", disk, "--data", disk, "--in-place")


def test_overlapping_partitions(tmp_path: Path) -> None:
    """MBR entries edited so that the second begins inside the first."""
    disk = golden("mbr", "primary", tmp_path / "disk.img")
    patch(disk, 446 + 16 + 8, struct.pack("<I", 4096))
    assert "overlap" in " ".join(findings(disk))
    comes_back(disk, tmp_path)
    with untouched(disk):
        fails(3, "grow", disk, match="overlap")
        fails(3, "fold", "--boot", golden("mbr", "chain", tmp_path / "b.img"), "--data", disk, "--in-place")


def test_overlapping_partitions_of_a_gpt(tmp_path: Path) -> None:
    """The same in both copies of a GPT, with right checksums."""
    disk = golden("gpt", "plain", tmp_path / "disk.img")
    for header_at in (512, disk.stat().st_size - 512):
        with disk.open("r+b") as file:
            file.seek(header_at)
            header = bytearray(file.read(512))
            size, array_at, count, entry = (
                int.from_bytes(header[12:16], "little"),
                int.from_bytes(header[72:80], "little") * 512,
                int.from_bytes(header[80:84], "little"),
                int.from_bytes(header[84:88], "little"),
            )
            file.seek(array_at)
            array = bytearray(file.read(count * entry))
            array[4 * entry + 32 : 4 * entry + 40] = struct.pack("<Q", 4096)  # p5 from the middle of p1
            struct.pack_into("<I", header, 88, zlib.crc32(array))
            header[16:20] = bytes(4)
            struct.pack_into("<I", header, 16, zlib.crc32(header[:size]))
            file.seek(array_at)
            file.write(array)
            file.seek(header_at)
            file.write(header)
    assert "overlap" in " ".join(findings(disk))
    comes_back(disk, tmp_path)
    with untouched(disk):
        fails(3, "grow", disk, match="overlap")


@pytest.mark.parametrize("to", ["the first", "itself"])
def test_ebr_loop(to: str, tmp_path: Path) -> None:
    """The second boot record of the chain names one that was there before as the next."""
    disk = golden("mbr", "chain", tmp_path / "disk.img")
    document = json.loads(tool("sfdisk", "-J", disk))["partitiontable"]
    extended = next(part["start"] for part in document["partitions"] if part["type"] in ("5", "f"))
    with disk.open("rb") as file:
        file.seek(extended * 512 + 446 + 16 + 8)
        second = extended + int.from_bytes(file.read(4), "little")
    target = 0 if to == "the first" else second - extended
    patch(disk, second * 512 + 446 + 16, struct.pack("<B3sB3sII", 0, b"\0" * 3, 5, b"\0" * 3, target, 2048))
    assert findings(disk) == {"mbr-damaged"}
    comes_back(disk, tmp_path)
    with untouched(disk):
        fails(3, "grow", disk, match="mbr is damaged")


def test_lvm_with_a_missing_pv(tmp_path: Path) -> None:
    disk, _ = part_of(tmp_path, "lvm", "kinds-a")
    found = onebay("inspect", disk, "--json").document["findings"]
    assert any("missing" in finding["text"] for finding in found), found
    comes_back(disk, tmp_path)
    with untouched(disk):
        fails(6, "grow", disk, match="is missing: expected 2")


def test_md_with_two_missing_members(tmp_path: Path) -> None:
    disk, start = part_of(tmp_path, "md", "raid5-a")
    found = onebay("inspect", disk, "--json").document["findings"]
    assert any("at least 2 needed" in finding["text"] for finding in found), found
    comes_back(disk, tmp_path)
    before = content(disk, start)
    ends((4, 6), "grow", disk)
    assert content(disk, start) == before


def test_btrfs_with_a_bad_chunk_root(tmp_path: Path) -> None:
    """Both copies of the chunk tree's root, found by what is in their headers."""
    disk, start = part_of(tmp_path, "btrfs", "dup")
    with disk.open("rb") as file:
        file.seek(start + SUPER + 88)
        chunk_root = file.read(8)
    places = []
    with disk.open("rb") as file:
        at = 0
        while (at := seek_data(file.fileno(), at)) is not None:
            block = os.pread(file.fileno(), 4096, at)
            if block[48:56] == chunk_root and block[64:72] != b"_BHRfS_M":
                places.append(at)
            at += 4096
    assert len(places) == 2, places
    patch(disk, places[0] + 200, b"\xff" * 64)
    assert not any("btrfs-damaged" in kind for kind in findings(disk))  # the other copy is good
    patch(disk, places[1] + 200, b"\xff" * 64)
    document = onebay("inspect", disk, "--json").document
    assert any("btrfs" in finding["kind"] for finding in document["findings"]), document["findings"]
    comes_back(disk, tmp_path)
    grows_or_refuses(disk, 3, 4, 5)


def seek_data(fd: int, at: int) -> int | None:
    """The next 4096-byte block that is no hole."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA) // 4096 * 4096
    except OSError:
        return None


CUTS = [
    ("mbr", "chain"),
    ("gpt", "plain"),
    ("gpt", "sector4096"),
    ("md", "edge-gpt"),
    ("md", "v12"),
    ("lvm", "dsm"),
    ("ext", "ext4"),
    ("btrfs", "old"),
    ("xfs", "v5"),
    ("fat", "fat32"),
    ("swap", "pages-4k"),
    ("luks", "luks2"),
]


@pytest.mark.parametrize(("kind", "case"), CUTS)
def test_truncated_anywhere(kind: str, case: str, tmp_path: Path) -> None:
    """Cut where structures are, between them and within a sector: every verb ends cleanly."""
    disk = golden(kind, case, tmp_path / "disk.img")
    size = disk.stat().st_size
    early = [1, 512, 1024, 1500, 4096, 33 << 10, (64 << 10) + 100, MIB, MIB + 513, 9 * MIB]
    late = [size // 3 // 512 * 512, size // 2, size - MIB, size - 4096, size - 512, size - 1]
    turn = CUTS.index((kind, case))
    cuts = {early[(turn * 3 + n) % len(early)] for n in range(3)} | {
        late[(turn + n) % len(late)] for n in range(3)
    }
    image = tmp_path / "x.raw.zst"
    for cut in sorted((cut for cut in cuts if 0 < cut < size), reverse=True):
        os.truncate(disk, cut)
        with untouched(disk):
            inspected = ends((3,), "inspect", disk, "--json")
            assert ends((3,), "capture", disk, image, "--yes") == inspected
            ends((3, 4, 5, 6), "grow", disk, "--dry-run")
        if not inspected:
            onebay("verify", image, "--against", disk)
        assert bool(cut % 512) >= bool(inspected), cut  # only what is not made of sectors is no disk at all
