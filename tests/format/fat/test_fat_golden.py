"""FAT images made by dosfstools and mtools, judged by fsck.fat, blkid and mtools."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from onebay.base import tool
from onebay.base.error import Damaged, Refused, Unsupported
from onebay.block import FileVolume, Overlay
from onebay.fs.fat import Fat, probe
from onebay.layer import Suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    Golden = Callable[[str, str], FileVolume]

CASES = json.loads((Path(__file__).parent / "expected.json").read_text("utf-8"))
BAD_CLUSTERS = {"bad": 6}  # make.sh names 11 KiB in 2 KiB clusters
GARBAGE = bytes(range(256)) * 4096


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest, golden: Golden) -> tuple[Fat, dict[str, Any], str]:
    layer = probe(golden("fat", request.param))
    assert isinstance(layer, Fat)
    return layer, CASES[request.param], request.param


def clusters(said: str) -> set[int]:
    """Read `5-8 13-16`."""
    runs = (run.split("-") for run in said.split())
    return {number for first, last in runs for number in range(int(first), int(last) + 1)}


def clusters_of(layer: Fat) -> set[int]:
    size, first = layer.geometry.cluster_size, layer.geometry.data_at
    extents = layer.used()[0].clip(first, layer.volume.size)
    return {2 + (at - first) // size for start, end in extents for at in range(start, end, size)}


def test_facts(case: tuple[Fat, dict[str, Any], str]) -> None:
    layer, said, _ = case
    facts = layer.facts()
    assert (facts["uuid"], facts["label"], facts["type"]) == (said["uuid"], said["label"], said["type"])
    assert (facts["clusters"], facts["cluster_size"]) == (said["clusters"], said["cluster_size"])
    assert layer.geometry.data_at == said["data_at"]
    assert layer.keep_whole() is None


def test_used_is_what_fsck_counts_and_mshowfat_lists(case: tuple[Fat, dict[str, Any], str]) -> None:
    layer, said, name = case
    mine = clusters_of(layer)
    listed = set().union(*(clusters(entry["clusters"]) for entry in said["files"].values()))
    extra = 1 if name == "mirror" else 0  # the cluster that only the second FAT marks
    assert len(mine) == said["used_clusters"] - BAD_CLUSTERS.get(name, 0) + extra
    assert listed <= mine
    if layer.geometry.bits < 32:
        assert mine - listed == ({7000} if extra else set())
    assert layer.used()[0].covers(0, said["data_at"])
    assert layer.used_bytes() == said["data_at"] + len(mine) * said["cluster_size"]


def test_files(case: tuple[Fat, dict[str, Any], str]) -> None:
    layer, said, _ = case
    for path, entry in said["files"].items():
        if path.endswith("/"):
            assert layer.listdir(path) is not None
            assert layer.read_file(path) is None
            continue
        content = layer.read_file(path.upper())
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        found = layer.find(path)
        assert found is not None
        assert found.name == path.rsplit("/", 1)[1]
        at, size = layer.geometry.data_at, layer.geometry.cluster_size
        mine = {2 + (x - at) // size for a, b in layer.file_extents(found) for x in range(a, b, size)}
        assert mine == clusters(entry["clusters"])


def test_every_folder_lists_what_mdir_lists(case: tuple[Fat, dict[str, Any], str]) -> None:
    layer, said, _ = case
    folders = {"/"} | {path for path in said["files"] if path.endswith("/")}
    for folder in folders:
        below = {path for path in said["files"] if path != folder and path.startswith(folder)}
        direct = {path for path in below if "/" not in path.removeprefix(folder).rstrip("/")}
        entries = layer.listdir(folder)
        assert entries is not None
        assert {folder + entry.name + ("/" if entry.is_dir else "") for entry in entries} == direct


def test_findings(case: tuple[Fat, dict[str, Any], str]) -> None:
    layer, said, _ = case
    kinds = {finding.kind for finding in layer.check()}
    assert ("dirty" in kinds) == said["dirty"]
    assert ("fat-copies-differ" in kinds) == said["copies_differ"]
    assert kinds <= {"dirty", "fat-copies-differ"}


def test_a_copy_of_used_bytes_is_the_same_file_system(
    case: tuple[Fat, dict[str, Any], str], tmp_path: Path
) -> None:
    layer, said, name = case
    if name in ("mirror", "dirty"):
        pytest.skip("fsck.fat rejects the original too")
    copy = tmp_path / "copy.img"
    with copy.open("wb") as out:
        for at in range(0, layer.volume.size, len(GARBAGE)):
            out.write(GARBAGE[: layer.volume.size - at])
        for start, end in layer.used()[0]:
            out.seek(start)
            out.write(layer.volume.read(start, end - start))
    tool.run(["fsck.fat", "-n", copy])
    for path, entry in said["files"].items():
        if not path.endswith("/"):
            raw = tool.run(["mcopy", "-i", copy, f"::{path}", "-"], env={"MTOOLS_SKIP_CHECK": "1"}).stdout
            assert hashlib.sha256(raw).hexdigest() == entry["sha256"]
    copy.unlink()


def test_what_is_not_there(golden: Golden) -> None:
    layer = probe(golden("fat", "fat16"))
    assert isinstance(layer, Fat)
    assert layer.find("/EFI/BOOT/BOOTIA32.EFI") is None
    assert layer.read_file("/EFI/NONE/BOOTX64.EFI") is None
    assert layer.listdir("/EFI/BOOT/BOOTX64.EFI") is None
    assert layer.read_file("\\efi\\boot\\bootx64.efi") == layer.read_file("/EFI/BOOT/BOOTX64.EFI")
    with pytest.raises(Refused, match="too large"):
        layer.read_file("/EFI/BOOT/BOOTX64.EFI", limit=1000)


def test_a_loop_in_a_chain_ends(golden: Golden) -> None:
    volume = golden("fat", "fat16")
    layer = probe(volume)
    assert isinstance(layer, Fat)
    folder, loader = layer.find("/grub"), layer.find("/EFI/BOOT/BOOTX64.EFI")
    assert folder is not None
    assert loader is not None
    for entry in (folder, loader):
        own = entry.cluster.to_bytes(2, "little")
        volume.write(layer.geometry.fat_at + 2 * entry.cluster, own)
    with pytest.raises(Damaged, match="too long or a loop"):
        layer.listdir("/grub")
    # the loop in a file is as long as the file says, and no longer
    content = layer.read_file("/EFI/BOOT/BOOTX64.EFI")
    assert content is not None
    assert len(content) == loader.size


def test_growing_is_refused(golden: Golden) -> None:
    volume = golden("fat", "fat12")
    layer = probe(Overlay(volume, size=volume.size + (8 << 20)))
    assert isinstance(layer, Fat)
    with pytest.raises(Unsupported, match="FAT12 is not grown"):
        layer.plan_grow()
    fits = probe(volume)
    assert isinstance(fits, Fat)
    assert fits.plan_grow() == []


@pytest.mark.parametrize(
    ("at", "raw", "says"),
    [
        (11, b"\0\3", "bytes per sector"),
        (13, b"\3", "sectors per cluster"),
        (14, b"\0\0", "reserved sectors"),
        (16, b"\0", "number of FATs"),
        (21, b"\x10", "media"),
        (19, b"\0\0", "total sectors"),
        (17, b"\0\0", "root directory"),
        (32, b"\xff\xff\xff\x7f", "clusters of a FAT16"),
        (32, b"\0\1\1\0", "the volume at"),
    ],
)
def test_a_broken_rule_makes_it_a_suspect(golden: Golden, at: int, raw: bytes, says: str) -> None:
    volume = golden("fat", "fat16")
    if at == 32:
        volume.write(19, b"\0\0")
    if at == 19:
        volume.write(32, bytes(4))
    volume.write(at, raw)
    found = probe(volume)
    assert isinstance(found, Suspect)
    assert says in found.evidence


def test_an_mbr_that_kept_the_parameter_block_is_no_fat(golden: Golden) -> None:
    volume = golden("fat", "fat16")
    assert isinstance(probe(volume), Fat)
    volume.write(446, bytes.fromhex("800101000efeffff0008000000e80000") + bytes(48))
    assert probe(volume) is None


def test_the_fake_table_of_mkfs_is_still_a_fat(tmp_path: Path) -> None:
    path = tmp_path / "fake.img"
    with path.open("wb") as out:
        out.truncate(16 << 20)
    tool.run(["mkfs.fat", "--mbr=yes", "-F", "16", path])
    volume = FileVolume(path)
    assert volume.read(446, 16) != bytes(16)
    assert isinstance(probe(volume), Fat)
    volume.close()
