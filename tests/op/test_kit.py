"""Boot kits: what is in one, where copies lie, and that no damage of one goes unseen."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import foldkit
import repairkit
from repairkit import Folded

from onebay.base.error import BadChecksum, Damaged, Error, Refused, Truncated, Unsupported
from onebay.base.step import Flush, apply
from onebay.block import FileVolume, Overlay, open_disk
from onebay.image import Image
from onebay.ops.grow import grow, plan_grow
from onebay.ops.journal import ROOM, Journal
from onebay.ops.kit import find_copies, load_kit, make_kit, plan_carry, same_disk, tail_room
from onebay.ops.kitformat import HEAD, MAGIC, Kit, parse_kit
from onebay.source import open_source
from onebay.table import Table
from onebay.tree import discover

MIB = 1 << 20
TOOLS = ("sfdisk", "sgdisk", "mkfs.fat", "mcopy", "debugfs", "grub-mkimage")
MISSING = [tool for tool in TOOLS if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")
Disks = Callable[[str], Folded]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Disks:
    base = tmp_path_factory.mktemp("folded")
    made: dict[str, Folded] = {}

    def get(name: str) -> Folded:
        if name not in made:
            made[name] = repairkit.build(base / name, name)
        return made[name]

    return get


def copies(path: Path) -> list[tuple[int, bool]]:
    disk = open_disk(path)
    table = discover([disk]).on(disk)
    assert isinstance(table, Table)
    return [(copy.at, copy.kit is not None) for copy in find_copies(disk, table)]


@pytest.mark.parametrize("name", ["v8-mbr", "v9-gpt", "v8-to-gpt"])
def test_holds_what_makes_the_disk_boot(disks: Disks, name: str) -> None:
    """Every byte in a kit is the disk's; the entries are those that sfdisk lists."""
    folded = disks(name)
    raw = repairkit.kit_of(folded.path)
    kit = parse_kit(raw, "kit")
    kit.check()
    disk = open_disk(folded.path)
    assert repairkit.same_boot(raw, disk) == []
    listed = json.loads(foldkit.run("sfdisk", "--json", folded.path))["partitiontable"]
    theirs = {(p["start"] * 512, p["size"] * 512, p["type"].lower()) for p in listed["partitions"]}
    ours = {(p.start, p.size, p.type.removeprefix("0x").lower()) for p in kit.facts.partitions}
    assert ours <= theirs
    assert len(ours) == len(theirs) - 3
    told = {(other["start"], other["size"]) for other in kit.facts.others}
    assert told | {item[:2] for item in ours} == {item[:2] for item in theirs}
    assert kit.read(0, 440) == disk.read(0, 440)
    core = folded.places["core"]
    assert kit.read(core, 4096) == disk.read(core, 4096)
    assert kit.read(disk.size - 512, 512) is None


def test_fold_leaves_the_kit_in_the_tail(disks: Disks) -> None:
    folded = disks("v8-mbr")
    at = folded.places["tail"]
    disk = open_disk(folded.path)
    table = discover([disk]).on(disk)
    assert isinstance(table, Table)
    assert at == tail_room(disk, table).start
    raw = repairkit.kit_of(folded.path)
    assert disk.read(at, len(raw)) == raw  # a kit made of the finished disk is the same to the byte
    assert at + len(raw) + ROOM < disk.size


def test_every_image_carries_it(disks: Disks, tmp_path: Path) -> None:
    folded = disks("v9-gpt")
    image = repairkit.image_of(folded.path, tmp_path / "disk.raw.zst")
    source = open_source(str(image))
    assert Image.open(source).blobs["kit"] == repairkit.kit_of(folded.path)
    assert load_kit(source).facts == parse_kit(repairkit.kit_of(folded.path), "kit").facts
    source.close()


def test_a_plain_disk_has_none(disks: Disks) -> None:
    disk = open_disk(disks("plain").path)
    with pytest.raises(Refused, match="nothing on the disk makes it boot"):
        make_kit(discover([disk]), io.BytesIO())


