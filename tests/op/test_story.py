"""The story on all three layouts of the sample appliance, judged by the formats' own tools.

The tools look at read-only loop devices over the restored disk, which had been full of random bytes: whatever
onebay forgot to write is garbage here, not zeros.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onebay.sample.build import build
from onebay.sample.layout import LAYOUTS
from tests.story import GROWTH, Story, inspect, onebay, tell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the tools look through loop devices")
NAMES = [layout.name for layout in LAYOUTS]
TAIL = 204800 * 512


def tool(*argv: str | Path) -> str:
    done = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@contextmanager
def looked_at(disk: Path, start: int, size: int) -> Iterator[str]:
    """A read-only loop device over a part of a disk."""
    argv = ("losetup", "--show", "--find", "--read-only", "--offset", start, "--sizelimit", size, disk)
    device = tool(*map(str, argv)).strip()
    try:
        yield device
    finally:
        tool("losetup", "--detach", device)


@pytest.fixture(scope="module", params=NAMES)
def story(
    request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story") / request.param
    yield tell(build(request.param, cache=cache), folder)
    shutil.rmtree(folder)


def table(disk: Path) -> dict[int, dict[str, int]]:
    """Partitions by number, in bytes, as sfdisk sees them."""
    document = json.loads(tool("sfdisk", "--json", disk))["partitiontable"]
    found = {}
    for part in document["partitions"]:
        number = int(re.findall(r"\d+$", part["node"])[0])
        found[number] = {"start": part["start"] * 512, "size": part["size"] * 512, "type": part["type"]}
    return found


def test_table(story: Story) -> None:
    """Partitions of the appliance keep their places; the data one ends before the layout's own tail."""
    layout = story.sample.layout
    tool("sfdisk", "--verify", story.restored)
    if layout.table == "gpt":
        assert "No problems found" in tool("sgdisk", "-v", story.restored)
    before, after = table(story.sample.data), table(story.restored)
    size = story.restored.stat().st_size
    for number, part in before.items():
        if number in (1, 2):
            assert after[number] == part
        assert after[number]["start"] == part["start"]
    data = after[layout.data_number]
    assert data["size"] >= before[layout.data_number]["size"] + GROWTH - (2 << 20)
    assert size - (data["start"] + data["size"]) >= TAIL


def test_identities_are_kept(story: Story) -> None:
    """Disk, partition, array, group and file system keep their names and UUIDs; onebay reads the same."""
    before, after = inspect(story.folded), inspect(story.restored)

    def identities(node: dict, found: list) -> list:
        found.append(
            (
                node.get("kind"),
                [node.get("facts", {}).get(key) for key in ("identity", "uuid", "name", "label")],
            )
        )
        for part in node.get("parts", []):
            if part["role"] != "gap":
                found.append((part["label"].split(":")[-1], part.get("uuid"), part.get("type")))
            if part.get("node"):
                identities(part["node"], found)
        return found

    assert identities(before["tree"], []) == identities(after["tree"], [])


def test_arrays(story: Story) -> None:
    """mdadm finds all three arrays as they were, md2 larger."""
    golden = story.sample.golden
    parts = table(story.restored)
    for number, minor in ((1, 0), (2, 1), (story.sample.layout.data_number, 2)):
        with looked_at(story.restored, parts[number]["start"], parts[number]["size"]) as device:
            found = tool("mdadm", "--examine", device)
        assert re.search(r"Checksum : \w+ - (correct|expected)", found), found
        uuid = re.search(r"UUID : (\S+)", found)
        assert uuid
        assert any(uuid[1] in text for text in golden.values()), f"md{minor}: {found}"
    size = re.search(r"Array Size : (\d+)", found)
    assert size
    assert int(size[1]) * 1024 > parts[story.sample.layout.data_number]["size"] - (64 << 20)


