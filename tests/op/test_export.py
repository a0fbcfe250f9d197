"""export: every format read back by the tool it belongs to, the presets' rules, nothing left of a failure."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.op.badkit import digest, fails, onebay, tool, untouched

MIB, GIB = 1 << 20, 1 << 30
SIZE = 40 * MIB + 3 * 512
QEMU = {
    "qcow2": "qcow2",
    "qcow2-zstd": "qcow2",
    "vhd": "vpc",
    "vmdk": "vmdk",
    "vdi": "vdi",
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dirty GPT disk: 3 MiB of files in an ext4, and 8 MiB of what was deleted from it."""
    folder = tmp_path_factory.mktemp("export")
    path, fs, files = folder / "disk.img", folder / "fs", folder / "files"
    files.mkdir()
    rng = random.Random(2)
    (files / "content").write_bytes(rng.randbytes(3 * MIB))
    (files / "deleted").write_bytes(rng.randbytes(8 * MIB))
    tool("mke2fs", "-q", "-t", "ext4", "-d", files, fs, "24m")
    tool("debugfs", "-w", "-R", "rm deleted", fs)
    tool("e2fsck", "-fy", fs, ok=(0, 1))
    with path.open("wb") as file:
        file.truncate(SIZE)
    tool("sgdisk", "-n", "1:2048:+24M", "-t", "1:8300", path)
    tool("dd", f"if={fs}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    return path


@pytest.fixture(scope="module")
def image(disk: Path) -> Path:
    path = disk.with_name("disk.raw.zst")
    onebay("capture", disk, path)
    return path


@pytest.fixture(scope="module")
def decoded(image: Path) -> Path:
    """The disk as anybody unpacks it, by zstd."""
    path = image.with_name("decoded.raw")
    tool("zstd", "-q", "-d", image, "-o", path)
    return path


def export(*argv: str | Path) -> dict[str, object]:
    document = onebay("export", *argv, "--json").document
    assert isinstance(document, dict)
    return document


def space(path: Path) -> int:
    """Bytes that a file takes on its medium."""
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("form", QEMU)
@pytest.mark.parametrize("source", ["image", "disk"])
def test_formats_of_machines(form: str, source: str, disk: Path, decoded: Path, tmp_path: Path) -> None:
    """qemu-img finds the same disk in them, and none is larger than the used data."""
    out = tmp_path / f"out.{form.removesuffix('-zstd')}"
    origin = disk.with_name("disk.raw.zst") if source == "image" else disk
    with untouched(origin):
        done = export(origin, out, "--format", form)
    driver = QEMU[form]
    if driver != "vpc":  # qemu-img cannot check it
        tool("qemu-img", "check", "-q", "-f", driver, out)
        tool("qemu-img", "compare", "-q", "-f", "raw", "-F", driver, decoded, out)
    else:
        raw = tmp_path / "raw"
        tool("qemu-img", "convert", "-f", driver, "-O", "raw", out, raw)
        assert raw.stat().st_size == 41 * MIB
        tool("sgdisk", "-v", raw)
        assert raw.read_bytes()[MIB : 25 * MIB] == decoded.read_bytes()[MIB : 25 * MIB]
    # the blocks of a vdi are of 1 MiB
    assert space(out) < (16 if driver == "vdi" else 7) * MIB, "what was deleted is not in it"
    assert driver == "vdi" or space(out) <= done["kept"]
    told = json.loads(tool("qemu-img", "info", "-f", driver, "--output=json", out))
    details = told.get("format-specific", {}).get("data", {})
    if driver == "qcow2":
        assert details["compression-type"] == ("zstd" if form.endswith("zstd") else "zlib")
    if driver == "vmdk":
        assert details["create-type"] == "streamOptimized"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "unpack"), [("o.img", "cat"), ("o.img.gz", "gzip -dc"), ("o.img.xz", "xz -dc")]
)
def test_packed_and_raw(name: str, unpack: str, image: Path, decoded: Path, tmp_path: Path) -> None:
    """With block map and checksums: bmaptool writes the disk from them and checks every range."""
    out = tmp_path / name
    export(image, out, "--bmap", "--sums")
    again = subprocess.run([*unpack.split(), out], stdout=subprocess.PIPE, check=True)
    assert hashlib.sha256(again.stdout).hexdigest() == digest(decoded)
    tool("bmaptool", "copy", "--bmap", f"{out}.bmap", out, tmp_path / "target")
    assert digest(tmp_path / "target") == digest(decoded)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.count(b": OK") == 2
    assert space(out) < 7 * MIB


def test_the_map_names_zeros_that_matter(image: Path, decoded: Path, tmp_path: Path) -> None:
    """bmaptool leaves out what is not mapped; what stood there must not count again."""
    out, target = tmp_path / "o.img", tmp_path / "target"
    export(image, out, "--bmap")
    target.write_bytes(b"\xa5" * SIZE)
    tool("bmaptool", "copy", out, target)
    onebay("verify", image, "--against", target)
    text = Path(f"{out}.bmap").read_bytes().replace(b"> 0-", b"> 1-")
    Path(f"{out}.bmap").write_bytes(text)
    broken = subprocess.run(["bmaptool", "copy", out, target], capture_output=True, check=False)
    assert broken.returncode != 0, "the map's own checksum is checked"


