"""md against mdadm and the kernel: what golden members are, what lies on them, and arrays that grew."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from onebay.base.error import ToolFailed, ToolMissing, Unsupported
from onebay.base.step import Flush, Step, Write, apply
from onebay.base.tool import run
from onebay.block import FileVolume, Overlay, Span, Volume
from onebay.layer import Member, Suspect
from onebay.stack import md

Golden = Callable[[str, str], FileVolume]
EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text())
MIB = 1 << 20


def assembled(*volumes: Volume) -> md.MdArray:
    members = [md.probe(volume) for volume in volumes]
    assert all(isinstance(member, Member) for member in members), members
    array = md.assemble([member for member in members if isinstance(member, Member)])
    assert isinstance(array, md.MdArray), array
    return array


def digest(volume: Volume) -> str:
    return hashlib.sha256(volume.read(0, volume.size)).hexdigest()


def kinds(array: md.MdArray) -> set[str]:
    return {finding.kind for finding in array.check()}


def examine(path: str) -> dict[str, str]:
    """What `mdadm -E` says; it reads bitmaps with O_DIRECT, which not every file system can."""
    try:
        text = run(["mdadm", "-E", path], ok=(0, 1)).text
    except ToolMissing as error:
        pytest.skip(str(error))
    if not text:
        pytest.skip("mdadm cannot read files on this file system")
    return labels(text)


def examine_bitmap(path: str) -> dict[str, str]:
    """What `mdadm -X` says of the bitmap in a member, which it takes from devices only."""
    if os.geteuid() != 0:
        pytest.skip("mdadm -X needs a loop device, and that needs root")
    loop = run(["losetup", "-rf", "--show", path]).text.strip()
    try:
        return labels(run(["mdadm", "-X", loop], ok=(0, 1)).text)
    finally:
        run(["losetup", "-d", loop])


def labels(text: str) -> dict[str, str]:
    pairs = (line.split(" : ", 1) for line in text.splitlines() if " : " in line)
    return {key.strip(): value.strip() for key, value in pairs}


@pytest.mark.parametrize("case", EXPECTED)
def test_says_what_mdadm_says(golden: Golden, case: str) -> None:
    examined, export = EXPECTED[case]["examine"], EXPECTED[case]["export"]
    array = assembled(golden("md", case))
    facts = array.facts()
    assert facts["level"] == export["MD_LEVEL"]
    assert facts["uuid"] == export["MD_UUID"]
    assert facts["events"] == int(export["MD_EVENTS"])
    assert facts["raid_devices"] == int(export["MD_DEVICES"])
    assert facts["name"] == export.get("MD_NAME", "")
    assert examined["Version"].startswith(str(facts["metadata"]))
    assert facts["state"] == examined["State"]
    assert facts["bitmap"] == ("Internal Bitmap" in examined)
    if facts["metadata"] == "0.90":
        assert facts["size"] == int(examined["Used Dev Size"].split()[0]) * 1024
        assert facts["minor"] == int(examined["Preferred Minor"])
    else:
        size = examined.get("Used Dev Size") or examined["Avail Dev Size"]
        assert facts["size"] == int(size.split()[0]) * 512
        assert facts["data_offset"] == int(examined.get("Data Offset", "0").split()[0]) * 512
        assert array.best.data_size == int(examined["Avail Dev Size"].split()[0]) * 512
        assert examined["Device Role"] == f"Active device {facts['slots'][0]}"


@pytest.mark.parametrize("case", [case for case in EXPECTED if "sha256" in EXPECTED[case]])
def test_holds_what_the_kernel_read(golden: Golden, case: str) -> None:
    array = assembled(golden("md", case))
    assert digest(array.above[0]) == EXPECTED[case]["sha256"]
    assert kinds(array) <= {"md-degraded", "md-fixed"}
    assert all(finding.severity == "note" for finding in array.check())
    used, data = array.used()[0], array.best
    assert not used.overlaps(data.data_offset, data.data_offset + array.size)
    assert used.covers(data.at, data.at + 4096)


def test_pair_is_complete_and_both_hold_the_same(golden: Golden) -> None:
    array = assembled(golden("md", "pair-b"), golden("md", "pair-a"))
    assert array.facts()["slots"] == [0, 1]
    assert array.check() == []
    assert [digest(volume) for volume in array.replicas] == [digest(array.above[0])] * 2


@pytest.mark.parametrize("order", [("stale-a", "stale-b"), ("stale-b", "stale-a")])
def test_member_that_was_thrown_out_is_not_read(golden: Golden, order: tuple[str, str]) -> None:
    array = assembled(*(golden("md", case) for case in order))
    assert array.facts()["slots"] == [0]
    assert kinds(array) == {"md-degraded", "md-stale-member"}
    assert digest(array.above[0]) == EXPECTED["stale-a"]["sha256"]
    stale = next(n for n, volume in enumerate(array.below) if "stale-b" in volume.name)
    assert array.used()[stale].size == array.below[stale].size
    with pytest.raises(Unsupported):
        array.plan_grow()


def test_other_levels_are_named_and_kept(golden: Golden) -> None:
    array = assembled(golden("md", "raid5-a"))
    assert (array.title, array.above) == ("md raid5", ())
    assert array.keep_whole()
    assert array.used()[0].size == array.below[0].size
    assert kinds(array) == {"md-incomplete"}
    with pytest.raises(Unsupported):
        array.plan_grow()


@pytest.mark.parametrize(("case", "sectors"), [("edge-mbr", 32768), ("edge-gpt", 32835)])
def test_disk_around_a_member_is_no_member(golden: Golden, case: str, sectors: int) -> None:
    disk = golden("md", case)
    at = md.read.place_0(disk.size)
    assert disk.read(at, 4) == (0xA92B4EFC).to_bytes(4, "little")
    assert md.probe(disk) is None
    array = assembled(Span("p2", disk, 32768 * 512, sectors * 512))
    assert array.above[0].read(1024 + 0x78, 4) == b"edge"


def test_system_arrays_are_never_grown(golden: Golden) -> None:
    volume = golden("md", "v090")
    assert assembled(volume).plan_grow() == []
    volume.resize(volume.size + 65536)
    assert md.probe(volume) is None


def grow(volumes: Sequence[FileVolume], by: int, move: str | None = None) -> list[Step]:
    """Grow the files and then the array; every prefix must be the array as it was or as it will be."""
    before = assembled(*volumes)
    old = [volume.size for volume in volumes]
    for volume in volumes:
        volume.resize(volume.size + by)
    steps = before.plan_move(volumes) if move else before.plan_grow()
    for count in range(len(steps) + 1):
        views = {id(volume): Overlay(volume) for volume in volumes}
        for step in steps[:count]:
            if isinstance(step, Write):
                views[id(step.volume)].write(step.at, step.data)
        ends = old if move and count < len(steps) else [volume.size for volume in volumes]
        spans = [Span(v.name, views[id(v)], 0, end) for v, end in zip(volumes, ends, strict=True)]
        array = assembled(*spans)
        # Rounding done at creation is made up for when the array grows anyway.
        assert array.size == before.size or 0 <= array.size - before.size - by < MIB
        assert len(array.in_sync) == len(volumes)
        assert array.keep_whole() is None
    for step in steps:
        apply(step)
    return steps


@pytest.mark.parametrize("case", ["v11", "v12"])
def test_grows_to_fill_its_member(golden: Golden, case: str) -> None:
    volume = golden("md", case)
    before = assembled(volume)
    content = digest(before.above[0])
    assert before.plan_grow() == []
    assert grow([volume], 5 * MIB)
    after = assembled(volume)
    assert after.size == before.size + 5 * MIB
    assert hashlib.sha256(after.above[0].read(0, before.size)).hexdigest() == content
    assert after.plan_grow() == []
    said = examine(volume.name)
    assert said["Checksum"].endswith("correct")
    assert said["Avail Dev Size"].split()[0] == str(after.size // 512)
    assert said["Array Size"].split()[0] == str(after.size // 1024)
    assert said["Events"] == EXPECTED[case]["examine"]["Events"]
    assert said["State"] == "clean"


def test_superblock_at_the_end_moves_along(golden: Golden) -> None:
    volume = golden("md", "v10")
    before = assembled(volume)
    assert before.plan_grow() == []
    assert grow([volume], 5 * MIB, move="yes")
    after = assembled(volume)
    assert after.best.at == before.best.at + 5 * MIB
    assert after.size == (before.best.data_size + 5 * MIB) // 4096 * 4096
    said = examine(volume.name)
    assert said["Checksum"].endswith("correct")
    assert said["Super Offset"] == f"{after.best.at // 512} sectors"


def test_pair_with_a_bitmap_grows(golden: Golden) -> None:
    volumes = [golden("md", "pair-a"), golden("md", "pair-b")]
    size = assembled(*volumes).size
    assert grow(volumes, 8 * MIB)
    array = assembled(*volumes)
    assert array.size == size + 8 * MIB
    assert array.plan_grow() == []
    for volume in volumes:
        said = examine(volume.name)
        assert said["Checksum"].endswith("correct")
        # Nobody copied the new space from one member to the other: it must not count as in sync.
        assert said["State"] == "active"
        assert examine_bitmap(volume.name)["Sync Size"].split()[0] == str(array.size // 1024)
        assert array.best.record.resync_offset * 512 == size


def test_bitmap_without_room_gets_larger_chunks(golden: Golden) -> None:
    """The bitmap has eight sectors: 30720 bits, so 64 MiB chunks no longer suffice for 4 TiB."""
    volume = golden("md", "pair-a")
    volume.resize(4 << 40)
    array = assembled(volume)
    steps = array.plan_grow()
    for step in steps:
        apply(step)
    array = assembled(volume)
    assert array.size == (4 << 40) - MIB
    found = examine_bitmap(volume.name)
    bits = int(found["Bitmap"].split()[0])
    assert bits <= (4096 - 256) * 8
    assert found["Chunksize"] == "256 MB"


@pytest.mark.parametrize("case", ["v090", "v10", "v11", "v12"])
def test_damage_is_seen(golden: Golden, case: str) -> None:
    volume = golden("md", case)
    at = assembled(volume).best.at
    byte = volume.read(at + 70, 1)[0]
    volume.write(at + 70, bytes([byte ^ 1]))
    found = md.probe(volume)
    assert isinstance(found, Suspect)
    assert "checksum" in found.evidence
    assert found.at == at


def test_member_cut_short_is_not_offered(golden: Golden) -> None:
    volume = golden("md", "v12")
    volume.resize(volume.size - 65536)
    array = assembled(volume)
    assert array.above == ()
    assert kinds(array) == {"md-degraded", "md-size-mismatch"}
    assert array.keep_whole()


def test_two_superblocks_on_one_volume_are_ambiguous(golden: Golden) -> None:
    old, new = golden("md", "v090"), golden("md", "v12")
    at = md.read.place_0(new.size)
    new.write(at, old.read(at, 4096))
    found = md.probe(new)
    assert isinstance(found, Suspect)
    assert "ambiguous" in found.evidence


def test_copy_of_a_member_is_a_conflict(golden: Golden) -> None:
    volume = golden("md", "v12")
    array = assembled(volume, Overlay(volume, name="copy"))
    assert "md-conflict" in kinds(array)
    assert len(array.replicas) == 1
    with pytest.raises(Unsupported):
        array.plan_grow()


@pytest.mark.vm
def test_kernel_assembles_what_grew(golden: Golden, cache: Path, tmp_path: Path) -> None:
    worker = pytest.importorskip("onebay.machine.worker")
    volumes = [golden("md", case) for case in ("v12", "v10", "pair-a", "pair-b")]
    grow(volumes[:1], 8 * MIB)
    grow(volumes[1:2], 8 * MIB, move="yes")
    grow(volumes[2:], 8 * MIB)
    sizes = [assembled(volumes[0]).size, assembled(volumes[1]).size, assembled(*volumes[2:]).size]
    script = """
    set -eu
    mdadm --assemble --run /dev/md1 /dev/vdb
    mdadm --assemble --run /dev/md2 /dev/vdc
    mdadm --assemble /dev/md3 /dev/vdd /dev/vde
    mdadm --readwrite /dev/md3
    mdadm --wait /dev/md3 || true
    for md in md1 md2 md3; do
        e2fsck -fn /dev/$md
        echo size $md $(($(cat /sys/block/$md/size) * 512)) $(cat /sys/block/$md/md/degraded)
    done
    mdadm --stop /dev/md1 /dev/md2 /dev/md3
    """
    try:
        job = worker.run_job(script, [worker.Disk(Path(volume.name)) for volume in volumes], cache=cache)
    except ToolMissing as error:
        pytest.skip(str(error))
    except ToolFailed:
        if os.geteuid() != 0:
            pytest.skip("the worker is built as root")
        raise
    said = {line.split()[1]: line.split()[2:] for line in job.log.splitlines() if line.startswith("size ")}
    assert [int(said[name][0]) for name in ("md1", "md2", "md3")] == sizes
    assert said["md3"][1] == "0"
    array = assembled(*volumes[2:])
    assert array.state == "clean"
    assert digest(array.replicas[0]) == digest(array.replicas[1])
    assert not [step for step in array.plan_grow() if not isinstance(step, Flush)]
