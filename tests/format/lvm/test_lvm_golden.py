"""LVM2 against lvm2 and the kernel: what golden groups are, what lies on them, and groups that grew."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from onebay.base.error import Incomplete, ToolFailed, ToolMissing, Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.step import Step, Write, apply
from onebay.base.tool import run
from onebay.block import FileVolume, Overlay, Span, Volume
from onebay.layer import Layer, Member, Suspect
from onebay.stack import lvm

Golden = Callable[[str, str], FileVolume]
EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text())
IMAGES = {"dsm": ["dsm"], "wrap": ["wrap"], "kinds": ["kinds-a", "kinds-b"]}
MIB = 1 << 20


def assembled(*volumes: Volume) -> lvm.VolumeGroup:
    members = [lvm.probe(volume) for volume in volumes]
    assert all(isinstance(member, Member) for member in members), members
    group = lvm.assemble([member for member in members if isinstance(member, Member)])
    assert isinstance(group, lvm.VolumeGroup), group
    return group


def opened(golden: Golden, case: str) -> lvm.VolumeGroup:
    return assembled(*(golden("lvm", image) for image in IMAGES[case]))


def digest(volume: Volume) -> str:
    return hashlib.sha256(volume.read(0, volume.size)).hexdigest()


def kinds(group: Layer) -> set[str]:
    return {finding.kind for finding in group.check()}


@contextmanager
def loops(paths: Sequence[str]) -> Iterator[list[str]]:
    if os.geteuid() != 0:
        pytest.skip("lvm2 reads devices only, and a loop device needs root")
    found: list[str] = []
    try:
        for path in paths:
            found.append(run(["losetup", "-f", "--show", path]).text.strip())
        yield found
    except ToolMissing as error:
        pytest.skip(str(error))
    finally:
        for loop in found:
            run(["losetup", "-d", loop])


def ask(command: str, devices: Sequence[str], *args: str) -> str:
    """Run an lvm2 command that reads; without device-mapper and without the machine's own settings."""
    accept = "".join(f'"a|^{device}$|",' for device in devices)
    config = (
        f'devices{{filter=[{accept}"r|.*|"] use_devicesfile=0 hints="none"}} backup{{backup=0 archive=0}}'
    )
    env = {"LVM_SUPPRESS_FD_WARNINGS": "1"}
    return run([command, "--driverloaded", "n", "--config", config, *args], env=env).text


def report(command: str, devices: Sequence[str], fields: str, *args: str) -> list[dict[str, str]]:
    """Run vgs, pvs or lvs, and return its rows."""
    form = ("--readonly", "--units", "b", "--nosuffix", "--reportformat", "json", "-o", fields)
    (rows,) = json.loads(ask(command, devices, *form, *args))["report"][0].values()
    return list(rows)


@pytest.mark.parametrize("case", EXPECTED)
def test_says_what_lvm_says(golden: Golden, case: str) -> None:
    expected = EXPECTED[case]
    facts = opened(golden, case).facts()
    (vg,) = expected["vgs"]
    assert facts["name"] == vg["vg_name"]
    assert facts["uuid"] == vg["vg_uuid"]
    assert facts["seqno"] == int(vg["vg_seqno"])
    assert facts["extent_size"] == int(vg["vg_extent_size"])
    for pv, said in zip(facts["pvs"], expected["pvs"], strict=True):
        assert pv["uuid"] == said["pv_uuid"]
        assert pv["size"] == int(said["dev_size"])
        assert pv["pe_start"] == int(said["pe_start"])
        assert pv["extents"] == int(said["pv_pe_count"])
        assert pv["allocated"] == int(said["pv_pe_alloc_count"])
        assert not pv["missing"]
    said = {row["lv_name"].strip("[]"): row for row in expected["lvs"]}
    # LVM shows a snapshot as one volume and keeps its exceptions and its link to the origin as two.
    found = {lv["name"]: lv for lv in facts["lvs"] if lv["types"] != ["snapshot"]}
    assert found.keys() == said.keys()
    for name, lv in found.items():
        assert lv["uuid"] == said[name]["lv_uuid"]
        assert lv["visible"] == (said[name]["lv_name"] == name) or name == "snap"
        if name != "snap":
            assert lv["size"] == int(said[name]["lv_size"])