def test_sums_are_kept(image: Path, tmp_path: Path) -> None:
    listing = tmp_path / "SHA256SUMS"
    listing.write_text("0" * 64 + "  other\n")
    for _ in range(2):
        export(image, tmp_path / "o.qcow2", "--sums", "--yes")
    lines = listing.read_text().splitlines()
    assert lines == ["0" * 64 + "  other", f"{digest(tmp_path / 'o.qcow2')}  o.qcow2"]


PRESETS = {
    "aliyun": ("o.qcow2", GIB),
    "aws": ("o.vmdk", SIZE),
    "azure": ("o.vhd", 41 * MIB),
    "digitalocean": ("o.img.gz", SIZE),
    "esxi": ("o.vmdk", 41 * MIB),
    "proxmox": ("o.qcow2", SIZE),
    "virtualbox": ("o.vdi", SIZE),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str, image: Path, tmp_path: Path) -> None:
    """The disk has the size that the place asks for, and its table says so."""
    file, size = PRESETS[name]
    out, raw = tmp_path / file, tmp_path / "raw"
    assert export(image, out, "--for", name)["disk_size"] == size
    if name == "digitalocean":
        with raw.open("wb") as target:
            subprocess.run(["gzip", "-dc", out], stdout=target, check=True)
    else:
        driver = {".qcow2": "qcow2", ".vhd": "vpc", ".vmdk": "vmdk", ".vdi": "vdi"}[out.suffix]
        tool("qemu-img", "convert", "-f", driver, "-O", "raw", out, raw)
    assert raw.stat().st_size == size
    assert "No problems found" in tool("sgdisk", "-v", raw)
    if name == "azure":
        footer = out.read_bytes()[-512:]
        assert footer[:8] == b"conectix"
        assert int.from_bytes(footer[48:56], "big") == size
        assert int.from_bytes(footer[60:64], "big") == 2  # fixed


def test_gcp(image: Path, decoded: Path, tmp_path: Path) -> None:
    """disk.raw alone in a tar of the old GNU format, of whole GiB."""
    out, raw = tmp_path / "o.tar.gz", tmp_path / "disk.raw"
    assert export(image, out, "--for", "gcp")["disk_size"] == GIB
    unpacked = subprocess.run(["gzip", "-dc", out], stdout=subprocess.PIPE, check=True).stdout
    assert unpacked[257:265] == b"ustar  \0"
    assert len(unpacked) % 10240 == 0
    tool("tar", "-xzf", out, "-C", tmp_path)
    assert tool("tar", "-tzf", out) == "disk.raw\n"
    assert raw.stat().st_size == GIB
    assert "No problems found" in tool("sgdisk", "-v", raw)
    with raw.open("rb") as file:
        assert file.read(25 * MIB)[MIB:] == decoded.read_bytes()[MIB : 25 * MIB]


def test_refusals(disk: Path, image: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.img"
    tool("mke2fs", "-q", "-t", "ext4", bare, "5000k")
    large = tmp_path.with_name(f"{tmp_path.name}-large.img")  # nobody wants to read all of it
    with large.open("wb") as file:
        file.truncate(101 * 10**9 // 512 * 512)
    tool("sgdisk", "-n", "1:2048:+1M", large)
    (tmp_path / "there.qcow2").write_bytes(b"something")
    (tmp_path / "folder.qcow2").mkdir()
    with untouched(tmp_path):
        fails(3, "export", bare, tmp_path / "o.vhd", match="has no partition table")
        fails(3, "export", large, tmp_path / "o.img.gz", "--for", "digitalocean", match="too large for digi")
        fails(3, "export", image, tmp_path / "there.qcow2", match="exists already")
        fails(3, "export", image, tmp_path / "folder.qcow2", "--yes", match="not a file")
        fails(3, "export", disk, disk, "--yes", match="not a file that an export may replace")
        fails(3, "export", image, tmp_path / "none" / "o.qcow2", match="no such folder")
        fails(2, "export", image, tmp_path / "o.qcow2", "--for", "azure")
        fails(2, "export", image, tmp_path / "o.qcow2", "--bmap")
        fails(2, "export", image, tmp_path / "o.what")
        fails(7, "export", tmp_path / "none.raw.zst", tmp_path / "o.qcow2", match="no such file")
        assert export(image, tmp_path / "o.vhd", "--dry-run")["written"] == []


def test_a_damaged_image_leaves_nothing(image: Path, tmp_path: Path) -> None:
    """The error says what is wrong with the image, not what qemu-img made of it."""
    broken = tmp_path / "broken.raw.zst"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    for name in ("o.qcow2", "o.img", "o.img.gz", "o.img.xz", "o.tar.gz"):
        fails(5, "export", broken, tmp_path / name, match="frame", state="unfinished export was removed")
    assert list(tmp_path.iterdir()) == [broken]


@pytest.mark.parametrize("name", ["o.qcow2", "o.img.xz", "o.tar.gz"])
def test_an_interrupted_export_leaves_nothing(name: str, tmp_path: Path) -> None:
    disk, folder = tmp_path / "disk.img", tmp_path / "out"
    folder.mkdir()
    with disk.open("wb") as file:
        for seed in range(24):
            file.write(random.Random(seed).randbytes(8 * MIB))
    argv = [sys.executable, "-m", "onebay", "export", disk, folder / name]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "unfinished export was removed" in said
    assert not list(folder.iterdir())
