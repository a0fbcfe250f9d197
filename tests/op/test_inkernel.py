"""What is refused before any kernel is asked to grow something."""

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