def filesystem(story: Story, number: int) -> tuple[str, int, int]:
    """Kind, first byte on the disk and size of the topmost file system on a partition."""
    document = inspect(story.restored)
    part = next(part for part in document["tree"]["parts"] if part["label"] == f"p{number}")
    start, node = part["start"], part["node"]
    while node.get("parts"):
        inner = [part["node"] for part in node["parts"]]
        node = max(inner, key=lambda inner: inner["size"])
    return node["kind"], start, node["size"]


def offset_of(story: Story, number: int, magic: bytes, at: int) -> int:
    """Find a file system's superblock on the disk by its magic at its place: our offsets are not asked."""
    start = table(story.restored)[number]["start"]
    with story.restored.open("rb") as file:
        for step in range(0, 64 << 20, 4096):
            file.seek(start + step + at)
            if file.read(len(magic)) == magic:
                return start + step
    raise AssertionError(f"no file system on p{number}")


def test_file_systems(story: Story) -> None:
    """e2fsck and btrfs check are content, and the volume has grown by what the disk has."""
    layout = story.sample.layout
    start = table(story.restored)[1]["start"]
    tool("e2fsck", "-fn", f"{story.restored}?offset={start}")
    _, _, size = filesystem(story, layout.data_number)
    assert size > layout.data.size * 512 + GROWTH - (64 << 20)
    if layout.filesystem == "ext4":
        at = offset_of(story, layout.data_number, b"\x53\xef", 1080)
        with looked_at(story.restored, at, size) as device:
            tool("e2fsck", "-fn", device)
            assert f"Block count:              {size // 4096}\n" in tool("dumpe2fs", "-h", device)
    else:
        at = offset_of(story, layout.data_number, b"_BHRfS_M", 65600)
        with looked_at(story.restored, at, size) as device:
            tool("btrfs", "check", "--readonly", "--check-data-csum", device)
            found = tool("btrfs", "inspect-internal", "dump-super", device)
            assert re.search(rf"^total_bytes\s+{size // 4096 * 4096}$", found, re.MULTILINE)


def test_boot_partition(story: Story) -> None:
    """The folded FAT is clean and holds the loader that UEFI looks for."""
    parts = [p for p in inspect(story.restored)["tree"]["parts"] if p["role"] == "partition"]
    fats = [part for part in parts if part["node"].get("kind") == "fat"]
    assert fats
    for part in fats:
        with looked_at(story.restored, part["start"], part["end"] - part["start"]) as device:
            tool("fsck.fat", "-n", device)
    at = f"{story.restored}@@{fats[0]['start']}"
    assert "BOOTX64" in tool("mdir", "-i", at, "::/EFI/BOOT").upper()


def test_image(story: Story) -> None:
    """zstd takes it for its own; the disk that was captured is what it holds, and so is a grown one."""
    tool("zstd", "-t", story.image)
    onebay("verify", story.image)
    onebay("verify", story.image, "--against", story.folded)
    held = story.folded.stat().st_blocks * 512
    assert story.image.stat().st_size < held / 2  # dirty free space was left out
    grown = onebay("verify", story.image, "--against", story.restored)
    assert "because the disk has grown" in grown.stdout


def test_an_image_is_inspected_like_its_disk(story: Story) -> None:
    image, disk = (
        json.loads(json.dumps(inspect(path)).replace(str(path), "DISK"))
        for path in (story.image, story.folded)
    )

    def shape(node: dict) -> list:
        inner = [shape(part["node"]) for part in node.get("parts", []) if part.get("node")]
        return [node.get("kind"), node["size"], node.get("facts"), inner]

    assert shape(image["tree"]) == shape(disk["tree"])
    assert image["boot"] == disk["boot"]


def test_nothing_left_to_do(story: Story) -> None:
    """A second grow changes nothing and says so; fold sees its own work."""
    assert "full already" in onebay("grow", story.restored).stdout
    again = onebay("fold", "--boot", story.sample.boot, "--data", story.restored, "--in-place")
    assert "nothing" in again.stdout + again.stderr
