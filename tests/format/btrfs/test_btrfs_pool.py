"""Btrfs on several devices: what we read is what btrfs-progs says; what does not fit is kept whole."""

from __future__ import annotations

import json
from pathlib import Path

import btrfs_lab as lab
import pytest

from onebay.base import tool
from onebay.base.error import Unsupported
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Overlay, Volume
from onebay.fs.btrfs import BtrfsFs, BtrfsPool, assemble, probe
from onebay.fs.btrfs.compressed import compressed_extents
from onebay.fs.btrfs.csum import sealed
from onebay.fs.btrfs.read import BEYOND, Root, Step
from onebay.fs.btrfs.record import SUPER, SUPER_PLACES, SUPER_SIZE, Super
from onebay.layer import Member, Suspect

EXPECTED = json.loads(Path(__file__).with_name("pools.json").read_text())
DEVIDS = {"mirror": (1, 3), "mirror3": (1, 2, 3), "spread": (2, 3), "stripes": (1, 2, 3)}
READ = ("mirror", "mirror3", "spread")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The devices of all golden file systems, unpacked once and never written."""
    folder = tmp_path_factory.mktemp("pools")
    return {case: [lab.unpack(f"{case}.{n}", folder) for n in devids] for case, devids in DEVIDS.items()}


@pytest.fixture
def mirror(images: dict[str, list[Path]]) -> list[Overlay]:
    """Private, writable views of the two devices of a RAID1."""
    return [Overlay(FileVolume(path)) for path in images["mirror"]]


def joined(*volumes: Volume) -> BtrfsPool | Suspect:
    """Probe volumes that must be devices, and join them."""
    members = []
    for volume in volumes:
        member = probe(volume)
        assert isinstance(member, Member), member
        members.append(member)
    assert len({(member.kind, member.key, member.of) for member in members}) == 1
    return assemble(members)


def good(*volumes: Volume) -> BtrfsPool:
    """Join volumes that must be devices of a file system."""
    found = joined(*volumes)
    assert isinstance(found, BtrfsPool), found
    return found


def opened(paths: list[Path]) -> list[Volume]:
    return [FileVolume(path) for path in paths]


def kept_whole(fs: BtrfsPool) -> str:
    """Return why it is kept whole, which must be true of every byte, and told."""
    assert fs.used() == tuple(ExtentSet.single(0, volume.size) for volume in fs.below)
    assert [finding.kind for finding in fs.check()].count("kept-whole") == 1
    with pytest.raises(Unsupported):
        fs.plan_grow()
    return fs.keep_whole() or ""


def first_super(volume: Volume) -> Super:
    return SUPER.unpack(volume.read(SUPER_PLACES[0], SUPER_SIZE))


def change_super(volume: Volume, **changes: int) -> None:
    """Change fields in all superblocks of a device, with right checksums."""
    for at in SUPER_PLACES[:2]:
        sb = SUPER.unpack(volume.read(at, SUPER_SIZE))
        volume.write(at, sealed(sb.csum_type, SUPER.pack(sb, **changes)))


def break_block(fs: BtrfsPool, root: Root, devids: tuple[int, ...]) -> None:
    """Flip a byte in the copies of a tree block that lie on some devices."""
    assert fs.reader is not None
    step = Step(root.at, root.level, root.generation, root.owner, None, BEYOND)
    places = [copy for copy in fs.reader.copies(step) if copy.devid in devids]
    assert {copy.devid for copy in places} == set(devids)
    for copy in places:
        volume = fs.reader.volumes[copy.devid]
        volume.write(copy.at + 200, bytes((volume.read(copy.at + 200, 1)[0] ^ 1,)))


@pytest.mark.parametrize("case", DEVIDS)
def test_facts_are_those_of_btrfs_progs(case: str, images: dict[str, list[Path]]) -> None:
    want, fs = EXPECTED[case]["super"], good(*opened(images[case]))
    facts = fs.facts()
    assert (facts["uuid"], facts["label"]) == (want["fsid"], want["label"])
    for name, field in (("generation", "generation"), ("used", "bytes_used"), ("devices", "num_devices")):
        assert facts[name] == int(want[field]), name
    assert facts["profiles"] == EXPECTED[case]["profiles"]
    members = facts["members"]
    assert isinstance(members, list)
    assert [(each["devid"], each["volume"]) for each in members if isinstance(each, dict)] == [
        (devid, str(path)) for devid, path in zip(DEVIDS[case], images[case], strict=True)
    ]
    first = members[0]
    assert isinstance(first, dict)
    assert (first["device_uuid"], first["size"]) == (want["dev_item.uuid"], int(want["dev_item.total_bytes"]))
    assert [finding for finding in fs.check() if finding.kind != "kept-whole"] == []
    assert fs.used_bytes() == int(want["bytes_used"])


@pytest.mark.parametrize("case", READ)
def test_used_is_exactly_what_the_trees_say(case: str, images: dict[str, list[Path]]) -> None:
    volumes = opened(images[case])
    for order in (volumes, volumes[::-1]):  # partitions are in any order
        fs = good(*order)
        assert fs.keep_whole() is None
        told = {str(devid): [*used.bounds] for devid, used in zip(DEVIDS[case], fs.used(), strict=True)}
        assert told == EXPECTED[case]["used"]
        assert fs.keep_whole() is None
        assert fs.plan_grow() == []


def test_chunk_tree_on_another_device_alone(images: dict[str, list[Path]]) -> None:
    """With profile SINGLE and its first device removed, no device leads to the trees by itself."""
    fs = good(*opened(images["spread"]))
    assert fs.reader is not None
    homes = {place.devid for place in fs.reader.map.places(fs.sb.chunk_root, fs.sb.nodesize)}
    assert len(homes) == 1
    assert homes != {DEVIDS["spread"][0]}


def test_other_profiles_are_named_and_kept_whole(images: dict[str, list[Path]]) -> None:
    assert kept_whole(good(*opened(images["stripes"]))) == "chunk profile raid0 is not read"


@lab.needs_tools
@pytest.mark.parametrize(
    ("data", "metadata", "reason"),
    [
        ("raid1", "raid1", None),
        ("single", "raid1", None),
        ("single", "dup", None),
        ("single", "raid1c4", None),
        ("raid1c3", "raid1c3", None),
        ("raid0", "raid1", "chunk profile raid0 is not read"),
        ("raid10", "raid1", "chunk profile raid10 is not read"),
        ("raid5", "raid1c3", "chunk profile raid5 is not read"),
        ("raid6", "raid1c3", "chunk profile raid6 is not read"),
        ("raid10", "raid10", "chunk profile raid10 is not read"),
        ("raid0", "raid0", "chunk profile raid0 is not read"),
    ],
)
def test_profiles(data: str, metadata: str, reason: str | None, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.img" for number in range(4)]
    for path in paths:
        with path.open("xb") as file:
            file.truncate(160 * lab.MIB)
    tool.run(["mkfs.btrfs", "-q", "-d", data, "-m", metadata, *paths])
    fs = good(*opened(paths))
    if reason is not None:
        assert kept_whole(fs) == reason
        return
    assert fs.keep_whole() is None
    want = {devid: ExtentSet.of(found) for devid, found in lab.used_on_devices(*paths).items()}
    assert dict(zip((1, 2, 3, 4), fs.used(), strict=True)) == want


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_device_keeps_the_other_whole(which: int, mirror: list[Overlay]) -> None:
    devid = DEVIDS["mirror"][which]
    assert kept_whole(good(mirror[which])) == f"1 of 2 devices on this disk: devid {devid}"


def test_one_device_of_an_old_image(tmp_path: Path) -> None:
    fs = good(FileVolume(lab.unpack("raid1", tmp_path)))
    assert fs.title == "btrfs of 2 devices"
    assert "1 of 2 devices" in kept_whole(fs)


def test_two_copies_of_a_device(mirror: list[Overlay]) -> None:
    suspect = joined(mirror[0], mirror[1], Overlay(mirror[0], name="copy"))
    assert isinstance(suspect, Suspect)
    assert f"{mirror[0].name} and copy both claim to be device 1" in suspect.evidence


def test_a_device_that_was_away(mirror: list[Overlay]) -> None:
    """What it holds may be the only copy of what was written to it elsewhere."""
    change_super(
        mirror[1], generation=SUPER.unpack(mirror[1].read(SUPER_PLACES[0], SUPER_SIZE)).generation - 1
    )
    assert "different generations" in kept_whole(good(*mirror))


def test_devices_that_parted(mirror: list[Overlay]) -> None:
    """Both were used without the other, for as long."""
    change_super(mirror[1], root=first_super(mirror[1]).root + (1 << 20))
    assert "superblocks of the devices differ" in kept_whole(good(*mirror))


def test_first_superblock_of_a_device_bad(mirror: list[Overlay]) -> None:
    mirror[1].write(SUPER_PLACES[0] + 200, b"\xff" * 8)
    fs = good(*mirror)
    assert "the first superblock" in (fs.keep_whole() or "")
    assert fs.used()[0] == ExtentSet.single(0, mirror[0].size)
    assert [(f.kind, f.volume) for f in fs.check()] == [("superblock-bad", mirror[1].name)]
    mirror[1].write(SUPER_PLACES[0], bytes(SUPER_SIZE))
    assert probe(mirror[1]) is None  # a mirror alone may be the leftover of a former life


def test_three_devices_claimed(mirror: list[Overlay]) -> None:
    for volume in mirror:
        change_super(volume, num_devices=3)
    assert "2 of 3 devices" in kept_whole(good(*mirror))


def test_fewer_devices_claimed_than_the_chunk_tree_has(mirror: list[Overlay]) -> None:
    change_super(mirror[0], num_devices=1)
    alone = probe(mirror[0])
    assert isinstance(alone, BtrfsFs)
    assert alone.keep_whole() == "1 of 2 devices; not on this disk: devid 3"


def test_zoned_is_kept_whole(mirror: list[Overlay]) -> None:
    for volume in mirror:
        sb = first_super(volume)
        change_super(volume, incompat_flags=sb.incompat_flags | 1 << 12)
    assert kept_whole(good(*mirror)) == "feature zoned is not read"


@pytest.mark.parametrize("devid", DEVIDS["mirror"])
def test_one_bad_copy_is_told_with_its_volume(devid: int, mirror: list[Overlay]) -> None:
    fs = good(*mirror)
    assert fs.reader is not None
    break_block(fs, fs.reader.chunk_root(), (devid,))
    fs = good(*mirror)
    told = {str(each): [*used.bounds] for each, used in zip(DEVIDS["mirror"], fs.used(), strict=True)}
    assert told == EXPECTED["mirror"]["used"]
    found = fs.check()
    # whether a bad copy is met depends on which one is read first
    assert {(f.kind, f.volume) for f in found} <= {("copy-bad", mirror[DEVIDS["mirror"].index(devid)].name)}


def test_no_good_copy_of_the_chunk_root(mirror: list[Overlay]) -> None:
    fs = good(*mirror)
    assert fs.reader is not None
    break_block(fs, fs.reader.chunk_root(), DEVIDS["mirror"])
    suspect = joined(*mirror)
    assert isinstance(suspect, Suspect)
    assert "of device 1: checksum" in suspect.evidence
    assert "of device 3: checksum" in suspect.evidence


def test_damage_in_the_walk_keeps_everything(mirror: list[Overlay]) -> None:
    fs = good(*mirror)
    assert fs.reader is not None
    break_block(fs, fs.reader.find_root(2), DEVIDS["mirror"])
    fs = good(*mirror)
    assert fs.used() == tuple(ExtentSet.single(0, volume.size) for volume in mirror)
    assert "checksum" in (fs.keep_whole() or "")
    assert [finding.kind for finding in fs.check()] == ["extent-tree"]


def test_a_device_shorter_than_it_says(mirror: list[Overlay]) -> None:
    fs = good(mirror[0], Overlay(mirror[1], size=mirror[1].size - 4096))
    assert "its volume only" in kept_whole(fs)
    assert "fs-larger-than-volume" in [finding.kind for finding in fs.check()]


def test_a_larger_volume_gains_nothing(mirror: list[Overlay]) -> None:
    larger = Overlay(mirror[1], size=mirror[1].size * 2)
    fs = good(mirror[0], larger)
    assert [(f.kind, f.volume) for f in fs.check()] == [("fs-smaller-than-volume", larger.name)]
    with pytest.raises(Unsupported, match="keeps its sizes") as caught:
        fs.plan_grow()
    assert "resize 3:max" in (caught.value.hint or "")
    assert [*fs.used()[1].bounds] == EXPECTED["mirror"]["used"]["3"]


def test_another_device_uuid(mirror: list[Overlay]) -> None:
    """Whose UUID the chunk tree does not know is none of its devices, whatever number it claims."""
    for at in SUPER_PLACES[:2]:
        sb = bytearray(mirror[1].read(at, SUPER_SIZE))
        sb[SUPER.offset("dev_item") + 66] ^= 1  # struct btrfs_dev_item, uuid
        mirror[1].write(at, sealed(0, sb))
    assert kept_whole(good(*mirror)) == "the chunk tree knows device 3 by another UUID"


@pytest.mark.parametrize("case", READ)
def test_compressed_files_are_seen(case: str, images: dict[str, list[Path]]) -> None:
    fs = good(*opened(images[case]))
    assert fs.reader is not None
    assert set(compressed_extents(fs.reader)) == {3}
