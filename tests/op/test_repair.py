"""The damage corpus (tests/repair), power cuts between the steps of a repair, and the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foldkit
import repairkit
from repairkit import Folded

from onebay.base.error import Error
from onebay.base.step import Copy, Flush, Write, apply
from onebay.block import Overlay, open_disk
from onebay.ops.bootpaths import boot_paths
from onebay.ops.kit import load_kit
from onebay.ops.repair import RepairPlan, plan_repair, repair
from onebay.source import open_source
from onebay.tree import discover

TOOLS = ("sfdisk", "sgdisk", "mkfs.fat", "fsck.fat", "mcopy", "e2fsck", "debugfs", "grub-mkimage")
MISSING = [tool for tool in TOOLS if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")
CASES = repairkit.cases()
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


def copy_of(folded: Folded, folder: Path) -> Path:
    path = folder / "disk.img"
    foldkit.run("cp", "--sparse=always", "--reflink=auto", folded.path, path)
    return path


def kit_file(case: dict[str, Any], folded: Folded, folder: Path) -> Path | None:
    kind = case.get("kit")
    if kind is None:
        return None
    path = folder / "kit"
    if kind == "image":
        return repairkit.image_of(folded.path, folded.path.with_suffix(".raw.zst"))
    raw = repairkit.kit_of(folded.path)
    if kind == "cut":
        raw = raw[:-1000]
    elif kind == "flipped":
        raw = raw[:5000] + bytes([raw[5000] ^ 1]) + raw[5001:]
    elif kind == "other":
        other = folder / "other.img"
        foldkit.run("cp", "--sparse=always", folded.path, other)
        foldkit.run("sfdisk", "-q", "--disk-id", other, "0x07e40d15")
        foldkit.run("mke2fs", "-q", "-t", "ext4", "-E", f"offset={folded.places['p1']}", other, "64M")
        raw = repairkit.kit_of(other)
        other.unlink()
    path.write_bytes(raw)
    return path


def mend(path: Path, kit: Path | None, scratch: Path, *, carry_out: bool = True) -> RepairPlan:
    scratch.mkdir()
    given = None
    if kit is not None:
        source = open_source(str(kit))
        given = load_kit(source)
        source.close()
    disk = open_disk(path, writable=True)
    try:
        plan = plan_repair(disk, scratch=scratch, kit=given)
        if carry_out:
            repair(plan)
        return plan
    finally:
        disk.close()


@pytest.mark.parametrize("path", CASES, ids=[path.parent.name for path in CASES])
def test_corpus(path: Path, disks: Disks, tmp_path: Path) -> None:
    case = repairkit.load(path)
    expect = case["expect"]
    if case["disk"] == "4k" and os.geteuid() != 0:
        pytest.skip("sectors of 4096 bytes need a loop device")
    folded = disks(case["disk"])
    disk = copy_of(folded, tmp_path)
    repairkit.damage(folded, disk, case["damage"])
    damaged = tmp_path / "damaged.img"
    foldkit.run("cp", "--sparse=always", disk, damaged)
    kit = kit_file(case, folded, tmp_path)
    if expect["status"] not in (0, 6):
        with pytest.raises(Error) as caught:
            mend(disk, kit, tmp_path / "scratch")
        assert caught.value.code == expect["status"], str(caught.value)
        assert expect["error"] in str(caught.value)
        assert caught.value.state == "nothing was written"
        assert repairkit.same(open_disk(damaged), open_disk(disk))
        return
    plan = mend(disk, kit, tmp_path / "scratch")
    check_plan(plan, expect)
    if not (expect["healed"] or expect["unhealed"]):
        assert not plan.steps
    assert repairkit.untouched(damaged, disk) == []
    check_disk(disk, folded, expect)
    again = mend(disk, kit, tmp_path / "again")
    assert not again.steps
    assert [wrong.kind for wrong in again.wrong if wrong.outcome == "healed"] == []
    disk.unlink()
    damaged.unlink()


def check_plan(plan: RepairPlan, expect: dict[str, Any]) -> None:
    found: dict[str, list[str]] = {"healed": [], "named": [], "unhealed": []}
    for wrong in plan.wrong:
        found[wrong.outcome].append(wrong.kind)
    found["named"] = sorted(set(found["named"]))
    wanted = {key: expect[key] for key in found}
    assert found == wanted, plan.wrong
    notes = "\n".join(plan.notes)
    for text in expect.get("notes", []):
        assert text in notes


def check_disk(disk: Path, folded: Folded, expect: dict[str, Any]) -> None:
    """Judge the repaired disk by the tools, by inspect's boot paths, and by its bytes before the damage."""
    repairkit.judge(disk)
    paths = [path.works for path in boot_paths(discover([open_disk(disk)]))]
    assert paths == {"both": [True, True], "uefi": [False, True], "none": [False, False]}[expect["boots"]]
    if expect["same"] == "all":
        assert repairkit.same(open_disk(folded.path), open_disk(disk))
    elif expect["same"] == "boot":
        assert repairkit.same_boot(repairkit.kit_of(folded.path), open_disk(disk)) == []
    elif expect["same"] == "files":
        assert repairkit.files(disk) == repairkit.files(folded.path)