@pytest.mark.parametrize("name", ["v8-mbr", "v9-gpt"])
@pytest.mark.parametrize("more", ["4G", "1M"])
def test_grow_takes_the_copy_along(disks: Disks, tmp_path: Path, name: str, more: str) -> None:
    folded = disks(name)
    path = tmp_path / "disk.img"
    foldkit.run("cp", "--sparse=always", folded.path, path)
    foldkit.run("truncate", "-s", f"+{more}", path)
    before = copies(path)
    disk = open_disk(path, writable=True)
    plan = plan_grow(disk)
    view = Overlay(disk)
    for step in plan.steps:  # there is a whole copy at every moment
        if not isinstance(step, Flush):
            apply(type(step)(view, *[getattr(step, key) for key in step.__slots__[1:]]))
        table = discover([view]).on(view)
        assert isinstance(table, Table)
        assert any(copy.kit for copy in find_copies(view, table)), step
    grow(disk)
    disk.close()
    ((at, whole),) = copies(path)
    assert whole
    disk = open_disk(path)
    table = discover([disk]).on(disk)
    assert isinstance(table, Table)
    assert at - tail_room(disk, table).start == (0 if more == "4G" else MIB)
    assert at >= before[0][0] + len(repairkit.kit_of(folded.path))


def test_a_copy_is_not_written_over_the_one_that_it_replaces(disks: Disks, tmp_path: Path) -> None:
    """Where the new tail has room only for a copy that overlaps the old one, there is a note instead."""
    folded = disks("v9-gpt")
    path = tmp_path / "disk.img"
    foldkit.run("cp", "--sparse=always", folded.path, path)
    foldkit.run("truncate", "-s", "+1M", path)
    disk = open_disk(path, writable=True)
    table = discover([disk]).on(disk)
    assert isinstance(table, Table)
    ((at, _),) = copies(path)
    size = len(repairkit.kit_of(folded.path))
    last = Journal(disk).room(ROOM).start - size  # where a copy fits at the very end of its room
    late = last // MIB * MIB
    disk.write(late, disk.read(at, size))
    disk.zero(at, len(MAGIC))
    assert copies(path) == [(late, True)]
    steps, note = plan_carry(disk, table, late + MIB)
    assert (steps, note.split(";")[0]) == ([], "no room in the new tail for the copy of the boot kit")
    steps, note = plan_carry(disk, table, late)
    assert (steps, note) == ([], "")
    disk.close()


def test_knows_its_disk(disks: Disks) -> None:
    kit = parse_kit(repairkit.kit_of(disks("v9-gpt").path), "kit")
    for name, known in (("v9-gpt", True), ("v8-mbr", False)):
        disk = open_disk(disks(name).path)
        tree = discover([disk])
        table = tree.on(disk)
        assert isinstance(table, Table)
        assert bool(same_disk(kit, tree, table)) == known


def test_no_damage_goes_unseen(disks: Disks, tmp_path: Path) -> None:
    """Cut anywhere or with any byte flipped (a sample of places, and all of the head), a kit is refused."""
    raw = repairkit.kit_of(disks("v8-mbr").path)
    places = random.Random(3)
    for at in [*range(HEAD.size), *(places.randrange(len(raw)) for _ in range(200)), len(raw) - 1]:
        flipped = raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :]
        with pytest.raises(Damaged):
            parse_kit(flipped, "kit")
    for length in [*range(0, HEAD.size, 7), *(places.randrange(len(raw)) for _ in range(50))]:
        with pytest.raises(Damaged):
            parse_kit(raw[:length], "kit")
    with pytest.raises(Damaged, match="after the end"):
        parse_kit(raw + b"\0", "kit")
    cut = tmp_path / "cut"
    cut.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Truncated, match="cut short"):
        load_kit(open_source(str(cut)))
    cut.write_bytes(b"something else")
    with pytest.raises(Unsupported, match="neither a boot kit nor an image"):
        load_kit(open_source(str(cut)))


