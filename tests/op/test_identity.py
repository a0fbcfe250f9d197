"""Two disks that look the same, and a disk that is another one when the first write comes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foldkit
from badkit import MIB, NOTHING, attached, blank, fails, make_disk, onebay, root, tool, untouched

from onebay.base.error import NOTHING_WRITTEN, Refused
from onebay.base.step import Write
from onebay.block import DeviceVolume, FileVolume, open_disk
from onebay.block.device import other_disks
from onebay.image import Image
from onebay.ops.identity import Sign, signs_in, signs_of, twins, warn_twins
from onebay.ops.inspect import inspect
from onebay.ops.restore import open_image, restore
from onebay.ops.run import Plan, execute
from onebay.source import open_source
from onebay.tree import discover

SIZE = 64 * MIB
GUID = "11111111-2222-4333-8444-555555555555"
PART = "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE"
EXT = "01234567-89ab-4cde-8f01-23456789abcd"


def disk(path: Path, *, guid: str = GUID, part: str = PART, label: str = "") -> Path:
    """A GPT disk with an ext4 whose identities are given by the field's own tools."""
    blank(path, SIZE)
    script = f"label: gpt\nlabel-id: {guid}\nstart=2048,size=32MiB,uuid={part}\n"
    tool("sfdisk", "-q", path, stdin=script)
    options = ["-L", label] if label else []
    fs = path.with_suffix(".fs")
    blank(fs, 32 * MIB)
    tool("mke2fs", "-q", "-t", "ext4", "-U", EXT if guid == GUID else "random", *options, fs)
    tool("dd", f"if={fs}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc", "status=none")
    fs.unlink()
    return path


def signs(path: Path) -> frozenset[Sign]:
    volume = open_disk(path)
    try:
        return signs_of(discover([volume]))
    finally:
        volume.close()


def test_what_a_disk_is_known_by(tmp_path: Path) -> None:
    """As sfdisk and mke2fs were told; the document of inspect, and that in an image, say the same."""
    path = disk(tmp_path / "a", label="ARC1")
    expected = {
        Sign("disk GUID", GUID),
        Sign("partition GUID", PART),
        Sign("ext UUID", EXT),
        Sign("label", "ARC1"),
    }
    assert signs(path) == expected
    volume = open_disk(path)
    assert signs_in(json.loads(json.dumps(inspect(volume)))) == expected
    volume.close()
    onebay("capture", path, tmp_path / "a.raw.zst")
    source = open_source(str(tmp_path / "a.raw.zst"))
    assert signs_in(Image.open(source).facts.layers) == expected
    source.close()


@pytest.mark.parametrize("pair", ["pair-a", "pair-b"])
def test_members_of_a_mirror_are_no_twins(pair: str, tmp_path: Path) -> None:
    """They share the array's UUID, and what stands on it; what differs is their number."""
    golden = Path(__file__).parents[1] / "format" / "md"
    found = []
    for name in ("pair-a", pair):
        path = tmp_path / f"{name}.img"
        tool("zstd", "-q", "-d", "-f", golden / f"{name}.img.zst", "-o", path)
        found.append(signs(path))
    assert bool(found[0] & found[1]) == (pair == "pair-a")


KINDS = ("gpt", "mbr", "md", "lvm", "btrfs", "fat", [])
HOSTILE = [
    *(None, 7, "x", [], {"tree": 3}),
    {"tree": {"kind": "gpt", "facts": {}, "parts": [1, {}, {"node": 2}]}},
    {"tree": {"kind": "md", "facts": {"slots": [{}], "uuid": None}}},
    *({"tree": {"kind": k, "facts": {"identity": [], "pvs": {}, "slots": 3, "uuid": 0}}} for k in KINDS),
]


@pytest.mark.parametrize("document", HOSTILE, ids=str)
def test_an_image_may_say_anything(document: object) -> None:
    assert all(isinstance(sign.value, str) for sign in signs_in(document))


