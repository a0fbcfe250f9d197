"""What an image must hold beyond what is in use: ends of volumes, the tail, whatever was not looked at."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from onebay import tree
from onebay.block import FileVolume, Overlay, Piece, create_disk, open_disk
from onebay.block.volume import Concat
from onebay.layer import Member
from onebay.ops.capture import capture, look
from onebay.ops.need import needed
from onebay.ops.restore import open_image, restore
from onebay.source import open_source
from onebay.stack import md
from onebay.tree import Probe, Tree, discover

MIB = 1 << 20
GOLDEN = Path(__file__).parents[1] / "format" / "md"


def tool(*argv: str | Path) -> None:
    subprocess.run([str(arg) for arg in argv], check=True, capture_output=True)


def unpacked(name: str) -> bytes:
    return subprocess.run(["zstd", "-dc", GOLDEN / f"{name}.img.zst"], check=True, capture_output=True).stdout


def disk_with(path: Path, content: bytes) -> FileVolume:
    """A GPT disk with one partition, of the size of `content`."""
    with path.open("wb") as file:
        file.truncate(-(-len(content) // MIB) * MIB + 2 * MIB)
    tool("sgdisk", "-n", f"1:2048:+{len(content) // 512}", "-U", "R", path)
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(content)
    return open_disk(path, writable=True)


def kinds(found: Tree) -> list[str]:
    return [layer.kind for layer in found.layers]


@pytest.mark.parametrize("former", ["v090", "v10", "v12"])
@pytest.mark.parametrize("maker", [("mkswap",), ("mke2fs", "-q", "-t", "ext4")], ids=["swap", "ext"])
def test_an_array_of_the_targets_former_life_is_gone(
    tmp_path: Path, former: str, maker: tuple[str, ...]
) -> None:
    old = unpacked(former)
    part = tmp_path / "part.img"
    with part.open("wb") as file:
        file.truncate(len(old))
    tool(*maker, part)
    disk = disk_with(tmp_path / "disk.img", part.read_bytes())
    capture(look(disk), tmp_path / "disk.raw.zst")
    target = disk_with(tmp_path / "target.img", old)
    assert "md" in kinds(discover([target]))
    restore(open_image(open_source(str(tmp_path / "disk.raw.zst"))), target)
    assert kinds(discover([target])) == kinds(discover([disk]))


def test_of_a_tail_that_the_table_does_not_know_256_mib_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    disk_with(path, unpacked("v12"))
    os.truncate(path, 2 << 30)
    keep = needed(discover([open_disk(path)]))
    assert keep.size < 300 * MIB
    assert keep.covers(200 * MIB, 201 * MIB)
    assert needed(discover([open_disk(path)]), everything=True).size > 1900 * MIB


def test_volumes_that_nobody_looked_at_are_kept_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_VOLUMES", 1)
    disk = disk_with(tmp_path / "disk.img", unpacked("v12"))
    found = discover([disk])
    assert "too-deep" in [finding.kind for finding in found.findings]
    assert needed(found).covers(MIB, MIB + 16 * MIB)


def test_a_group_waits_for_members_on_other_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A physical volume on the bare disk and one on an array are one group, whatever is seen first."""
    bare, low, high = (
        Overlay(create_disk(tmp_path / name, MIB), name=name) for name in ("bare", "low", "high")
    )
    joined: list[tuple[str, list[str]]] = []

    def probe_md(volume: object) -> Member | None:
        return Member("md", low, "array", 0, 1) if volume is low else None

    def probe_lvm(volume: object) -> Member | None:
        return Member("lvm", volume, "group", 0, 2) if volume in (bare, high) else None  # type: ignore[arg-type]

    def assemble_md(members: object) -> md.MdArray:
        joined.append(("md", [member.volume.name for member in members]))  # type: ignore[attr-defined]
        array = md.MdArray.__new__(md.MdArray)
        array.below, array.above = (low,), (high,)
        return array

    def assemble_lvm(members: object) -> md.MdArray:
        joined.append(("lvm", [member.volume.name for member in members]))  # type: ignore[attr-defined]
        group = md.MdArray.__new__(md.MdArray)
        group.below, group.above = (bare, high), (Concat("lv", [Piece(bare, 0, MIB)], 512),)
        return group

    monkeypatch.setattr(
        tree,
        "PROBES",
        (Probe("md", 0, probe_md, assemble_md), Probe("lvm", 1, probe_lvm, assemble_lvm)),  # type: ignore[arg-type]
    )
    discover([bare, low])
    assert joined == [("md", ["low"]), ("lvm", ["bare", "high"])]