@pytest.mark.parametrize("case", EXPECTED)
def test_holds_what_the_kernel_read(golden: Golden, case: str) -> None:
    group = opened(golden, case)
    above = {volume.name: volume for volume in group.above}
    assert above.keys() >= EXPECTED[case]["sha256"].keys()
    for name, expected in EXPECTED[case]["sha256"].items():
        assert digest(above[name]) == expected
    assert group.check() == []
    assert group.keep_whole() is None


@pytest.mark.parametrize("case", EXPECTED)
def test_keeps_each_allocated_extent_and_no_free_one(golden: Golden, case: str) -> None:
    group = opened(golden, case)
    offered = {volume.name.split("/")[1] for volume in group.above}
    names = {row["pv_name"]: number for number, row in enumerate(EXPECTED[case]["pvs"])}
    used = group.used()
    for row in EXPECTED[case]["pvsegs"]:
        number = names[row["pv_name"]]
        start = group.group.pvs[number].pe_start + int(row["pvseg_start"]) * group.group.extent_size
        end = start + int(row["pvseg_size"]) * group.group.extent_size
        if not row["lv_name"] or row["lv_name"] in offered:
            assert not used[number].overlaps(start, end), row
        else:
            assert used[number].covers(start, end), row
    for number, pv in enumerate(group.present):
        assert used[number].covers(0, group.group.pvs[number].pe_start)
        assert all(used[number].covers(area.start, area.start + area.size) for area in pv.areas)


def test_kinds_other_than_linear_are_not_offered(golden: Golden) -> None:
    group = opened(golden, "kinds")
    assert {volume.name for volume in group.above} == {"vgkinds/both", "vgkinds/asleep", "vgkinds/plain"}


def test_text_wraps_around_the_end_of_its_area(golden: Golden) -> None:
    group = opened(golden, "wrap")
    (area,) = group.present[0].areas
    assert area.locn is not None
    assert area.locn.offset + area.locn.size > area.size


def test_missing_volume_is_said_and_what_needs_it_is_not_offered(golden: Golden) -> None:
    group = assembled(golden("lvm", "kinds-a"))
    assert {volume.name for volume in group.above} == {"vgkinds/asleep", "vgkinds/plain"}
    assert kinds(group) == {"lvm-pv-missing", "lvm-lv-unusable"}
    with pytest.raises(Incomplete):
        group.plan_grow()


def test_orphan_keeps_what_is_before_its_data(golden: Golden) -> None:
    volume = golden("lvm", "orphan")
    layer = lvm.probe(volume)
    assert isinstance(layer, lvm.LonePv)
    assert layer.used() == (ExtentSet.single(0, MIB),)
    assert layer.keep_whole() is None
    assert kinds(layer) == {"lvm-lone-pv"}


def test_copy_of_a_volume_is_a_duplicate(golden: Golden) -> None:
    volume = golden("lvm", "dsm")
    group = assembled(volume, Overlay(volume, name="copy"))
    assert kinds(group) == {"lvm-pv-duplicate"}
    with pytest.raises(Unsupported):
        group.plan_grow()


def test_bad_copy_is_passed_over_for_the_other(golden: Golden) -> None:
    volumes = [golden("lvm", image) for image in IMAGES["kinds"]]
    first, second = lvm.probe(volumes[1]).detail.areas  # type: ignore[union-attr, attr-defined]
    volumes[1].write(first.start + first.locn.offset + 20, b"\xff")
    group = assembled(*volumes)
    assert len(group.above) == 3
    assert kinds(group) == {"lvm-copies-differ"}
    with pytest.raises(Unsupported):
        group.plan_grow()
    volumes[1].write(second.start, b"\xff")
    assert isinstance(lvm.probe(volumes[1]), Suspect)


@pytest.mark.parametrize("at", [512 + 40, 512 + 300])
def test_damaged_label_is_a_suspect(golden: Golden, at: int) -> None:
    volume = golden("lvm", "dsm")
    volume.write(at, bytes([volume.read(at, 1)[0] ^ 1]))
    found = lvm.probe(volume)
    assert isinstance(found, Suspect)
    assert found.at == 512


def test_volume_cut_short(golden: Golden) -> None:
    volume = golden("lvm", "dsm")
    volume.resize(volume.size - 4 * MIB)
    group = assembled(volume)
    assert kinds(group) == {"lvm-pv-size", "lvm-lv-unusable"}
    assert [above.name for above in group.above] == ["vg1/syno_vg_reserved_area"]


