"""Every verb that reads a disk reads it from any file, and refuses files that mislead it."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from tests.op.badkit import ends, fails, make_disk, onebay, tool, untouched

MIB = 1 << 20
QEMU = {
    "qcow2": ("qcow2", ()),
    "vmdk": ("vmdk", ()),
    "vhdx": ("vhdx", ()),
    "vdi": ("vdi", ()),
    "dynamic.vhd": ("vpc", ("-o", "force_size=on")),
    "fixed.vhd": ("vpc", ("-o", "subformat=fixed,force_size=on")),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT disk of 40 MiB and 3 sectors with an ext4 that holds something."""
    return make_disk(tmp_path_factory.mktemp("formats"), size=40 * MIB + 3 * 512, random=3 * MIB, label="gpt")


@pytest.fixture(scope="module")
def image(disk: Path) -> Path:
    path = disk.with_name("disk.raw.zst")
    onebay("capture", disk, path)
    return path


@pytest.fixture(scope="module")
def made(disk: Path) -> dict[str, Path]:
    """The disk in every format that is read."""
    found = {}
    for name, (driver, options) in QEMU.items():
        path = disk.with_name(f"disk.{name}")
        tool("qemu-img", "convert", "-f", "raw", "-O", driver, *options, disk, path)
        found[name] = path
    content = disk.read_bytes()
    for name, data in (
        ("img.gz", gzip.compress(content)),
        ("img.xz", lzma.compress(content)),
        ("img.zst", zstandard.ZstdCompressor(write_checksum=True).compress(content)),
    ):
        found[name] = disk.with_name(f"disk.{name}")
        found[name].write_bytes(data)
    return found


