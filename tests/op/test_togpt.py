"""grow --table gpt on files: what stays, where the boot path goes, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import foldkit
import pytest
from badkit import golden, onebay

from onebay.block import open_disk
from onebay.ops.kit import find_copies, same_disk
from onebay.table import GptTable
from onebay.tree import discover
from tests.grubdisk import with_grub

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


SPELLINGS = (
    b'menuentry "x" { linux /vmlinuz root=PARTUUID=da7ad15c-01 ro }\n',
    b"/dev/disk/by-partuuid/da7ad15c-01 / ext4 defaults 0 1\n",
    b'PARTUUID="da7ad15c-01" / ext4 defaults 0 1\n',
    b"PARTUUID=DA7AD15C-0a none swap\n",
)


def holding(folder: Path, kind: str, text: bytes) -> Path:
    """A disk with a file system that has `text` in a file."""
    disk = small(folder / "disk.img", "start=2048, size=65536, type=83")
    content = {"/boot/grub/grub.cfg": b"#" * 9000 + b"\n" + text}
    image = folder / "p.img"
    if kind == "fat":
        foldkit.fat(image, 32 * MIB, content)
    else:
        foldkit.ext2(image, 32 * MIB, content)
    foldkit.put(disk, image, MIB)
    return disk


@pytest.mark.parametrize(
    ("kind", "text"),
    [("ext4", SPELLINGS[0]), ("fat", SPELLINGS[1]), ("ext4", SPELLINGS[2]), ("fat", SPELLINGS[3])],
    ids=["option", "by-partuuid", "quoted", "upper"],
)
def test_references_to_the_signature_are_refused(tmp_path: Path, kind: str, text: bytes) -> None:
    disk = holding(tmp_path, kind, text)
    for more in ((), ("--dry-run",)):
        with untouched(disk):
            done = onebay("grow", disk, "--table", "gpt", *more, status=3)
        assert "refers to a partition as PARTUUID da7ad15c-" in done.stderr
    done = onebay("grow", disk, "--table", "gpt", "--partuuid-unchecked")
    assert "which is no more" in done.stderr.partition("grow:")[0]


@pytest.mark.parametrize("text", [b"da7ad15c-01aa-4000-8000-000000000000", b"0da7ad15c-01", b"da7ad15c-0"])
def test_other_names_are_no_references(tmp_path: Path, text: bytes) -> None:
    onebay("grow", holding(tmp_path, "ext4", text + b"\n"), "--table", "gpt")


def luks(disk: Path, part: Path) -> None:
    key = part.with_suffix(".key")
    key.write_bytes(b"secret")
    foldkit.run("truncate", "-s", "300M", part)
    foldkit.run("cryptsetup", "-q", "luksFormat", "--type", "luks1", "-i", "1", part, key)
    foldkit.put(disk, part, MIB)


def unknown(disk: Path, part: Path) -> None:
    write(disk, 8 * MIB, b"who knows")


def packed(disk: Path, part: Path) -> None:
    foldkit.put(disk, golden("btrfs", "dup", part), MIB)


def large(disk: Path, part: Path) -> None:
    """More than 16 GiB that are allocated; written is next to nothing."""
    foldkit.run("mke2fs", "-q", "-t", "ext4", "-E", f"offset={MIB}", disk, "20G")
    part.write_text("write /dev/null f\nfallocate f 0 4718591\n")
    foldkit.run("debugfs", "-w", "-f", part, f"{disk}?offset={MIB}")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (luks, "luks"),
        (unknown, "(unknown content)"),
        (packed, "(compressed files)"),
        (large, "(more than 16 gib)"),
    ],
)
def test_what_cannot_be_looked_through_is_refused(
    tmp_path: Path, make: Callable[[Path, Path], None], why: str
) -> None:
    size = 20 << 30 if make is large else 300 * MIB
    disk = small(tmp_path / "disk.img", f"start=2048, size={size // 512}, type=83", size=size + 8 * MIB)
    make(disk, tmp_path / "part.img")
    os.sync()
    for more in ((), ("--dry-run",)):
        with untouched(disk):
            done = onebay("grow", disk, "--table", "gpt", *more, status=3)
        assert "not looked through for PARTUUID da7ad15c-.., which a GPT cannot keep" in done.stderr
        assert why in done.stderr.lower()
        assert "--partuuid-unchecked" in done.stderr
    plan = onebay("grow", disk, "--table", "gpt", "--partuuid-unchecked", "--dry-run").stdout
    assert why in plan.lower()
    assert "make the mbr a protective one" in plan


def test_the_data_of_an_appliance_need_not_be_looked_through(tmp_path: Path) -> None:
    """What it boots from is elsewhere: on its system's partitions and in what was folded."""
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    old = partitions(disk)
    data, swap = old[3][0] * 512, old[2][0] * 512
    write(disk, data, b"who knows")
    write(disk, swap, b"who knows")
    done = onebay("grow", disk, "--table", "gpt", status=3)
    assert "p2" in done.stderr
    assert "p3" not in done.stderr
    write(disk, swap, bytes(9))
    done = onebay("grow", disk, "--table", "gpt")
    assert "not looked through" in done.stderr.partition("grow:")[0]


def test_a_boot_path_that_no_fold_made_is_refused(appliance: Path, tmp_path: Path) -> None:
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    onebay("fold", "--boot", appliance, "--data", disk, "--in-place")
    home = next(start for start, _, kind in partitions(disk).values() if kind == "ef")
    foldkit.run("mdel", "-i", f"{disk}@@{home * 512}", "::/onebay/fold.json")
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=3)
    assert "looks for an MBR" in done.stderr