def test_files_named_together(tmp_path: Path) -> None:
    """Without root: the boot disk of a fold is compared with the data disk."""
    boot = foldkit.boot_disk(tmp_path, foldkit.files())
    data = foldkit.data_disk(tmp_path, "v8-mbr")
    assert "has the same" not in onebay("fold", "--boot", boot, "--data", data, "--dry-run").stderr
    tool("sfdisk", "-q", "--disk-id", data, "0xb00710ad")
    done = onebay("fold", "--boot", boot, "--data", data, "--dry-run")
    assert f"warning: {data}: {boot} has the same MBR signature b00710ad: " in done.stderr
    assert "detach one of the two before booting" in done.stderr
    events = onebay("fold", "--boot", boot, "--data", data, "--dry-run", "--events").stderr
    assert [json.loads(line)["event"] for line in events.splitlines()] == ["warned"]


def twins_in(path: Path) -> list[dict[str, str]]:
    """What inspect finds of other disks."""
    found = onebay("inspect", path, "--json").document["findings"]
    return [finding for finding in found if finding["kind"] == "twin-disk"]


@root
def test_two_disks_in_one_machine(tmp_path: Path) -> None:
    """A copy, and a stranger: inspect and the verbs that write name the copy only, before they write."""
    path = disk(tmp_path / "a")
    shutil.copyfile(path, tmp_path / "b")
    disk(tmp_path / "c", guid=GUID.replace("1", "9"), part=PART.replace("A", "9"))
    image = tmp_path / "a.raw.zst"
    onebay("capture", path, image)
    with (
        attached(path) as one,
        attached(tmp_path / "b") as two,
        attached(tmp_path / "c") as three,
        attached(path, "--read-only") as again,
    ):
        findings = twins_in(one)
        assert [finding["severity"] for finding in findings] == ["warning"]
        text = findings[0]["text"]
        shared = f"disk GUID {GUID}; ext UUID {EXT}; partition GUID {PART}"
        assert text.startswith(f"{two} has the same {shared}: ")
        assert "detach one of the two before booting" in text
        assert str(again) not in text
        assert not twins_in(three)
        assert not twins_in(path), "a file is in no machine"
        same = "has the same disk GUID"
        with untouched(tmp_path / "c"):
            done = fails(3, "restore", image, three, match="needs --yes", state=NOTHING)
            assert f"{two} {same}" in done.stderr
        with untouched(tmp_path / "b"):
            done = fails(3, "grow", two, match="needs --yes", state=NOTHING)
            assert f"{one} {same}" in done.stderr
            assert f"{one} {same}" in onebay("repair", two, status=6).stderr
        assert f"{one} {same}" in onebay("restore", image, three, "--yes", "--no-grow").stderr
        assert len(twins_in(three)) >= 2


@root
def test_a_label_alone_is_worth_a_note(tmp_path: Path) -> None:
    disk(tmp_path / "a", label="ARC1")
    disk(tmp_path / "b", guid=GUID.replace("1", "9"), part=PART.replace("A", "9"), label="ARC1")
    with attached(tmp_path / "a") as one, attached(tmp_path / "b") as two:
        found = twins_in(one)
        assert [f["severity"] for f in found] == ["note"]
        assert found[0]["text"].startswith(f"{two} has the same label ARC1: ")


@root
def test_other_ways_to_the_same_bytes_are_no_twins(tmp_path: Path) -> None:
    """A loop device on a loop device, and two of one file; a disk that cannot be read is left out."""
    path = disk(tmp_path / "a")
    with attached(path) as one, attached(one) as upper, attached(path, "--read-only") as second:
        for device in (one, upper, second):
            volume = DeviceVolume(device)
            others = other_disks(volume)
            volume.close()
            assert device not in others
        volume = DeviceVolume(one)
        assert not {upper, second} & set(other_disks(volume))
        seen: list[object] = []
        warn_twins(volume, report=seen.append)
        assert not [twin for twin in twins(volume, signs(path)) if twin.name in {str(upper), str(second)}]
        volume.close()


