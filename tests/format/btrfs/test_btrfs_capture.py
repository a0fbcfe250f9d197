"""Copy only used bytes onto random ones: btrfs check, the kernel's scrub and every file must agree."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import btrfs_lab as lab
import pytest

from onebay.base import tool
from onebay.base.extent import ExtentSet

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [lab.needs_root, lab.needs_tools]

KINDS = {
    "default": (),
    "single": ("-m", "single"),
    "data-dup": ("-d", "dup"),
    "mixed": ("-M",),
    "nodes-4k": ("-n", "4k"),
    "nodes-64k": ("-n", "64k"),
    "xxhash": ("--csum", "xxhash"),
    "sha256": ("--csum", "sha256"),
    "blake2": ("--csum", "blake2"),
    "no-skinny": ("-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree"),
    "quota": ("-R", "quota"),
}


def judge(image: Path, tmp_path: Path, want: dict[str, tuple[int, int, str]]) -> None:
    """Copy used bytes, compare them with what btrfs-progs says, and let tools and kernel judge the copy."""
    copy = tmp_path / "copy.img"
    used = lab.copy_used(image, copy)
    assert used == ExtentSet.of(lab.used_by_progs(image))
    image.unlink()
    lab.check(copy)
    with lab.mounted(copy, tmp_path / "mnt") as root:
        lab.scrub(root)
        assert lab.manifest(root) == want


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_used_bytes_are_enough(options: tuple[str, ...], tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    lab.mkfs(image, 256 * lab.MIB, *options)
    with lab.mounted(image, tmp_path / "mnt") as root:
        lab.fill(root)
        lab.dirty(root)
        want = lab.manifest(root)
    judge(image, tmp_path, want)


def test_block_group_tree(tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    try:
        lab.mkfs(image, 256 * lab.MIB, "-O", "block-group-tree")
    except tool.ToolFailed:
        pytest.skip("mkfs.btrfs is too old for block-group-tree")
    with lab.mounted(image, tmp_path / "mnt") as root:
        lab.fill(root)
        want = lab.manifest(root)
    fs = lab.load(image)
    assert "block-group-tree" in fs.facts()["features"]  # type: ignore[operator]
    lab.close(fs)
    judge(image, tmp_path, want)


def test_nearly_full(tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    lab.mkfs(image, 128 * lab.MIB)
    with lab.mounted(image, tmp_path / "mnt") as root:
        number = 0
        try:
            while True:
                (root / f"f{number}").write_bytes(os.urandom(lab.MIB))
                number += 1
        except OSError:
            os.sync()
        assert number > 10
        want = lab.manifest(root)
    judge(image, tmp_path, want)


def test_space_cache_v1(tmp_path: Path) -> None:
    image = tmp_path / "fs.img"
    lab.mkfs(image, 256 * lab.MIB, "-R", "^free-space-tree")
    try:
        with lab.mounted(image, tmp_path / "mnt", "space_cache=v1") as root:
            lab.fill(root)
            want = lab.manifest(root)
    except tool.ToolFailed:
        pytest.skip("this kernel no longer has the space cache v1")
    judge(image, tmp_path, want)


def test_after_balance(tmp_path: Path) -> None:
    """Relocation moves extents, and conversion leaves chunks of two profiles."""
    image = tmp_path / "fs.img"
    lab.mkfs(image, 512 * lab.MIB)
    with lab.mounted(image, tmp_path / "mnt") as root:
        lab.fill(root)
        lab.dirty(root)
        tool.run(["btrfs", "balance", "start", "--full-balance", root])
        tool.run(["btrfs", "balance", "start", "-f", "-mconvert=single,limit=1", root])
        want = lab.manifest(root)
    judge(image, tmp_path, want)


def test_log_tree_is_kept_whole(tmp_path: Path) -> None:
    """A file that was only fsynced lives in the log tree, which the extent tree does not know."""
    image, cut = tmp_path / "fs.img", tmp_path / "cut.img"
    lab.mkfs(image, 256 * lab.MIB)
    with lab.mounted(image, tmp_path / "mnt", "commit=300") as root:
        lab.fill(root)
        os.sync()
        with (root / "logged").open("wb") as file:
            file.write(os.urandom(100_000))
            file.flush()
            os.fsync(file.fileno())
        shutil.copyfile(image, cut)
    fs = lab.load(cut)
    assert fs.facts()["log_tree"] is True
    assert "log tree" in (fs.keep_whole() or "")
    assert fs.used() == (ExtentSet.single(0, 256 * lab.MIB),)
    assert [f.kind for f in fs.check()] == ["log-tree"]
    lab.close(fs)
