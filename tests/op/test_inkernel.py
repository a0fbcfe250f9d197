"""What is said, and what is refused, before any kernel is asked to grow something."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from badkit import fails, onebay, tool

MIB = 1 << 20
GOLDEN = Path(__file__).parents[1] / "format" / "luks"


def disk_of(path: Path, content: Path | bytes) -> Path:
    """Make a GPT disk whose one partition begins with some content, and more room behind it."""
    raw = content if isinstance(content, bytes) else content.read_bytes()
    with path.open("xb") as file:
        file.truncate(len(raw) + 2 * MIB)
    tool("sgdisk", "--new=1:2048:0", path)
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(raw)
        file.truncate(len(raw) + 40 * MIB)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (path := tmp_path / "key").write_bytes(b"secret")
    return path


@pytest.mark.skipif(not shutil.which("cryptsetup", path="/usr/sbin:/sbin"), reason="cryptsetup is not there")
def test_a_detached_header_is_refused(tmp_path: Path, key: Path) -> None:
    header, payload = tmp_path / "header", tmp_path / "payload"
    for path in (header, payload):
        with path.open("xb") as file:
            file.truncate(20 * MIB)
    options = ["--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    subprocess.run(
        ["/usr/sbin/cryptsetup", "luksFormat", *options, "--header", header, payload, key],
        check=True,
        capture_output=True,
    )
    disk = disk_of(tmp_path / "disk.img", header)
    fails(4, "grow", disk, "--key-file", key, "--dry-run", match="detached from its payload")


def test_a_key_without_luks(tmp_path: Path, key: Path) -> None:
    disk = disk_of(tmp_path / "disk.img", random.Random(1).randbytes(MIB))
    fails(3, "grow", disk, "--key-file", key, "--dry-run", match="no LUKS volume where the disk grows")


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """An image of a disk whose last partition is LUKS."""
    content = subprocess.run(["zstd", "-dc", GOLDEN / "luks2.img.zst"], check=True, capture_output=True)
    onebay("capture", disk_of(tmp_path / "luks.img", content.stdout), image := tmp_path / "luks.raw.zst")
    return image


def test_what_is_inside_luks_wants_a_key(tmp_path: Path, key: Path, locked: Path) -> None:
    """The partition grows; a note says what does not, and with which command it would."""
    target, journal = tmp_path / "target.img", tmp_path / "journal"
    argv = ("restore", locked, target, "--size", "200M", "--json", "--cache", tmp_path / "cache")
    says = f"what is inside LUKS on {target}:p1 keeps its size: onebay grow --key-file KEY --journal FILE"
    for options in (["--dry-run"], []):
        (note,) = [one for one in onebay(*argv, *options).document["notes"] if "LUKS" in one]
        assert note == f"{says} {target} grows it"
    assert "nothing was written" in onebay("grow", target).stdout
    target.unlink()
    with_key = [*argv, "--key-file", key, "--journal", journal, "--dry-run"]
    notes = onebay(*with_key).document["notes"]
    assert any("a small virtual machine will grow the luks" in note for note in notes)
    assert not any("keeps its size" in note for note in notes)
    assert not target.exists()
    assert not journal.exists()


def test_a_restore_with_a_key_is_refused_before_it_writes(tmp_path: Path, key: Path, locked: Path) -> None:
    target, journal = tmp_path / "target.img", tmp_path / "journal"
    options = ("--size", "200M", "--key-file", key)
    fails(2, "restore", locked, target, *options, match="give --journal FILE as well")
    fails(2, "restore", locked, target, *options, "--journal", journal, "--no-grow", match="nothing to do")
    fails(3, "restore", locked, target, *options, "--journal", key, match="no journal")
    onebay("capture", disk_of(tmp_path / "disk.img", random.Random(1).randbytes(MIB)), locked, "--yes")
    fails(3, "restore", locked, target, *options, "--journal", journal, match="no LUKS volume")
    assert not target.exists()
    assert not journal.exists()


@pytest.mark.parametrize("content", [None, b"", bytes((8 << 20) + 1)])
def test_key_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    disk = disk_of(tmp_path / "disk.img", random.Random(1).randbytes(MIB))
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    fails(3, "grow", disk, "--key-file", path)


def test_the_plan_says_what_a_kernel_will_do(tmp_path: Path) -> None:
    """Dry, nothing but the table is planned, and nothing is built."""
    golden = next((GOLDEN.parent / "xfs").glob("*.img.zst"))
    raw = subprocess.run(["zstd", "-dc", golden], check=True, capture_output=True).stdout
    disk = disk_of(tmp_path / "disk.img", raw)
    with disk.open("r+b") as file:
        file.truncate(len(raw) + 200 * MIB)
    cache = tmp_path / "cache"
    plan = json.loads(onebay("grow", disk, "--dry-run", "--json", "--cache", cache).stdout)
    assert any("a small virtual machine will grow the xfs" in note for note in plan["notes"])
    assert not any("stays as it is" in note for note in plan["notes"])
    assert not cache.exists()