def where(volume: Volume, size: int) -> list[tuple[str, int, int]]:
    return [(piece.volume.name, piece.at, piece.size) for piece in volume.pieces(0, size)]


def grow(volumes: Sequence[FileVolume], by: Sequence[int]) -> list[Step]:
    """Grow the files and then the group; every prefix must be the group as it was or as it will be."""
    before = assembled(*volumes)
    places = {volume.name: where(volume, volume.size) for volume in before.above}
    sizes = {volume.name: volume.size for volume in before.above}
    for volume, more in zip(volumes, by, strict=True):
        volume.resize(volume.size + more)
    steps = assembled(*volumes).plan_grow()
    for count in range(len(steps) + 1):
        views = {id(volume): Overlay(volume) for volume in volumes}
        for step in steps[:count]:
            if isinstance(step, Write):
                views[id(step.volume)].write(step.at, step.data)
        group = assembled(*(views[id(volume)] for volume in volumes))
        assert group.group.seqno - before.group.seqno in (0, 1)
        assert kinds(group) <= {"lvm-copies-differ"}
        again = group.plan_grow()
        assert bool(again) == any(isinstance(step, Write) for step in steps[count:])
        for step in again:
            apply(step)
        done = assembled(*(views[id(volume)] for volume in volumes))
        assert done.check() == []
        assert done.plan_grow() == []
        for volume in done.above:
            assert where(volume, sizes[volume.name]) == places[volume.name]
    for step in steps:
        apply(step)
    return steps


def agree(group: lvm.VolumeGroup, volumes: Sequence[FileVolume]) -> None:
    """Have lvm2 read what was written, and compare."""
    with loops([volume.name for volume in volumes]) as devices:
        ask("vgck", devices, group.name)
        for device in devices:
            ask("pvck", devices, device)
        pvs = report("pvs", devices, "pv_uuid,dev_size,pv_size,pv_pe_count,pv_pe_alloc_count,vg_seqno")
        segs = report("lvs", devices, "lv_name,seg_start_pe,seg_size_pe,seg_pe_ranges", "-a", "--segments")
        sizes = report("lvs", devices, "lv_name,lv_size")
    found = {row["pv_uuid"]: row for row in pvs}
    for pv in group.group.pvs:
        assert int(found[pv.uuid]["pv_pe_count"]) == pv.pe_count
        assert int(found[pv.uuid]["pv_size"]) == pv.pe_count * group.group.extent_size
        assert int(found[pv.uuid]["vg_seqno"]) == group.group.seqno
    for volume in group.above:
        name = volume.name.split("/")[1]
        assert [int(row["lv_size"]) for row in sizes if row["lv_name"] == name] == [volume.size]
        ranges = [row["seg_pe_ranges"] for row in segs if row["lv_name"] == name]
        lv = next(lv for lv in group.group.lvs if lv.name == name)
        ours = [area for segment in lv.segments for area in segment.areas]
        for text, area in zip(ranges, ours, strict=True):
            assert text.endswith(f":{area.start}-{area.start + area.count - 1}")


