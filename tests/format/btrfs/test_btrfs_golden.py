"""Golden images: what we read is what btrfs-progs says; and damaged ones, which must say where it hurts."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from uuid import UUID

import btrfs_lab as lab
import pytest

from onebay.base.error import Inconsistent, Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.step import Write, apply
from onebay.block import FileVolume, Overlay, Span
from onebay.fs.btrfs import BtrfsFs, probe
from onebay.fs.btrfs.compressed import compressed_extents
from onebay.fs.btrfs.csum import sealed
from onebay.fs.btrfs.read import BEYOND, Root, Step
from onebay.fs.btrfs.record import INCOMPAT, SUPER, SUPER_PLACES, SUPER_SIZE
from onebay.layer import Suspect

EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text())
del EXPECTED["raid1"]  # one of two devices: test_btrfs_pool.py
KEPT_WHOLE = {"log": "a log tree waits"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="module")
def images(folder: Path) -> dict[str, Path]:
    """All golden images, unpacked once and never written."""
    return {case: lab.unpack(case, folder) for case in EXPECTED}


@pytest.fixture
def dup(images: dict[str, Path]) -> Overlay:
    """A private, writable view of the default file system."""
    return Overlay(FileVolume(images["dup"]))


def good(volume: Overlay | FileVolume | Span) -> BtrfsFs:
    found = probe(volume)
    assert isinstance(found, BtrfsFs), found
    return found


def kinds(fs: BtrfsFs) -> list[str]:
    return [f"{finding.severity} {finding.kind}" for finding in fs.check()]


def break_block(volume: Overlay, root: Root, copies: slice) -> list[int]:
    """Flip a byte in the chosen copies of a tree block; returns where they are."""
    reader = good(Overlay(volume)).reader
    assert reader is not None
    step = Step(root.at, root.level, root.generation, root.owner, None, BEYOND)
    places = [copy.at for copy in reader.copies(step)][copies]
    for place in places:
        byte = volume.read(place + 200, 1)[0]
        volume.write(place + 200, bytes((byte ^ 1,)))
    return places


def change_super(volume: Overlay, **changes: int) -> None:
    """Change fields in all superblocks, with right checksums."""
    for at in SUPER_PLACES[:2]:
        sb = SUPER.unpack(volume.read(at, SUPER_SIZE))
        volume.write(at, sealed(sb.csum_type, SUPER.pack(sb, **changes)))


@pytest.mark.parametrize("case", EXPECTED)
def test_facts_are_those_of_btrfs_progs(case: str, images: dict[str, Path]) -> None:
    want, fs = EXPECTED[case]["super"], good(FileVolume(images[case]))
    facts = fs.facts()
    assert facts["uuid"] == want["fsid"]
    assert facts["label"] == want["label"]
    assert facts["device_uuid"] == want["dev_item.uuid"]
    for name, field in (
        ("generation", "generation"),
        ("used", "bytes_used"),
        ("sector_size", "sectorsize"),
        ("node_size", "nodesize"),
        ("devices", "num_devices"),
        ("devid", "dev_item.devid"),
        ("size", "dev_item.total_bytes"),
    ):
        assert facts[name] == int(want[field]), name
    assert facts["log_tree"] is (want["log_root"] != "0")
    assert want["csum_type"].split("(")[1].startswith(str(facts["csum"]).removesuffix("b")[:6])
    named = {name for bit, name in INCOMPAT.items() if int(want["incompat_flags"], 16) >> bit & 1}
    assert named <= set(facts["features"])  # type: ignore[arg-type]
    assert UUID(str(facts.get("metadata_uuid", UUID(int=0)))) == UUID(want["metadata_uuid"])
    if fs.space is not None:
        assert facts["profiles"] == EXPECTED[case]["profiles"]
    assert [finding for finding in fs.check() if finding.severity in ("warning", "damage")] == []


@pytest.mark.parametrize("case", EXPECTED)
def test_used_is_exactly_what_the_trees_say(case: str, images: dict[str, Path]) -> None:
    fs = good(FileVolume(images[case]))
    (used,) = fs.used()
    if case in KEPT_WHOLE:
        assert (fs.keep_whole() or "").startswith(KEPT_WHOLE[case])
        assert used == ExtentSet.single(0, fs.below[0].size)
    else:
        assert fs.keep_whole() is None
        assert [*used.bounds] == EXPECTED[case]["used"]
    assert fs.used_bytes() == int(EXPECTED[case]["super"]["bytes_used"])


@lab.needs_root
@lab.needs_tools
@pytest.mark.parametrize("case", sorted(set(EXPECTED) - set(KEPT_WHOLE)))
def test_kernel_accepts_a_grown_copy_of_used_bytes(
    case: str, images: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.img"
    lab.copy_used(images[case], copy)
    options = "ro" if case == "seed" else ""
    with lab.mounted(images[case], tmp_path / "mnt", "ro") as root:
        want = lab.manifest(root)
    if case != "seed":
        with copy.open("r+b") as file:
            file.truncate(400 * lab.MIB)
        for step in lab.load(copy, writable=True).plan_grow():
            apply(step)
    with lab.mounted(copy, tmp_path / "mnt", options) as root:
        assert lab.manifest(root) == want
        if case != "seed":
            (root / "new").write_bytes(b"n" * 3 * lab.MIB)
            lab.scrub(root)


def test_one_bad_copy_of_the_chunk_root(dup: Overlay) -> None:
    fs = good(dup)
    assert fs.reader is not None
    places = break_block(dup, fs.reader.chunk_root(), slice(0, 1))
    fs = good(dup)
    assert kinds(fs) == ["warning copy-bad"]
    assert fs.check()[0].at == places[0]
    assert [*fs.used()[0].bounds] == EXPECTED["dup"]["used"]


def test_both_copies_of_the_chunk_root_bad(dup: Overlay) -> None:
    fs = good(dup)
    assert fs.reader is not None
    places = break_block(dup, fs.reader.chunk_root(), slice(None))
    suspect = probe(dup)
    assert isinstance(suspect, Suspect)
    assert len(places) == 2
    for place in places:
        assert f"copy at {place:#x}: checksum" in suspect.evidence


@pytest.mark.parametrize("tree", ["extent", "root"])
def test_damage_in_the_walk_keeps_everything(dup: Overlay, tree: str) -> None:
    fs = good(dup)
    assert fs.reader is not None
    root = fs.reader.find_root(2) if tree == "extent" else fs.reader.tree_root()
    first, _ = break_block(dup, root, slice(None))
    one = Overlay(dup)
    byte = one.read(first + 200, 1)[0]
    one.write(first + 200, bytes((byte ^ 1,)))  # one copy mended
    assert [*good(one).used()[0].bounds] == EXPECTED["dup"]["used"]
    fs = good(dup)
    assert fs.used() == (ExtentSet.single(0, dup.size),)
    assert "checksum" in (fs.keep_whole() or "")
    assert kinds(fs) == ["damage extent-tree"]


def test_extents_that_do_not_add_up_keep_everything(dup: Overlay) -> None:
    change_super(dup, bytes_used=good(dup).sb.bytes_used + 4096)
    fs = good(dup)
    assert fs.used() == (ExtentSet.single(0, dup.size),)
    assert "do not add up" in (fs.keep_whole() or "")


def test_first_superblock_bad(dup: Overlay) -> None:
    dup.write(SUPER_PLACES[0] + 300, b"damage")
    fs = good(dup)
    assert kinds(fs) == ["damage superblock-bad"]
    assert "first superblock" in (fs.keep_whole() or "")
    assert fs.facts()["uuid"] == EXPECTED["dup"]["super"]["fsid"]
    with pytest.raises(Unsupported, match="first superblock"):
        good(Overlay(dup, size=dup.size * 2)).plan_grow()


def test_first_superblock_gone(dup: Overlay) -> None:
    dup.write(SUPER_PLACES[0], bytes(SUPER_SIZE))
    suspect = probe(dup)
    assert isinstance(suspect, Suspect)
    assert "0x4000000" in suspect.evidence
    dup.write(SUPER_PLACES[1], bytes(SUPER_SIZE))
    assert probe(dup) is None


def test_leftover_mirror_is_nobodys(dup: Overlay) -> None:
    """Another file system was made over this one: its trees are gone, only a mirror was not hit."""
    for at in range(0, dup.size, lab.MIB):
        if not at <= SUPER_PLACES[1] < at + lab.MIB:
            dup.write(at, b"\x11" * lab.MIB)
    assert probe(dup) is None


def test_mirror_differs(dup: Overlay) -> None:
    sb = SUPER.unpack(dup.read(SUPER_PLACES[1], SUPER_SIZE))
    dup.write(SUPER_PLACES[1], sealed(0, SUPER.pack(sb, generation=sb.generation - 1)))
    fs = good(dup)
    assert kinds(fs) == ["warning superblock-differs"]
    assert fs.keep_whole() is None
    dup.write(SUPER_PLACES[1], sealed(0, SUPER.pack(sb, generation=sb.generation + 1)))
    assert "older than a mirror" in (good(dup).keep_whole() or "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"incompat_flags": 0x40000000 | 0x361}, "unknown incompat feature bits 0x40000000"),
        ({"incompat_flags": 1 << 12 | 0x361}, "feature zoned is not read"),
        ({"incompat_flags": 1 << 13 | 0x361}, "feature extent-tree-v2 is not read"),
        ({"incompat_flags": 1 << 14 | 0x361}, "feature raid-stripe-tree is not read"),
        ({"csum_type": 9}, "checksum type 9 is unknown"),
        ({"flags": 1 | 1 << 36}, "superblock flag changing-fsid-v2"),
        ({"flags": 1 | 1 << 33}, "superblock flag metadump"),
    ],
)
def test_what_we_do_not_know_is_kept_whole(dup: Overlay, changes: dict[str, int], reason: str) -> None:
    if "csum_type" in changes:
        for at in SUPER_PLACES[:2]:
            sb = SUPER.unpack(dup.read(at, SUPER_SIZE))
            dup.write(at, SUPER.pack(sb, **changes))
    else:
        change_super(dup, **changes)
    fs = good(dup)
    assert fs.keep_whole() == reason
    assert fs.used() == (ExtentSet.single(0, dup.size),)
    assert kinds(fs) == ["note kept-whole"]
    assert fs.facts()["uuid"] == EXPECTED["dup"]["super"]["fsid"]
    with pytest.raises(Unsupported, match=reason):
        fs.plan_grow()


def test_unknown_compat_ro_is_read_but_not_written(dup: Overlay) -> None:
    change_super(dup, compat_ro_flags=1 << 20 | 3)
    fs = good(Overlay(dup, size=dup.size * 2))
    assert [*fs.used()[0].bounds] == EXPECTED["dup"]["used"]
    assert "compat_ro:0x100000" in fs.facts()["features"]  # type: ignore[operator]
    with pytest.raises(Unsupported, match="0x100000"):
        fs.plan_grow()


def test_seed_is_not_grown(images: dict[str, Path]) -> None:
    base = FileVolume(images["seed"])
    with pytest.raises(Unsupported, match="seed"):
        good(Overlay(base, size=base.size * 2)).plan_grow()


def test_volume_of_another_size(dup: Overlay) -> None:
    assert kinds(good(dup)) == []
    assert good(dup).plan_grow() == []
    fs = good(Overlay(dup, size=dup.size + 4096))
    assert kinds(fs) == ["note fs-smaller-than-volume"]
    fs = good(Overlay(dup, size=dup.size + 4095))
    assert kinds(fs) == []
    assert fs.plan_grow() == []
    fs = good(Span("short", dup, 0, dup.size - 4096))
    assert kinds(fs)[0] == "damage fs-larger-than-volume"
    assert "its volume only" in (fs.keep_whole() or "")
    with pytest.raises(Inconsistent):
        fs.plan_grow()


def test_cut_anywhere(dup: Overlay) -> None:
    for size in (0, 1, 512, 0x1_0000, 0x1_0FFF, 0x1_1000, lab.MIB, 23 * lab.MIB, 64 * lab.MIB, 100 * lab.MIB):
        found = probe(Span("cut", dup, 0, size))
        if size < 0x1_1000:
            assert found is None
        elif isinstance(found, BtrfsFs):
            assert found.keep_whole() is not None
        else:
            assert isinstance(found, Suspect)


def test_grow_steps_are_plain_writes(dup: Overlay) -> None:
    volume = Overlay(dup, size=dup.size + 5000)
    writes = [step for step in good(volume).plan_grow() if isinstance(step, Write)]
    assert [step.at for step in writes][:2] == [SUPER_PLACES[1], SUPER_PLACES[0]]
    for step in writes[:2]:  # all that differs lies in the first sector
        assert step.data[512:] == dup.read(step.at + 512, SUPER_SIZE - 512)


def test_interrupted_grow_is_named(dup: Overlay) -> None:
    volume = Overlay(dup, size=dup.size + lab.MIB)
    steps = good(volume).plan_grow()
    for step in steps[:3]:
        apply(step)
    assert kinds(good(volume)) == ["note fs-smaller-than-volume", "warning size-mismatch"]
    assert good(volume).plan_grow() == steps
    change_super(volume, total_bytes=dup.size - 4096)
    assert "damage size-mismatch" in kinds(good(volume))


@lab.needs_root
def test_log_is_replayed_after_a_grow(images: dict[str, Path], tmp_path: Path) -> None:
    """Nothing that growing writes touches the log tree."""
    copy = tmp_path / "log.img"
    lab.clone(images["log"], copy)
    with copy.open("r+b") as file:
        file.truncate(400 * lab.MIB)
    for step in lab.load(copy, writable=True).plan_grow():
        apply(step)
    assert lab.load(copy).facts()["log_tree"] is True
    with lab.mounted(copy, tmp_path / "mnt") as root:
        assert (root / "logged").stat().st_size == 100_000
        lab.scrub(root)
    fs = lab.load(copy)
    assert (fs.keep_whole(), fs.facts()["size"]) == (None, 400 * lab.MIB)


@pytest.mark.parametrize("case", sorted(EXPECTED.keys() - KEPT_WHOLE.keys()))
def test_compressed_files(case: str, images: dict[str, Path]) -> None:
    """As many extent items of each kind as btrfs-progs prints, in whatever tree."""
    if case == "simple-quota":
        pytest.skip("btrfs-progs read it from 6.7 on only")
    fs = good(FileVolume(images[case]))
    assert fs.reader is not None
    told = lab.tool.run(["btrfs", "inspect-internal", "dump-tree", images[case]]).text
    expected = Counter(int(kind) for kind in re.findall(r"compression (\d)", told) if kind != "0")
    assert Counter(compressed_extents(fs.reader)) == expected
    assert case != "dup" or expected