def packed(facts: Any, content: bytes = b"", *, frames: int = 0) -> bytes:
    """Return a kit with right digests around any facts."""
    codec = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True)
    text = json.dumps(facts).encode()
    stored = codec.compress(text)
    body = b"".join(codec.compress(content) for _ in range(frames))
    size = HEAD.size + len(stored) + len(body) + 32
    head = struct.pack(
        "<8sIIQIIQI20x", MAGIC, 1, 0, size, len(stored), len(text), len(content) * frames, frames
    )
    whole = head + stored + body
    return whole + hashlib.sha256(whole).digest()


def good_facts() -> dict[str, Any]:
    part = {"number": 4, "start": 1 << 20, "size": 1 << 20, "type": "0xef", "uuid": "x-04", "name": ""}
    part |= {"active": True, "fs": "fat", "fs_uuid": "1234-5678", "home": True}
    region = {"what": "p4", "at": 1 << 20, "size": 1 << 20, "extents": [[0, 4096]]}
    region["sha256"] = hashlib.sha256(bytes(4096)).hexdigest()
    return {
        "disk_size": 1 << 30,
        "sector_size": 512,
        "table": "mbr",
        "identity": "12345678",
        "first_usable": 512,
        "last_usable": 1 << 30,
        "layers": {"p1": "u"},
        "boot_disk": "",
        "partitions": [part],
        "others": [],
        "regions": [region],
    }


def test_good_facts_are_good() -> None:
    kit = parse_kit(packed(good_facts(), bytes(4096), frames=1), "kit")
    kit.check()
    assert kit.read(1 << 20, 4096) == bytes(4096)


def test_content_is_compared_with_its_digest() -> None:
    kit = parse_kit(packed(good_facts(), b"x" * 4096, frames=1), "kit")
    with pytest.raises(BadChecksum):
        kit.check()


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=12) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PLACES = [
    *((key,) for key in good_facts()),
    *(("partitions", 0, key) for key in good_facts()["partitions"][0]),
    *(("regions", 0, key) for key in good_facts()["regions"][0]),
    ("regions", 0, "extents", 0),
    ("regions", 0, "extents", 0, 1),
    ("partitions", 0),
    ("others", 0),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), junk)
def test_hostile_facts(place: tuple[Any, ...], value: Any) -> None:
    """Whatever stands in a field, only our own errors come out, or a kit that can be used."""
    facts = good_facts()
    target: Any = facts
    for key in place[:-1]:
        target = target[key]
    if isinstance(target, list) and place[-1] >= len(target):
        target.append(value)
    else:
        target[place[-1]] = value
    try:
        kit = parse_kit(packed(facts, bytes(4096), frames=1), "kit")
        kit.check()
    except Error:
        return
    assert isinstance(kit, Kit)
    assert all(0 <= part.start < part.end <= kit.facts.disk_size for part in kit.facts.partitions)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_hostile_bytes(tail: bytes) -> None:
    for raw in (tail, MAGIC + tail, packed(good_facts())[: HEAD.size] + tail):
        with pytest.raises(Error):
            parse_kit(raw, "kit")


def test_a_hostile_magic_in_the_tail_is_a_note(disks: Disks, tmp_path: Path) -> None:
    folded = disks("v8-mbr")
    path = tmp_path / "disk.img"
    foldkit.run("cp", "--sparse=always", folded.path, path)
    disk = FileVolume(path, writable=True)
    at = folded.places["tail"] + 8 * MIB
    disk.write(at, HEAD.pack(HEAD.unpack(MAGIC + b"\1\0\0\0\0\0\0\0" + b"\xff" * 48)))
    disk.close()
    assert copies(path) == [(folded.places["tail"], True), (at, False)]