def test_grows_the_volume_and_never_the_reserve(golden: Golden) -> None:
    volume = golden("lvm", "dsm")
    assert assembled(volume).plan_grow() == []
    assert grow([volume], [50 * MIB])
    group = assembled(volume)
    sizes = {above.name: above.size // MIB for above in group.above}
    assert sizes == {"vg1/syno_vg_reserved_area": 12, "vg1/volume_1": 48 + 52}
    assert len(group.group.lvs[1].segments) == 1
    assert group.present[0].device_size == volume.size
    agree(group, [volume])


def test_less_than_an_extent_is_no_gain(golden: Golden) -> None:
    volume = golden("lvm", "dsm")
    volume.resize(volume.size + MIB - 512)  # 3 MiB behind the last extent were there before
    assert assembled(volume).plan_grow() == []


def test_only_the_text_that_must_change_changes(golden: Golden) -> None:
    volume = golden("lvm", "wrap")
    before = assembled(volume).newest.text
    assert grow([volume], [3 * MIB])
    after = assembled(volume).newest.text
    removed = [line for line in before.splitlines() if line not in after.splitlines()]
    assert [line.split()[0] for line in removed] == [b"seqno", b"dev_size", b"pe_count", b"segment_count"]
    assert before.splitlines()[-8:] == after.splitlines()[-8:]


def test_grows_by_a_segment_and_goes_around_the_ring(golden: Golden) -> None:
    volume = golden("lvm", "wrap")
    assert assembled(volume).above[0].name == "vgwrap/first"
    places = []
    for _ in range(40):
        volume.resize(volume.size + MIB)
        for step in assembled(volume).plan_grow():
            apply(step)
        locn = assembled(volume).present[0].areas[0].locn
        assert locn is not None
        places.append(locn.offset + locn.size > assembled(volume).present[0].areas[0].size)
    assert any(places)
    group = assembled(volume)
    first = group.group.lvs[0]
    # The free extents that the group had before are the user's; the new ones are one segment.
    assert [segment.count for segment in first.segments] == [8, 8, 40]
    assert group.above[0].size == (16 + 40) * MIB
    agree(group, [volume])


def test_two_volumes_grow_one_after_the_other(golden: Golden) -> None:
    volumes = [golden("lvm", image) for image in IMAGES["kinds"]]
    steps = grow(volumes, [10 * MIB, 0])
    assert len([step for step in steps if isinstance(step, Write)]) == 2 * 3 + 1
    group = assembled(*volumes)
    both = next(lv for lv in group.group.lvs if lv.name == "both")
    assert [(segment.areas[0].pv, segment.count) for segment in both.segments] == [
        ("pv0", 10),
        ("pv1", 10),
        ("pv0", 10),
    ]
    agree(group, volumes)


def test_metadata_at_the_end_is_in_the_way(golden: Golden) -> None:
    volumes = [golden("lvm", image) for image in IMAGES["kinds"]]
    volumes[1].resize(volumes[1].size + 10 * MIB)
    with pytest.raises(Unsupported, match="metadata at the end"):
        assembled(*volumes).plan_grow()


def test_4096_byte_sectors_start_texts_on_their_own(golden: Golden) -> None:
    volume = golden("lvm", "dsm")
    volume.sector_size = 4096
    grow([volume], [50 * MIB])
    (area,) = assembled(volume).present[0].areas
    assert area.locn is not None
    assert (area.start + area.locn.offset) % 4096 == 0
    agree(assembled(volume), [volume])


@pytest.mark.vm
def test_kernel_activates_what_grew(golden: Golden, cache: Path) -> None:
    worker = pytest.importorskip("onebay.machine.worker")
    volumes = [golden("lvm", image) for image in ("dsm", "kinds-a", "kinds-b")]
    grow(volumes[:1], [50 * MIB])
    grow(volumes[1:], [10 * MIB, 0])
    groups = [assembled(volumes[0]), assembled(*volumes[1:])]
    lines = [f"echo digest {v.name} $(sha256sum < /dev/{v.name})" for group in groups for v in group.above]
    script = "\n".join(
        [
            "set -eu",
            "vgck vg1; vgck vgkinds",
            "vgchange -ay vg1",
            "lvchange -ay vgkinds/both vgkinds/asleep vgkinds/plain",
            "vgmknodes",
            *lines,
            "pvresize /dev/vdb; lvcreate -y -an -Zn -l 1 -n more vgkinds; vgs -o vg_name,vg_seqno",
            "vgchange -an",
        ]
    )
    disks = [worker.Disk(Path(volume.name)) for volume in volumes]
    try:
        job = worker.run_job(script, disks, cache=cache)
    except ToolMissing as error:
        pytest.skip(str(error))
    except ToolFailed:
        if os.geteuid() != 0:
            pytest.skip("the worker is built as root")
        raise
    said = {line.split()[1]: line.split()[2] for line in job.log.splitlines() if line.startswith("digest ")}
    assert said == {volume.name: digest(volume) for group in groups for volume in group.above}
    # The kernel's own tools went on from what we wrote.
    assert "more" in {lv.name for lv in assembled(*volumes[1:]).group.lvs}


def test_partition_view(golden: Golden) -> None:
    volume = golden("lvm", "dsm")
    group = assembled(Span("disk:p5", volume, 0, volume.size))
    assert {pv["volume"] for pv in group.facts()["pvs"]} == {"disk:p5"}
