"""Grow offline; every prefix of the plan must be a file system that btrfs check and the kernel accept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import btrfs_lab as lab
import pytest

from onebay.base import step as steps
from onebay.base import tool

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.step import Step

pytestmark = lab.needs_tools

OLD, NEW = 256 * lab.MIB, 400 * lab.MIB + 1234  # bytes; the new end is no multiple of a sector


def enlarge(image: Path, size: int) -> None:
    """Make the volume larger, with noise in the new space: nothing says that it is zero."""
    with image.open("r+b") as file:
        start = file.seek(0, 2)
        for at in range(start, size, lab.MIB):
            file.write(b"\xa5" * min(lab.MIB, size - at))


def plan(image: Path) -> list[Step]:
    """Plan to grow a file system into its image file."""
    fs = lab.load(image, writable=True)
    found = fs.plan_grow()
    for part in found:
        assert isinstance(part, steps.Write | steps.Flush)
    return found


def execute(parts: list[Step]) -> None:
    """Execute a plan."""
    for part in parts:
        steps.apply(part)


def sizes(image: Path) -> tuple[set[int], set[int]]:
    """Return the sizes in all superblocks and in the device item, as btrfs-progs reads them."""
    text = tool.run(["btrfs", "inspect-internal", "dump-super", "-a", image]).text
    supers = {int(size) for size in re.findall(r"^(?:dev_item\.)?total_bytes\s+(\d+)", text, re.MULTILINE)}
    assert "DON'T MATCH" not in text
    devices = {int(size) for size in re.findall(r"total_bytes (\d+)", lab.dump("chunk", image))}
    return supers, devices


@pytest.mark.parametrize(
    "options",
    [(), ("-m", "single"), ("-M",), ("--csum", "xxhash"), ("--csum", "blake2", "-n", "64k")],
    ids=["dup", "single", "mixed", "xxhash", "blake2"],
)
def test_all_sizes_grow(options: tuple[str, ...], tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    lab.mkfs(image, OLD, *options)
    enlarge(image, NEW)
    parts = plan(image)
    critical = [part for part in parts if isinstance(part, steps.Write) and part.why.startswith("critical:")]
    assert len(critical) == ("single" in options or "-M" in options)
    execute(parts)
    want = NEW // 4096 * 4096
    assert sizes(image) == ({want}, {want})
    lab.check(image)
    assert plan(image) == []
    fs = lab.load(image)
    assert fs.check() == []
    assert fs.facts()["size"] == want


def test_superblock_mirror_in_new_space(tmp_path: Path) -> None:
    """A file system below 64 MiB has one superblock; a larger one has two."""
    image = tmp_path / "fs.img"
    lab.mkfs(image, 48 * lab.MIB, "-M")
    enlarge(image, 200 * lab.MIB)
    assert any("new mirror" in part.why for part in plan(image) if isinstance(part, steps.Write))
    execute(plan(image))
    text = tool.run(["btrfs", "inspect-internal", "dump-super", "-s", "1", image]).text
    assert "[match]" in text
    lab.check(image)
    assert tool.run(["btrfs", "rescue", "super-recover", image]).status == 0


@lab.needs_root
@pytest.mark.parametrize("profile", ["dup", "single"])
def test_new_space_is_usable(profile: str, tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    lab.mkfs(image, OLD, "-m", profile)
    with lab.mounted(image, tmp_path / "mnt") as root:
        lab.fill(root)
        want = lab.manifest(root)
    enlarge(image, NEW)
    execute(plan(image))
    lab.check(image)
    with lab.mounted(image, tmp_path / "mnt") as root:
        assert lab.manifest(root) == want
        usage = tool.run(["btrfs", "filesystem", "usage", "-b", root]).text
        assert re.search(rf"Device size:\s+{NEW // 4096 * 4096}\b", usage), usage
        (root / "new").write_bytes(b"\x5a" * (200 * lab.MIB))
        lab.scrub(root)
    lab.check(image)


@lab.needs_root
@pytest.mark.parametrize("profile", ["dup", "single"])
def test_power_cut_after_any_step(profile: str, tmp_path: Path) -> None:
    image, cut = tmp_path / "fs.img", tmp_path / "cut.img"
    lab.mkfs(image, OLD, "-m", profile)
    with lab.mounted(image, tmp_path / "mnt") as root:
        lab.fill(root)
        want = lab.manifest(root)
    with image.open("r+b") as file:
        file.truncate(NEW)
    count = len(plan(image))
    assert count > 4
    for done in range(count + 1):
        lab.clone(image, cut)
        execute(plan(cut)[:done])
        tool.run(["btrfs", "check", "--readonly", cut])
        with lab.mounted(cut, tmp_path / "mnt", "ro") as root:
            assert lab.manifest(root) == want
        with lab.mounted(cut, tmp_path / "mnt") as root:  # a kernel that commits in between does no harm
            (root / f"after{done}").write_bytes(b"x")
        execute(plan(cut))
        assert sizes(cut) == ({NEW // 4096 * 4096}, {NEW // 4096 * 4096})
        lab.check(cut)
        assert plan(cut) == []
        cut.unlink()


@lab.needs_root
def test_torn_writes(tmp_path: Path) -> None:
    """Half of any single write, cut at a sector: superblocks stay whole, a torn DUP leaf has its twin."""
    image, cut = tmp_path / "fs.img", tmp_path / "cut.img"
    lab.mkfs(image, OLD)
    with image.open("r+b") as file:
        file.truncate(NEW)
    parts = plan(image)
    assert len([part for part in parts if isinstance(part, steps.Write)]) == 4
    for done, torn in enumerate(parts):
        if not isinstance(torn, steps.Write):
            continue
        for sectors in (range(1), range(1, torn.size // 512), range(torn.size // 512 - 1, torn.size // 512)):
            lab.clone(image, cut)
            fresh = plan(cut)
            execute(fresh[:done])
            part = fresh[done]
            assert isinstance(part, steps.Write)
            for sector in sectors:
                data = part.data[sector * 512 : sector * 512 + 512]
                part.volume.write(part.at + sector * 512, data)
            tool.run(["btrfs", "check", "--readonly", cut])
            with lab.mounted(cut, tmp_path / "mnt", "ro"):
                pass
            execute(plan(cut))
            assert sizes(cut) == ({NEW // 4096 * 4096}, {NEW // 4096 * 4096})
            lab.check(cut)
            cut.unlink()


def test_bad_copy_is_written_first(tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    lab.mkfs(image, OLD)
    enlarge(image, NEW)
    leaf_writes = [part.at for part in plan(image) if isinstance(part, steps.Write)][-2:]
    for bad in leaf_writes:
        copy = tmp_path / "copy.img"
        lab.clone(image, copy)
        with copy.open("r+b") as file:
            file.seek(bad + 5000)
            file.write(b"damage")
        parts = plan(copy)
        assert [part.at for part in parts if isinstance(part, steps.Write)][-2] == bad
        execute(parts)
        lab.check(copy)
        copy.unlink()


@lab.needs_root
def test_two_terabytes_get_the_third_mirror(tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    lab.mkfs(image, OLD)
    with image.open("r+b") as file:
        file.truncate(2 << 40)
    execute(plan(image))
    assert sizes(image) == ({2 << 40}, {2 << 40})
    assert "[match]" in tool.run(["btrfs", "inspect-internal", "dump-super", "-s", "2", image]).text
    lab.check(image)
    with lab.mounted(image, tmp_path / "mnt") as root:
        (root / "x").write_bytes(b"x" * lab.MIB)
        lab.scrub(root)