@pytest.mark.parametrize("name", [*QEMU, "img.gz", "img.xz", "img.zst"])
def test_every_format_reads_alike(
    name: str, disk: Path, image: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    path = made[name]
    with untouched(path):
        told = onebay("inspect", path, "--json").stdout.replace(str(path), str(disk))
        assert told == onebay("inspect", disk, "--json").stdout
        onebay("verify", image, "--against", path)
        onebay("capture", path, tmp_path / "copy.raw.zst")
        fails(4, "grow", path, match="only read")
        fails(4, "repair", path, match="only read")
    onebay("verify", tmp_path / "copy.raw.zst", "--against", disk)
    assert not list(path.parent.glob(".*")), "nothing is left behind"


def test_nothing_is_left_running(made: dict[str, Path]) -> None:
    """qemu-nbd ends with the verb, also where that is interrupted or killed in the middle."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        argv = [sys.executable, "-c", HOLD, str(made["qcow2"])]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        server, folder = process.stdout.readline().split()
        assert Path(f"/proc/{server}").exists()
        assert not Path(folder).exists()
        process.send_signal(number)
        process.wait(timeout=20)
        process.stdout.close()
        deadline = time.monotonic() + 20
        while running(int(server)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running(int(server)), number


HOLD = """
import sys, time
from pathlib import Path
from onebay.block import Reading, open_input
volume = open_input(Path(sys.argv[1]), Reading(Path("/tmp")))
print(volume.process.pid, Path(volume.port.getpeername()).parent, flush=True)
time.sleep(60)
"""


def running(number: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except FileNotFoundError:
        return False


def test_files_that_lead_elsewhere(disk: Path, tmp_path: Path) -> None:
    backed, missing = tmp_path / "backed.qcow2", tmp_path / "missing.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, backed)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/nowhere/disk", missing, "1G")
    with untouched(tmp_path):
        fails(3, "inspect", backed, match=f"leads to other files.*{disk}")
        fails(3, "capture", backed, tmp_path / "i.raw.zst", match="--allow-backing")
        fails(3, "boot", backed, "--expect", "x", match="leads to other files")
        fails(3, "inspect", missing, match="/nowhere/disk")
        fails(6, "inspect", "--allow-backing", missing, match="/nowhere/disk")
        told = onebay("inspect", "--allow-backing", backed, "--json").document
    assert told["tree"]["kind"] == "gpt"
    flat = tmp_path / "flat.vmdk"
    options = ("-o", "subformat=monolithicFlat")
    tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", *options, disk, flat)
    fails(3, "inspect", flat, match="flat-flat.vmdk")
    assert onebay("inspect", "--allow-backing", flat, "--json").document["tree"]["kind"] == "gpt"


def test_a_qcow2_inside_the_disk_is_not_followed(disk: Path, tmp_path: Path) -> None:
    """Whoever may write to a raw disk may write such a header to it; nobody looks for it but at the start."""
    secret, disguised = tmp_path / "secret", tmp_path / "disguised.img"
    secret.write_bytes(b"secret" * 1000)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, tmp_path / "evil", "1M")
    disguised.write_bytes((tmp_path / "evil").read_bytes().ljust(2 * MIB, b"\0"))
    fails(3, "inspect", disguised, match="leads to other files")
    told = onebay("inspect", "--input-format", "raw", disguised, "--json").document
    assert told["disk"]["size"] == 2 * MIB


def test_names_and_contents_must_agree(disk: Path, made: dict[str, Path], tmp_path: Path) -> None:
    for suffix in ("qcow2", "vhd", "vhdx", "vmdk", "vdi", "gz", "xz", "zst"):
        path = tmp_path / f"disk.{suffix}"
        os.link(disk, path)
        fails(5, "inspect", path, match="not what it is called")
        onebay("inspect", "--input-format", "raw", path)
    fails(5, "inspect", "--input-format", "vdi", made["qcow2"], match="not of that format")
    broken = tmp_path / "broken.vhd"
    content = bytearray(made["fixed.vhd"].read_bytes())
    content[-500] ^= 1
    broken.write_bytes(content)
    fails(5, "inspect", broken, match="checksum of the vhd footer")


def test_claims_of_petabytes(tmp_path: Path) -> None:
    huge = tmp_path / "huge.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", huge, "4P")
    with untouched(tmp_path):
        fails(3, "inspect", huge, match="claims to be larger than is allowed")
        fails(3, "capture", huge, tmp_path / "i.raw.zst", match="--max-size")
    onebay("inspect", "--max-size", "5000T", huge)


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_a_bomb(kind: str, tmp_path: Path) -> None:
    """A few kilobytes that unpack to 1 GiB stop where they are told, and leave nothing."""
    bomb = tmp_path / f"bomb.img.{kind}"
    compress = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}[kind]
    bomb.write_bytes(compress(bytes(16 * MIB)) * 64)
    with untouched(tmp_path):
        fails(3, "inspect", "--max-size", "100M", bomb, match="unpacks to more than is allowed")


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_damaged_packed_files(kind: str, disk: Path, made: dict[str, Path], tmp_path: Path) -> None:
    whole = made[f"img.{kind}"].read_bytes()
    path = tmp_path / f"disk.img.{kind}"
    path.write_bytes(whole[: len(whole) // 2])
    fails(5, "inspect", path, match="ends early")
    path.write_bytes(whole + b"something else")
    fails(5, "inspect", path, match="what follows is none")
    path.write_bytes(whole[:20000] + bytes(2000) + whole[22000:])
    fails(5, "inspect", path)
    path.write_bytes(whole + whole)  # members one after the other are one file
    assert onebay("inspect", path, "--json").document["disk"]["size"] == 2 * disk.stat().st_size


def test_a_container_in_a_packed_file(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(made["qcow2"].read_bytes()))
    fails(4, "inspect", path, match="qcow2 in a gzip file")


CUT = {
    "vmdk": ("vmdk", ()),
    "vhdx": ("vhdx", ()),
    "vdi": ("vdi", ()),
    "vhd": ("vpc", ("-o", "force_size=on")),
    "qcow2": ("qcow2", ()),
    "old.qcow2": ("qcow2", ("-o", "compat=0.10")),
    "sub.qcow2": ("qcow2", ("-o", "extended_l2=on,cluster_size=64k")),
    "allocated.qcow2": ("qcow2", ("-o", "preallocation=metadata")),
    "packed.qcow2": ("qcow2", ("-c",)),
    "zstd.qcow2": ("qcow2", ("-c", "-o", "compression_type=zstd")),
    "stream.vmdk": ("vmdk", ("-o", "subformat=streamOptimized")),
}


@pytest.fixture(scope="module")
def text_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk whose last cluster with data is full of text, which packs well."""
    path = tmp_path_factory.mktemp("text") / "disk.img"
    with path.open("wb") as file:
        file.truncate(40 * MIB + 3 * 512)
        for at in (0, 9 * MIB, 33 * MIB):
            file.seek(at)
            file.write(random.Random(at).randbytes(MIB))
            file.write("".join(f"{number} bottles\n" for number in range(at, at + 70000)).encode())
    return path


def data_end(path: Path, driver: str) -> int:
    """The highest byte of a file that qemu finds data of the disk at; where it does not say, all that is not
    padding: of a grain up to its last byte, of a cluster to a whole sector."""
    entries = json.loads(tool("qemu-img", "map", "--output=json", "-f", driver, path))
    ends = [entry["offset"] + entry["length"] for entry in entries if entry["data"] and "offset" in entry]
    known = all("offset" in entry for entry in entries if entry["data"])
    if known:
        return max(ends)
    return len(path.read_bytes().rstrip(b"\0")) if driver == "vmdk" else path.stat().st_size


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_was_cut_short(name: str, text_disk: Path, tmp_path: Path) -> None:
    """One byte is missing, or a half: qemu would give zeros for it, or what zeros unpack to."""
    driver, options = CUT[name]
    whole, path = tmp_path / f"whole.{name}", tmp_path / f"disk.{name}"
    tool("qemu-img", "convert", "-f", "raw", "-O", driver, *options, text_disk, whole)
    end = data_end(whole, driver)
    size = whole.stat().st_size
    assert MIB < end <= size
    for length in (size, end, end - 1, end - 512, end - 5000, end - 70000, size // 2, size // 20):
        shutil.copyfile(whole, path)
        os.truncate(path, length)
        if length >= end:
            tool("qemu-img", "compare", "-f", driver, "-F", "raw", path, text_disk)
            onebay("inspect", path)
        else:
            fails(5, "inspect", path)
            fails(5, "capture", path, tmp_path / "i.raw.zst", "--all")
    assert not (tmp_path / "i.raw.zst").exists()


@pytest.mark.parametrize("form", ["monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"])
def test_a_file_that_leads_to_one_that_was_cut_short(form: str, text_disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={form}", text_disk, path)
    (other,) = set(tmp_path.iterdir()) - {path}
    onebay("inspect", "--allow-backing", path)
    os.truncate(other, data_end(path, "vmdk") - 1 if "Sparse" in form else other.stat().st_size - 1)
    fails(5, "inspect", "--allow-backing", path, match=f"{other}.*ends early")


def test_a_backing_or_data_file_that_was_cut_short(text_disk: Path, tmp_path: Path) -> None:
    below, path, data = tmp_path / "below.qcow2", tmp_path / "disk.qcow2", tmp_path / "data"
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", text_disk, below)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "below.qcow2", path)
    onebay("inspect", "--allow-backing", path)
    os.truncate(below, data_end(below, "qcow2") - 1)
    fails(5, "inspect", "--allow-backing", path, match="below.qcow2.*ends early")
    options = ("-o", f"data_file={data}")
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, text_disk, path)
    onebay("inspect", "--allow-backing", path)
    os.truncate(data, data_end(path, "qcow2") - 1)
    fails(5, "inspect", "--allow-backing", path, match="data.*ends early")


def test_damaged_or_in_use(made: dict[str, Path], tmp_path: Path) -> None:
    """A vhd that ends early has a "free_data_block_offset" for qemu, and is in nobody's use."""
    path = tmp_path / "disk.vhd"
    content = made["dynamic.vhd"].read_bytes()
    path.write_bytes(content[: len(content) // 2])
    fails(5, "inspect", path, match="free_data_block_offset")
    used = tmp_path / "lock.qcow2"
    shutil.copyfile(made["qcow2"], used)
    with subprocess.Popen(["qemu-io", "-f", "qcow2", str(used)], stdin=-1, stdout=-1, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write("write 0 512\n")
        writer.stdin.flush()
        assert "wrote" in writer.stdout.readline()
        fails(3, "inspect", used, match="a running machine uses it")
        writer.stdin.close()


@pytest.mark.parametrize("name", QEMU)
def test_cut_and_flipped_containers(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    """Whatever is broken, the answer is one of ours, and nothing hangs."""
    whole = made[name].read_bytes()
    path = tmp_path / made[name].name
    rng = random.Random(name)
    for _ in range(8):
        content = bytearray(whole)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        for _ in range(rng.randrange(1, 4)):
            if content:
                content[min(rng.randrange(4096), len(content) - 1)] = rng.randrange(256)
        path.write_bytes(content)
        with untouched(tmp_path):
            ends((3, 4, 5, 6, 8), "inspect", "--max-size", "1T", path)
