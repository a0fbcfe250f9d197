"""What a virtual machine's kernel grows is written like everything else: a power cut leaves old or new."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from onebay.base.error import Refused, ToolFailed
from onebay.block import FileVolume, Overlay, open_disk
from onebay.fs.xfs import Xfs
from onebay.machine.growth import worker_kernel
from onebay.ops.grow import grow, has_room
from onebay.ops.inkernel import Request, find_request, plan_in_kernel
from onebay.ops.journal import Journal
from onebay.ops.run import Plan, execute
from onebay.tree import discover
from tests.crash.disks import Bench, tool
from tests.crash.recording import Recorder, Writable

pytestmark = pytest.mark.vm

MIB = 1 << 20
OLD, NEW = 320 * MIB, 900 * MIB


def make(path: Path) -> Path:
    """Make a GPT disk with one XFS full of files, and then more room behind it."""
    with path.open("xb") as file:
        file.truncate(OLD + 2 * MIB)
    tool("sgdisk", "--new=1:2048:0", path)
    files = path.with_suffix(".files")
    (files / "photos").mkdir(parents=True)
    for number in range(40):
        (files / "photos" / f"{number}.jpg").write_bytes(random.Random(number).randbytes(100_000))
    part = path.with_suffix(".p1")
    with part.open("xb") as file:
        file.truncate(OLD)
    proto = path.with_suffix(".proto")
    lines = [f"{number}.jpg ---644 0 0 {files}/photos/{number}.jpg" for number in range(40)]
    proto.write_text("\n".join(["/dev/null", "0 0", "d--755 0 0", "photos d--755 0 0", *lines, "$", "$", ""]))
    tool("mkfs.xfs", "-q", "-p", proto, part)
    tool("dd", f"if={part}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    with path.open("r+b") as file:
        file.truncate(NEW)
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileVolume]:
    """A disk whose table has grown already."""
    volume = open_disk(make(tmp_path_factory.mktemp("growth") / "disk.img"), writable=True)
    assert any("xfs on" in note for note in grow(volume).notes)
    yield volume
    volume.close()


@pytest.fixture(scope="module")
def plan(disk: FileVolume, cache: Path) -> Plan:
    request = find_request(disk)
    assert request is not None
    assert (request.kind, request.size) == ("xfs", OLD)
    before = Path(disk.name).stat().st_mtime_ns
    found = plan_in_kernel(disk, request, worker_kernel(cache))
    assert Path(disk.name).stat().st_mtime_ns == before
    return found


def xfs_on(volume: Overlay) -> Xfs:
    """The file system, by its superblock as it is found."""
    (found,) = discover([volume]).of_kind("xfs")
    assert isinstance(found, Xfs)
    assert not [one for one in found.check() if one.severity == "damage"]
    return found


def test_every_cut_is_old_or_new(disk: FileVolume, plan: Plan, tmp_path: Path) -> None:
    recorder = Recorder(disk)
    steps = [replace(step, volume=recorder) for step in plan.steps]
    recorded = Plan("grow", recorder, steps, after=plan.after)
    journal = Journal(recorder)
    assert has_room(recorded, journal)
    execute(recorded, journal=journal)
    log = recorder.log()
    final = xfs_on(Writable(log.volume(log.final())))
    assert final.size > NEW - 20 * MIB
    bench = Bench(tmp_path / "p1.img", disk, MIB)
    rng = random.Random(1)
    picked = log.sample(rng, 60, 60)
    seen = set()
    for number, content in enumerate(picked):
        state = Writable(log.volume(content))
        redo = Journal(state).pending()
        if redo is not None:
            Journal(state).replay(redo)
        size = xfs_on(state).size
        assert size in (OLD, final.size)
        assert redo is None or size == final.size
        seen.add((size, redo is None))
        assert (find_request(state) is None) == (size == final.size)
        if number % 12 == 0:
            with bench.showing(state) as path:
                tool("xfs_repair", "-n", path)
    assert {size for size, _ in seen} == {OLD, final.size}
    assert (final.size, False) in seen


def test_a_kernel_that_writes_elsewhere_is_refused(disk: FileVolume) -> None:
    request = find_request(disk)
    assert request is not None

    def wild(request: Request) -> Iterator[tuple[int, bytes]]:
        yield request.pieces[0].start - 4096, b"x" * 8192

    with pytest.raises(Refused, match="outside the volume"):
        plan_in_kernel(disk, request, wild)


def test_a_key_that_opens_nothing(tmp_path: Path, cache: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    path = tmp_path / "luks.img"
    with path.open("xb") as file:
        file.truncate(64 * MIB)
    tool("sgdisk", "--new=1:2048:0", path)
    key = b"right"
    script = ["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2"]
    part = tmp_path / "p1.img"
    with part.open("xb") as file:
        file.truncate(60 * MIB)
    try:
        subprocess.run(
            [*script, "--pbkdf-force-iterations", "1000", part, "-"],
            input=key,
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("cryptsetup is not installed")
    tool("dd", f"if={part}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    with closing(open_disk(path)) as volume:
        wanted = find_request(volume, b"wrong")
        assert wanted is not None
        with pytest.raises(ToolFailed, match="No key available"):
            plan_in_kernel(volume, wanted, worker_kernel(cache))
