"""grow on disks that the samples do not show: md 1.0 in the last partition, nothing to grow, damage."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from badkit import fails, onebay, untouched

from onebay.base.error import Refused
from onebay.base.step import Write, apply
from onebay.block import FileVolume, create_disk, open_disk
from onebay.cli.main import group
from onebay.fs.btrfs.csum import sealed
from onebay.fs.btrfs.record import SUPER, SUPER_PLACES
from onebay.ops.foldlayout import data_table
from onebay.ops.grow import grow, has_room, plan_grow
from onebay.ops.journal import FILE_SIZE, MAX_BODY, ROOM, Journal
from onebay.ops.journalmark import find_mark
from onebay.ops.kit import make_kit, tail_room
from onebay.ops.run import Plan, execute
from onebay.stack.md import MdArray
from onebay.tree import discover

MIB = 1 << 20
GOLDEN = Path(__file__).parents[1] / "format" / "md" / "v10.img.zst"


def tool(*argv: str | Path, stdin: str | None = None) -> str:
    done = subprocess.run(
        [str(arg) for arg in argv], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def member() -> bytes:
    return subprocess.run(["zstd", "-dc", GOLDEN], check=True, capture_output=True).stdout


def make(path: Path, member: bytes) -> int:
    """A GPT disk whose one partition is the golden member; its size is then doubled with random bytes."""
    size = MIB + len(member) + MIB
    size = -(-size // MIB) * MIB
    with path.open("wb") as file:
        file.truncate(size)
    tool("sgdisk", "-n", f"1:2048:{2047 + len(member) // 512}", "-t", "1:fd00", path)
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(member)
        file.seek(size)
        file.write(random.Random(3).randbytes(size))
    return 2 * size


def array_on(disk: FileVolume) -> MdArray:
    """The array, wherever its superblock is now."""
    arrays = [layer for layer in discover([disk]).layers if isinstance(layer, MdArray)]
    assert len(arrays) == 1, discover([disk]).all_findings()
    return arrays[0]


def test_a_superblock_at_the_end_moves_with_the_end(tmp_path: Path, member: bytes) -> None:
    """After every step the array is found, by its old place or its new one; at the end mdadm agrees."""
    path = tmp_path / "disk.img"
    make(path, member)
    disk = open_disk(path, writable=True)
    before = array_on(disk)
    plan = plan_grow(disk)
    for step in plan.steps:
        apply(step)
        assert array_on(disk).uuid == before.uuid, step
    assert array_on(disk).size > before.size + len(member) // 2
    assert plan_grow(disk).steps == []
    tool("sgdisk", "-v", path)
    start, size = (
        int(n) for n in re.findall(r"(?:First|Last) sector: (\d+)", tool("sgdisk", "-i", "1", path))
    )
    part = tmp_path / "part.img"
    part.write_bytes(path.read_bytes()[start * 512 : (size + 1) * 512])
    found = tool("mdadm", "--examine", part)
    assert "- correct" in found
    assert int(re.findall(r"Array Size : (\d+)", found)[0]) * 1024 == array_on(disk).size


def test_a_cut_grow_is_completed(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "disk.img"
    make(path, member)
    whole = path.read_bytes()
    disk = open_disk(path, writable=True)
    steps = plan_grow(disk).steps
    execute(Plan("grow", disk, steps))
    final = array_on(disk).size
    for cut in range(len(steps)):
        disk.write(0, whole)
        for step in steps[:cut]:
            apply(step)
        execute(plan_grow(disk))
        assert array_on(disk).size == final, cut
        tool("sgdisk", "-v", path)


def test_nothing_that_could_grow(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4 * MIB))
    with pytest.raises(Refused, match="nothing that could grow"):
        plan_grow(open_disk(path))


def test_overlapping_partitions_are_not_grown(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(16 * MIB))
    tool("sfdisk", "--force", "--no-tell-kernel", path, stdin="start=2048,size=8192\nstart=16384,size=2048\n")
    data = bytearray(path.read_bytes())
    data[0x1CE + 8 : 0x1CE + 12] = (4096).to_bytes(4, "little")  # the second one starts inside the first
    path.write_bytes(data)
    with pytest.raises(Refused, match="overlap"):
        plan_grow(open_disk(path))
    assert path.read_bytes() == data


def golden(name: str) -> bytes:
    path = GOLDEN.with_name(f"{name}.img.zst")
    return subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout


def test_a_partition_that_ends_in_an_old_superblock_never_grows(tmp_path: Path) -> None:
    """Metadata 0.90 is found by the end of its partition: a longer one would lose the array."""
    path = tmp_path / "disk.img"
    make(path, golden("v090"))
    disk = open_disk(path, writable=True)
    plan = grow(disk)
    assert not plan.steps
    assert "metadata 0.90 stands at the end" in " ".join(plan.notes)
    assert array_on(disk).version == "0.90"


def test_a_damaged_superblock_at_the_end_keeps_the_partition_from_growing(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    raw = bytearray(golden("v090"))
    raw[len(raw) // 65536 * 65536 - 65536 + 200] ^= 1
    make(path, bytes(raw))
    plan = plan_grow(open_disk(path))
    assert not plan.steps
    assert "damaged array" in " ".join(plan.notes)


def test_what_stands_on_half_a_mirror_does_not_grow(tmp_path: Path) -> None:
    """The other member counts too: both would hold other bytes under the same events."""
    path = tmp_path / "disk.img"
    member = golden("pair-a")
    make(path, member)
    disk = open_disk(path, writable=True)
    start = array_on(disk).below[0].start  # type: ignore[attr-defined]
    plan = grow(disk)
    assert plan.steps, "the table grows"
    assert disk.read(start, len(member)) == member
    (note,) = plan.notes
    assert "member 1, which is not on this disk" in note
    assert "let the appliance run with this disk alone once" in note


def test_two_members_on_one_disk_do_not_come_apart(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    pair = golden("pair-a"), golden("pair-b")
    sectors = len(pair[0]) // 512
    with path.open("wb") as file:
        file.truncate(4 * len(pair[0]))
    for number in (1, 2):
        tool(
            "sgdisk", "-n", f"{number}:{2048 if number == 1 else 0}:+{sectors}", "-t", f"{number}:fd00", path
        )
    places = [part.start for part in data_table(discover([open_disk(path)])).partitions]
    with path.open("r+b") as file:
        for place, raw in zip(places, pair, strict=True):
            file.seek(place)
            file.write(raw)
    disk = open_disk(path, writable=True)
    assert len(array_on(disk).replicas) == 2
    plan = grow(disk)
    assert "2 members in sync are on this disk" in " ".join(plan.notes)
    assert [disk.read(place, len(raw)) for place, raw in zip(places, pair, strict=True)] == list(pair)


def test_a_file_system_of_unknown_features_is_left_to_the_appliance(tmp_path: Path) -> None:
    raw = tmp_path / "btrfs.img"
    with raw.open("wb") as file:
        file.truncate(128 * MIB)
    tool("mkfs.btrfs", "-q", raw)
    volume = open_disk(raw, writable=True)
    at = SUPER_PLACES[0]
    sb = SUPER.unpack(volume.read(at, SUPER.size))
    odd = SUPER.pack(sb, incompat_flags=sb.incompat_flags | 1 << 40)
    volume.write(at, sealed(sb.csum_type, odd))
    path = tmp_path / "disk.img"
    make(path, raw.read_bytes())
    plan = plan_grow(open_disk(path))
    assert plan.steps
    assert "unknown incompat feature bits 0x10000000000" in " ".join(plan.notes)
    assert "the appliance grows its file system itself" in " ".join(plan.notes)


def test_completing_an_interrupted_change_is_told(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    make(path, golden("v12"))
    os.truncate(path, 64 * MIB)

    assert "grown" in onebay("grow", path).stdout
    assert "the disk is full already; nothing was written" in onebay("grow", path).stdout
    disk = open_disk(path, writable=True)
    Journal(disk).commit([Write(disk, 5 * MIB, disk.read(5 * MIB, 512), "critical: the same again")])
    disk.close()
    assert "the interrupted change is completed; the disk is full" in onebay("grow", path).stdout
    assert onebay("grow", path, "--json").document["completed"] is False
    commit(path)
    done = onebay("grow", path, "--json").document
    assert (done["completed"], done["steps"]) == (True, [])


def commit(path: Path) -> None:
    """Leave a journal that waits, of a change that changes nothing."""
    disk = open_disk(path, writable=True)
    Journal(disk).commit([Write(disk, 5 * MIB, disk.read(5 * MIB, 512), "critical: the same again")])
    disk.close()


def test_a_half_changed_disk_is_shown_and_has_no_kit(tmp_path: Path) -> None:
    path, kit = tmp_path / "disk.img", tmp_path / "kit"
    make(path, golden("v12"))
    os.truncate(path, 64 * MIB)
    disk = open_disk(path, writable=True)
    disk.write(0, b"boot code")
    disk.close()

    def waits() -> list[str]:
        found = onebay("inspect", path, "--json").document["findings"]
        return [f["severity"] for f in found if f["kind"] == "interrupted-change"]

    assert not waits()
    commit(path)
    assert waits() == ["damage"]
    fails(3, "kit", path, kit, match="must be completed first", state="^nothing was written")
    assert not kit.exists()
    onebay("grow", path)
    assert not waits()
    onebay("kit", path, kit)


def test_forgetting_a_change(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    make(path, golden("v12"))
    os.truncate(path, 64 * MIB)
    assert "no change was interrupted" in onebay("grow", path, "--drop-journal").stdout
    commit(path)
    disk = FileVolume(path, writable=True)
    found = find_mark(disk)
    assert found is not None
    disk.write(found[1].head_at, bytes(512))
    disk.close()
    fails(3, "grow", path, match="its journal is gone")
    fails(3, "grow", path, "--dry-run", match="its journal is gone")
    assert "forgotten" in onebay("grow", path, "--drop-journal").stdout
    assert "grown" in onebay("grow", path).stdout


def test_a_file_is_made_only_where_it_will_be_used(tmp_path: Path) -> None:
    """Its name is in the mark as it is found from anywhere; one too many is refused and not made."""
    path, store, other = tmp_path / "disk.img", tmp_path / "journal", tmp_path / "other"
    make(path, golden("v12"))
    os.truncate(path, 64 * MIB)
    onebay("grow", path, "--journal", store)
    disk = open_disk(path, writable=True)
    held = open_disk(store, writable=True)
    Journal(disk, held).commit([Write(disk, 5 * MIB, disk.read(5 * MIB, 512), "critical: the same again")])
    disk.close()
    held.close()
    fails(3, "grow", path, match=f"its journal is in a file: found {store}")
    fails(3, "grow", path, "--journal", other, match="its journal is in a file")
    assert not other.exists()
    assert "completed" in onebay("grow", path, "--journal", store).stdout


def test_a_journal_of_another_disk(tmp_path: Path) -> None:
    """Two disks from one image: what waits for one is neither used nor forgotten for the other."""
    path, twin, larger, store = (tmp_path / name for name in ("disk.img", "twin", "larger", "journal"))
    make(path, golden("v12"))
    os.truncate(path, 64 * MIB)
    for copy, size in ((twin, 64), (larger, 80)):
        shutil.copyfile(path, copy)
        os.truncate(copy, size * MIB)
    disk, held = open_disk(path, writable=True), create_disk(store, FILE_SIZE)
    old, new = disk.read(5 * MIB, 512), random.Random(7).randbytes(512)
    Journal(disk, held).commit([Write(disk, 5 * MIB, new, "critical: a change")])
    disk.close()
    held.close()
    match = f"holds an interrupted change of another disk, of {64 * MIB} bytes"
    with untouched(store, twin, larger):
        for other in (twin, larger):
            for more in ((), ("--drop-journal",), ("--dry-run",)):
                fails(3, "grow", other, "--journal", store, *more, match=match)
    assert "completed a change" in onebay("grow", path, "--journal", store).stderr
    assert path.read_bytes()[5 * MIB :][:512] == new != old
    assert "grown" in onebay("grow", twin, "--journal", store).stdout


def test_verbs_in_one_process_do_not_lock_each_other_out(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    make(path, golden("v12"))
    os.truncate(path, 64 * MIB)
    before = set(Path("/proc/self/fd").iterdir())
    for argv in (
        ["grow", str(path), "--dry-run"],
        ["inspect", str(path)],
        ["capture", str(path), str(tmp_path / "a.raw.zst")],
        ["grow", str(path)],
        ["grow", str(path), "--journal", str(tmp_path / "journal")],
        ["restore", str(tmp_path / "a.raw.zst"), str(path), "--yes"],
        ["grow", str(path), "--journal", str(tmp_path / "journal")],
    ):
        group.main(argv, standalone_mode=False)
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1  # that of looking


def test_a_plan_that_no_journal_holds_is_refused_before_it_starts(tmp_path: Path) -> None:
    disk = create_disk(tmp_path / "disk.img", MIB)
    half = Write(disk, 0, bytes(MAX_BODY // 2), "critical: all of it")
    with pytest.raises(Refused, match="more has to change at once than a journal holds"):
        has_room(Plan("grow", disk, [half]), Journal(disk, create_disk(tmp_path / "store", MIB)))


def test_the_journal_keeps_off_the_boot_kit(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "disk.img"
    make(path, member)
    disk = open_disk(path, writable=True)
    disk.write(0, b"boot code")
    os.truncate(path, 64 * MIB)
    disk = FileVolume(path, writable=True)
    kit = io.BytesIO()
    make_kit(discover([disk]), kit)
    tool("sgdisk", "-e", path)
    few = [Write(disk, 5 * MIB, bytes(512), "critical: a little")]
    journal = Journal(disk)
    assert has_room(Plan("grow", disk, few), journal)
    disk.write(journal.head_at - MIB, kit.getvalue())
    with pytest.raises(Refused, match="no free space for the journal"):
        has_room(Plan("grow", disk, few), journal)
    disk.close()


def test_a_large_body_keeps_off_the_boot_kit_too(tmp_path: Path, member: bytes) -> None:
    """What kits leave free is what a body is promised; a larger one is refused where it meets a kit."""
    path = tmp_path / "disk.img"
    make(path, member)
    os.truncate(path, 256 * MIB)
    disk = open_disk(path, writable=True)
    disk.write(0, b"boot code")
    kit = io.BytesIO()
    make_kit(discover([disk]), kit)
    disk.close()
    tool("sgdisk", "-e", path)
    disk = open_disk(path, writable=True)
    table = data_table(discover([disk]))
    journal = Journal(disk)
    room = tail_room(disk, table)
    assert room.end == journal.room(ROOM).start
    large = [Write(disk, 5 * MIB, bytes(ROOM // 2 + MIB), "critical: more than a kit leaves")]
    fits = [Write(disk, 5 * MIB, bytes(ROOM // 2 - MIB), "critical: less")]
    assert has_room(Plan("grow", disk, large), journal)
    disk.write(room.end - MIB, kit.getvalue())
    assert len(kit.getvalue()) <= MIB
    assert has_room(Plan("grow", disk, fits), journal)
    with pytest.raises(Refused, match="no free space for the journal"):
        has_room(Plan("grow", disk, large), journal)
    disk.close()
