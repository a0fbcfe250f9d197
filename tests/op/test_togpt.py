"""grow --table gpt on files: what stays, where the boot path goes, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import foldkit
import pytest
from badkit import onebay

from onebay.block import open_disk
from onebay.ops.kit import find_copies, same_disk
from onebay.table import GptTable
from onebay.tree import discover

MIB = 1 << 20
TOOLS = ("sfdisk", "sgdisk", "mkfs.fat", "mcopy", "mdel", "grub-mkimage")
MISSING = [tool for tool in TOOLS if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")
RAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"


@contextmanager
def untouched(disk: Path) -> Iterator[None]:
    """Check that nothing writes to a disk; its terabytes of holes are not read for that."""
    before = disk.stat()
    yield
    after = disk.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_blocks) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_blocks,
    )


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foldkit.boot_disk(tmp_path_factory.mktemp("boot"), foldkit.files())


def partitions(disk: Path) -> dict[int, tuple[int, int, str]]:
    """What sfdisk says: number -> first sector, length, type."""
    table = json.loads(foldkit.run("sfdisk", "--json", disk))["partitiontable"]
    return {
        int(part["node"].removeprefix(str(disk))): (part["start"], part["size"], part["type"])
        for part in table["partitions"]
    }


def boots(disk: Path) -> dict[str, Any]:
    """What inspect says of the boot paths."""
    paths = onebay("inspect", disk, "--json").document["boot"]
    return {path["firmware"]: path for path in paths}


@pytest.mark.parametrize("layout", ["v8-mbr", "v9-mbr", "v7-mbr"])
def test_a_folded_disk_is_converted(appliance: Path, tmp_path: Path, layout: str) -> None:
    disk = foldkit.data_disk(tmp_path, layout)
    onebay("fold", "--boot", appliance, "--data", disk, "--in-place")
    with disk.open("r+b") as file:
        file.truncate(disk.stat().st_size + (3 << 40))
    old, content, was = partitions(disk), foldkit.partition_digest(disk, layout), boots(disk)
    with untouched(disk):
        dry = onebay("grow", disk, "--table", "gpt", "--dry-run").stdout
    assert "make the mbr a protective one" in dry
    onebay("grow", disk, "--table", "gpt")
    assert "No problems found" in foldkit.run("sgdisk", "-v", disk)
    new = partitions(disk)
    kinds = {"fd": RAID, "ef": ESP}
    last = max(old, key=lambda number: old[number][0])
    for number, (start, size, kind) in old.items():
        assert new[number][0] == start
        assert new[number][2] == kinds[kind]
        assert new[number][1] == size or number == last
    assert (new[last][0] + new[last][1]) * 512 > 3 << 40
    (core,) = [number for number, (_, _, kind) in new.items() if kind == BIOS_BOOT]
    assert new.keys() - old.keys() == {core}
    assert foldkit.partition_digest(disk, layout) == content
    assert boots(disk) == was
    assert was["bios"]["works"]
    assert was["uefi"]["works"]
    with untouched(disk):
        assert "nothing was written" in onebay("grow", disk, "--table", "gpt").stdout
        onebay("fold", "--boot", appliance, "--data", disk, "--in-place")
        assert "nothing is wrong" in onebay("repair", disk).stdout


def test_the_kit_in_the_tail_is_the_one_of_the_new_table(appliance: Path, tmp_path: Path) -> None:
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    onebay("fold", "--boot", appliance, "--data", disk, "--in-place")
    onebay("grow", disk, "--table", "gpt")
    volume = open_disk(disk)
    tree = discover([volume])
    table = tree.on(volume)
    assert isinstance(table, GptTable)
    (kit,) = [copy.kit for copy in find_copies(volume, table) if copy.kit]
    assert kit.facts.table == "gpt"
    assert kit.facts.identity == table.identity
    assert same_disk(kit, tree, table)
    volume.close()
    # and it heals what the conversion made
    (start, size, _) = next(part for part in partitions(disk).values() if part[2] == BIOS_BOOT)
    with disk.open("r+b") as file:
        file.write(bytes(440))
        file.seek(start * 512)
        file.write(bytes(size * 512))
    onebay("repair", disk)
    healed = boots(disk)
    assert healed["bios"]["works"], healed


def test_a_disk_that_was_not_folded(tmp_path: Path) -> None:
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    old = partitions(disk)
    onebay("grow", disk, "--table", "gpt")
    assert partitions(disk) == {number: (start, size, RAID) for number, (start, size, _) in old.items()}
    assert "No problems found" in foldkit.run("sgdisk", "-v", disk)
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt")
    assert "has a GPT already" in done.stderr


def small(path: Path, script: str, size: int = 64 * MIB) -> Path:
    """Make a small disk with a table by sfdisk."""
    with path.open("xb") as file:
        file.truncate(size)
    foldkit.run("sfdisk", "-q", path, stdin=f"label: dos\nlabel-id: 0xda7ad15c\n{script}\n")
    return path


@pytest.mark.parametrize(
    ("script", "status", "match"),
    [
        ("start=2048, size=8192, type=da", 4, "type 0xda, which has no counterpart"),
        ("start=2048, type=83", 3, "ends too late for a GPT"),
        ("start=8, size=8192, type=83", 3, "starts too early for a GPT"),
    ],
)
def test_refusals(tmp_path: Path, script: str, status: int, match: str) -> None:
    disk = small(tmp_path / "disk.img", script)
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=status)
    assert match in done.stderr
    assert "nothing was written" in done.stderr


@pytest.mark.parametrize("kind", ["ext4", "fat"])
def test_references_to_the_signature_are_refused(tmp_path: Path, kind: str) -> None:
    disk = small(tmp_path / "disk.img", "start=2048, size=65536, type=83")
    text = b'menuentry "x" { linux /vmlinuz root=PARTUUID=da7ad15c-01 ro }\n'
    content = {"/boot/grub/grub.cfg": b"#" * 9000 + text}
    image = tmp_path / "p.img"
    if kind == "fat":
        foldkit.fat(image, 32 * MIB, content)
    else:
        foldkit.ext2(image, 32 * MIB, content)
    foldkit.put(disk, image, MIB)
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=3)
    assert "PARTUUID=da7ad15c-" in done.stderr


def test_a_boot_path_that_no_fold_made_is_refused(appliance: Path, tmp_path: Path) -> None:
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    onebay("fold", "--boot", appliance, "--data", disk, "--in-place")
    home = next(start for start, _, kind in partitions(disk).values() if kind == "ef")
    foldkit.run("mdel", "-i", f"{disk}@@{home * 512}", "::/onebay/fold.json")
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=3)
    assert "looks for an MBR" in done.stderr