STANDARD = b"\xfa\x33\xc0Invalid partition table\0Error loading operating system\0Missing operating system\0"
PARTED = bytes.fromhex(  # as parted 3.5 leaves it: mklabel msdos
    "fab800108ed0bc00b0b800008ed88ec0fbbe007cbf0006b90002f3a4ea21060000bebe073804750b83c61081fefe0775"
    "f3eb16b402b001bb007cb2808a74018b4c02cd13ea007c0000ebfe"
)
LEGACY = b"\xeb\x48\x90" + bytes(0x170) + b"GRUB \0Geom\0Hard Disk\0Read\0 Error\0"  # stage1 of GRUB 0.97


def coded(path: Path, code: bytes) -> Path:
    """A disk with boot code and one partition that is nothing."""
    small(path, "start=2048, size=65536, type=83, bootable")
    write(path, 0, code)
    return path


def write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # or its blocks are counted later, when `untouched` looks


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (LEGACY, "BIOS runs GRUB from the disk: .*boot code points"),
        (b"\xfa\xeb\x21\x01\xb4\x01LILO\x16\x08", "BIOS runs unknown boot code"),
        (b"\xeb\xfe", "BIOS runs unknown boot code"),
        (STANDARD, "partition 1 has no boot code"),
    ],
    ids=["grub-legacy", "lilo", "any", "unknown-partition-code"],
)
def test_boot_code_that_nobody_here_knows_is_refused(tmp_path: Path, code: bytes, match: str) -> None:
    disk = coded(tmp_path / "disk.img", code)
    write(disk, 512, b"\xea\x70\x22 stage 1.5 or a map of sectors" * 99)
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=3)
    assert re.search(match, done.stderr), done.stderr
    assert "nothing was written" in done.stderr


@pytest.mark.parametrize("at", [512, 2 * 512, 33 * 512 + 500])
def test_what_stands_in_the_sectors_of_the_gpt_is_kept(tmp_path: Path, at: int) -> None:
    """A disk manager or a licence, say, on a disk that BIOS does not boot."""
    disk = small(tmp_path / "disk.img", "start=2048, size=65536, type=83")
    write(disk, at, b"somebody's")
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=3)
    assert f"at {at // 512 * 512:#x}: something that is neither GRUB nor a GPT" in done.stderr
    write(disk, at, bytes(10))
    write(disk, 34 * 512, b"behind it")
    onebay("grow", disk, "--table", "gpt")


@pytest.mark.parametrize("code", [STANDARD, PARTED], ids=["standard", "parted"])
def test_code_that_starts_no_partition_is_taken_along(tmp_path: Path, code: bytes) -> None:
    disk = coded(tmp_path / "disk.img", code)
    with untouched(disk):
        assert "partition 1 has no boot code" in onebay("grow", disk, "--table", "gpt", status=3).stderr
    foldkit.run("sfdisk", "-q", "--activate", "--no-tell-kernel", disk, "-")
    onebay("grow", disk, "--table", "gpt")
    assert disk.read_bytes()[: len(code)] == code
    assert "No problems found" in foldkit.run("sgdisk", "-v", disk)


def test_a_grub_that_no_boot_code_loads_may_go(tmp_path: Path) -> None:
    disk = with_grub(tmp_path / "disk.img")
    write(disk, 0, bytes(440))
    onebay("grow", disk, "--table", "gpt")
    assert partitions(disk).keys() == {1}


def test_what_is_in_the_way_of_the_core_is_kept(tmp_path: Path) -> None:
    disk = with_grub(tmp_path / "disk.img")
    write(disk, 100 * 512, b"somebody's")
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=3)
    assert f"at {100 * 512:#x}: something that is neither GRUB nor a GPT" in done.stderr


def test_no_bios_boot_partition_behind_the_one_that_grows(tmp_path: Path) -> None:
    """On a disk of old, with its first partition at sector 63, there is no other room."""
    disk = with_grub(tmp_path / "disk.img", start=63)
    with untouched(disk):
        done = onebay("grow", disk, "--table", "gpt", status=3)
    assert "behind the last partition, which could not grow any more" in done.stderr
    truncate(disk, 128 * MIB)
    foldkit.run("sfdisk", "-q", "--append", "--no-tell-kernel", disk, stdin="start=106496, type=83\n")
    truncate(disk, 160 * MIB)
    onebay("grow", disk, "--table", "gpt")
    new = partitions(disk)
    assert new[11] == (104448, 2048, BIOS_BOOT)  # between the two
    assert new[2][0] + new[2][1] > 150 * MIB // 512
    assert boots(disk)["bios"]["works"]


def truncate(disk: Path, size: int) -> None:
    with disk.open("r+b") as file:
        file.truncate(size)


def test_what_is_said_in_the_end(tmp_path: Path) -> None:
    disk = small(tmp_path / "disk.img", "start=2048, size=126976, type=83")
    dry = onebay("grow", disk, "--table", "gpt", "--dry-run", "--json").document["steps"]
    twin = tmp_path / "twin.img"
    shutil.copyfile(disk, twin)
    done = onebay("grow", twin, "--table", "gpt", "--json").document
    assert [step.get("why") for step in done["steps"]] == [step.get("why") for step in dry]
    assert "make the mbr a protective one" in str(done["steps"])
    assert onebay("grow", disk, "--table", "gpt").stdout == "converted to GPT; nothing left to grow\n"
    assert "full already; nothing was written" in onebay("grow", disk, "--table", "gpt").stdout
    larger = small(tmp_path / "larger.img", "start=2048, size=65536, type=83")
    assert onebay("grow", larger, "--table", "gpt").stdout == "converted to GPT and grown\n"