# The disk is another one when the first write comes


def plan_of(volume: FileVolume) -> Plan:
    steps = [Write(volume, at, b"some bytes", "test") for at in (0, 512)]
    return Plan("grow", volume, [*steps])


def refused_before_writing(volume: FileVolume, match: str) -> None:
    with pytest.raises(Refused, match=match) as caught:
        execute(plan_of(volume))
    assert caught.value.state == NOTHING_WRITTEN
    with pytest.raises(Refused, match=match):
        volume.write(0, b"past every check of a verb")


def test_a_file_that_was_replaced(tmp_path: Path) -> None:
    """Another file under the name, none at all, or one of another size."""
    path, other = blank(tmp_path / "disk", SIZE), blank(tmp_path / "other", SIZE)
    volume = open_disk(path, writable=True)
    other.rename(path)
    refused_before_writing(volume, "replaced by another file")
    path.rename(other)
    refused_before_writing(volume, "it is gone")
    assert not other.stat().st_blocks
    volume.close()
    volume = open_disk(other, writable=True)
    os.truncate(other, SIZE + MIB)
    refused_before_writing(volume, f"its size changed.*expected {SIZE}, found {SIZE + MIB}")
    os.truncate(other, SIZE)
    execute(plan_of(volume))
    os.truncate(other, SIZE + MIB)
    volume.write(0, b"only the first write is watched")
    volume.close()


@root
def test_a_loop_device_that_became_another(tmp_path: Path) -> None:
    """The size changes under an open device; a name leads to another device."""
    path, other = blank(tmp_path / "a", SIZE), blank(tmp_path / "b", SIZE)
    name = tmp_path / "by-id"
    with attached(path) as one, attached(other) as two:
        name.symlink_to(one)
        volume = open_disk(name, writable=True)
        name.unlink()
        name.symlink_to(two)
        with untouched(path), untouched(other):
            refused_before_writing(volume, "another disk than the one looked at, by its number")
            name.unlink()
            refused_before_writing(volume, "it is gone")
        name.symlink_to(one)
        execute(plan_of(volume))
        volume.close()
        volume = open_disk(name, writable=True)
        os.truncate(path, SIZE + MIB)
        tool("losetup", "--set-capacity", one)
        refused_before_writing(volume, "by its .*expected .*found")
        volume.close()


@root
def test_another_file_under_the_same_loop_device(tmp_path: Path) -> None:
    """As a stick that was pulled and another one plugged: the same name, size and number."""
    path, other = blank(tmp_path / "a", SIZE), blank(tmp_path / "b", SIZE)
    device = Path(tool("losetup", "--show", "--find", "--read-only", path).strip())
    volume = DeviceVolume(device)
    try:
        tool("python3", "-c", SWAP, device, other)
        with pytest.raises(Refused, match="another disk than the one looked at, by its diskseq"):
            execute(plan_of(volume))
    finally:
        volume.close()
        tool("losetup", "--detach", device)


# LOOP_CHANGE_FD, linux include/uapi/linux/loop.h: what live systems use; losetup has no option for it
SWAP = "import fcntl,os,sys; fcntl.ioctl(os.open(sys.argv[1], 0), 0x4C06, os.open(sys.argv[2], 0))"


@root
def test_a_restore_notices(tmp_path: Path) -> None:
    """Between the look and the first write, through the verb's own function."""
    source_disk = make_disk(tmp_path, size=SIZE)
    onebay("capture", source_disk, tmp_path / "i.raw.zst")
    target = blank(tmp_path / "target", SIZE)
    volume = open_disk(target, writable=True)
    blank(tmp_path / "new", SIZE).rename(target)
    source = open_source(str(tmp_path / "i.raw.zst"))
    with untouched(target), pytest.raises(Refused, match="replaced by another file") as caught:
        restore(open_image(source), volume)
    assert caught.value.state == NOTHING_WRITTEN
    source.close()
    volume.close()