def test_corpus_is_numbered() -> None:
    numbers = [int(path.parent.name[:3]) for path in CASES]
    assert numbers == list(range(1, len(CASES) + 1))
    assert len(CASES) >= 25


CUT = ["storage-manager-mbr", "everything-gone", "efi-boot-missing", "start-wiped-gpt", "kit-from-image"]


@pytest.mark.parametrize("name", CUT)
def test_cut_anywhere_and_run_again(name: str, disks: Disks, tmp_path: Path) -> None:
    """After every prefix of the steps the same command heals the disk; p1 to p3 keep their bytes."""
    case = repairkit.load(next(path for path in CASES if path.parent.name[4:] == name))
    folded = disks(case["disk"])
    path = copy_of(folded, tmp_path)
    repairkit.damage(folded, path, case["damage"])
    kit = kit_file(case, folded, tmp_path)
    plan = mend(path, kit, tmp_path / "scratch", carry_out=False)
    base = open_disk(path)
    steps = [step for step in plan.steps if not isinstance(step, Flush)]
    given = load_kit(open_source(str(kit))) if kit else None
    stops = range(0, len(steps), max(1, len(steps) // 12))
    for stop in [*stops, len(steps) - 1]:
        disk = Overlay(base)
        for step in steps[:stop]:
            apply_to(step, disk)
        apply_to(steps[stop], disk, part=True)
        scratch = tmp_path / f"cut-{stop}"
        scratch.mkdir()
        again = plan_repair(disk, scratch=scratch, kit=given)
        for step in again.steps:
            if not isinstance(step, Flush):
                apply_to(step, disk)
        assert [found.works for found in boot_paths(discover([disk]))] == [True, True], stop
        assert not again.unhealed, (stop, again.unhealed)
        shutil.rmtree(scratch)


def apply_to(step: Any, disk: Overlay, *, part: bool = False) -> None:
    """Apply a step, or its first half in whole sectors, to another disk."""
    size = step.size // 1024 * 512 if part else step.size
    if isinstance(step, Write):
        apply(Write(disk, step.at, step.data[:size], step.why))
    elif isinstance(step, Copy):
        apply(Copy(step.source, step.source_at, disk, step.at, size, step.why))


def onebay(*argv: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "onebay", *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
    return done


def test_command_line(disks: Disks, tmp_path: Path) -> None:
    folded = disks("v8-mbr")
    kit = tmp_path / "disk.kit"
    assert "p4 (fat)" in onebay("kit", folded.path, kit).stdout
    assert "exists already" in onebay("kit", folded.path, kit, status=3).stderr
    path = copy_of(folded, tmp_path)
    assert "nothing is wrong; nothing was written" in onebay("repair", path).stdout
    repairkit.damage(folded, path, [["zero", "0", "440"], ["zero", "home", "1M"], ["zero", "tail", "16M"]])
    lost = onebay("repair", path, status=6)
    assert lost.stderr.splitlines()[-1].strip() == "nothing was written"
    assert "--kit" in lost.stderr
    planned = onebay("repair", path, "--kit", kit, "--dry-run")
    assert "boot code in LBA 0" in planned.stdout
    assert open_disk(path).read(0, 440) == bytes(440)
    done = json.loads(onebay("repair", path, "--kit", kit, "--json").stdout)
    assert [wrong["kind"] for wrong in done["wrong"]] == ["content-damaged", "code-damaged"]
    assert done["written"]
    assert all(path["works"] for path in done["boot"])
    assert "nothing is wrong" in onebay("repair", path, "--kit", kit).stdout


def test_kit_from_a_pipe(disks: Disks, tmp_path: Path) -> None:
    folded = disks("v8-mbr")
    image = repairkit.image_of(folded.path, folded.path.with_suffix(".raw.zst"))
    path = copy_of(folded, tmp_path)
    repairkit.damage(folded, path, [["zero", "0", "440"], ["zero", "tail", "16M"]])
    with image.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "onebay", "repair", str(path), "--kit", "-"],
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert boot_paths(discover([open_disk(path)]))[0].works
