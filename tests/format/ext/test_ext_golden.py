"""ext2/3/4 images against what dumpe2fs and blkid say about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from onebay.base.error import Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.tool import find, run
from onebay.fs.ext import ExtFs, probe
from onebay.layer import Suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    from onebay.block import FileVolume

    Golden = Callable[[str, str], FileVolume]

EXPECTED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("expected.json").read_text())
WHOLE = [case for case in EXPECTED if case.startswith("ext")]
KEPT = {
    "needs-recovery": "the journal needs recovery",
    "errors": "the file system has recorded errors",
    "not-clean": "the file system was not unmounted cleanly",
    "unknown-incompat": "unknown features: incompat 0x80000000",
    "unknown-ro-compat": "unknown features: rocompat 0x40000000",
    "cut-short": "the file system is larger than its volume",
    "bad-bitmap": "block bitmap of group 0",
    "bad-descriptor": "descriptor of group 0",
}
FINDINGS = {
    "needs-recovery": ["needs-recovery"],
    "errors": ["fs-errors"],
    "not-clean": ["not-clean"],
    "unknown-incompat": ["unknown-features"],
    "unknown-ro-compat": ["unknown-features"],
    "cut-short": ["fs-larger-than-volume"],
    "bad-bitmap": [],
    "bad-descriptor": [],
}


def opened(golden: Golden, case: str) -> ExtFs:
    layer = probe(golden("ext", case))
    assert isinstance(layer, ExtFs)
    return layer


def allocated(expected: dict[str, Any]) -> ExtentSet:
    """What dumpe2fs leaves when its free blocks are taken away; it names clusters by their first block."""
    size, cluster = expected["block_size"], expected.get("cluster_size", expected["block_size"])
    ends = expected["blocks"] * size
    free = []
    for part in expected["free"]:
        first, _, last = part.partition("-")
        free.append((int(first) * size, min(int(last or first) * size + cluster, ends)))
    return ExtentSet.single(expected["first_block"] * size, ends) - ExtentSet.of(free)


def test_every_image_has_its_case() -> None:
    images = {path.name.removesuffix(".img.zst") for path in Path(__file__).parent.glob("*.img.zst")}
    assert images == set(EXPECTED) == {*WHOLE, *KEPT, "bad-superblock"}


@pytest.mark.parametrize("case", WHOLE)
def test_allocated_is_what_dumpe2fs_says(golden: Golden, case: str) -> None:
    fs = opened(golden, case)
    want = allocated(EXPECTED[case])
    assert fs.keep_whole() is None
    assert fs.scan.allocated == want
    (used,) = fs.used()
    boot = ExtentSet.single(0, 2048)
    assert used | fs.scan.unneeded == want | boot | fs.scan.unneeded
    assert not (fs.scan.unneeded - want)
    checksums = {"metadata_csum", "uninit_bg"} & set(EXPECTED[case]["features"].split())
    assert bool(fs.scan.unneeded) == bool(checksums)
    assert used.covers(0, 2048)


@pytest.mark.parametrize("case", WHOLE)
def test_facts_are_what_dumpe2fs_says(golden: Golden, case: str) -> None:
    expected = EXPECTED[case]
    fs = opened(golden, case)
    facts = fs.facts()
    for key in ("uuid", "blocks", "free_blocks", "inodes", "free_inodes", "block_size"):
        assert facts[key] == expected[key], key
    assert facts["inode_size"] == expected.get("inode_size", 128)
    assert fs.title == expected["blkid"]
    assert facts["state"] == expected["state"]
    assert facts["mount_count"] == expected["mount_count"]
    assert facts["label"] == expected["label"].replace("<none>", "")
    assert facts["last_mounted"] == expected["last_mounted"].replace("<not available>", "")
    names = expected["features"].replace("(none)", "").split()
    assert sorted(facts["features"]) == sorted(names)  # type: ignore[arg-type, type-var]
    assert fs.used_bytes() == (expected["blocks"] - expected["free_blocks"]) * expected["block_size"]
    assert fs.check() == []


@pytest.mark.parametrize("case", KEPT)
def test_untrustworthy_is_kept_whole_and_never_grown(golden: Golden, case: str) -> None:
    fs = opened(golden, case)
    reason = fs.keep_whole()
    assert reason is not None
    assert KEPT[case] in reason
    assert fs.used() == (ExtentSet.single(0, fs.volume.size),)
    assert [finding.kind for finding in fs.check()] == FINDINGS[case]
    with pytest.raises(Unsupported, match="cannot grow"):
        fs.plan_grow()


def test_damaged_superblock_is_a_suspect(golden: Golden) -> None:
    answer = probe(golden("ext", "bad-superblock"))
    assert isinstance(answer, Suspect)
    assert answer.kind == "ext"
    assert "checksum" in answer.evidence
    assert answer.at == 1024


def test_a_volume_without_the_magic_is_not_ours(golden: Golden) -> None:
    volume = golden("ext", "ext3")
    volume.write(1024 + 0x38, b"\0\0")
    assert probe(volume) is None


def test_impossible_fields_are_a_suspect(golden: Golden) -> None:
    volume = golden("ext", "ext3")
    volume.write(1024 + 0x18, b"\xff\0\0\0")
    answer = probe(volume)
    assert isinstance(answer, Suspect)
    assert "s_log_block_size" in answer.evidence


def test_room_behind_the_file_system_is_noted(golden: Golden) -> None:
    volume = golden("ext", "ext4")
    volume.resize(volume.size + (8 << 20))
    layer = probe(volume)
    assert isinstance(layer, ExtFs)
    assert [finding.kind for finding in layer.check()] == ["fs-smaller-than-volume"]
    assert layer.check()[0].severity == "note"


@pytest.mark.parametrize("case", [case for case in WHOLE if case != "external-journal"])
def test_what_is_not_used_may_become_anything(golden: Golden, case: str) -> None:
    """The promise of capture: with noise in all unused bytes, the file system is still clean."""
    if find("e2fsck") is None:
        pytest.skip("e2fsck is not installed")
    volume = golden("ext", case)
    layer = probe(volume)
    assert isinstance(layer, ExtFs)
    (used,) = layer.used()
    for start, end in ExtentSet.single(0, volume.size) - used:
        volume.write(start, b"\xa5" * (end - start))
    run(["e2fsck", "-fn", volume.name])
    tree = run(["debugfs", "-R", "cat /a/file-60", volume.name]).stdout
    assert tree == "".join(f"{n}\n" for n in range(1, 5001)).encode()[:42000]
