"""capture --key-file: used blocks inside LUKS, as they are on the disk; qemu, which reads LUKS, judges."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import badkit
import foldkit
import pytest

from onebay.block import open_disk
from onebay.image import Image
from onebay.ops.inspect import inspect_tree
from onebay.source import open_source
from onebay.tree import discover
from tests.story import fill, onebay

MIB = 1 << 20
KEY = b"only I know this"
PAYLOAD = 2 << 20  # bytes before the payload of the container, key slots that cryptsetup fills
LABEL = "secret-label"
UUID = "6f0b5a3c-2d57-4d32-8f0e-3f6f3c1f7a11"
SOURCE = Path(__file__).parents[2] / "src" / "onebay"
INSIDE = {"open_luks", "discover_inside", "unlock"}
FILES = {f"photo{number}.jpg": random.Random(number).randbytes(700_000) for number in range(6)}


@dataclass(frozen=True)
class Locked:
    """A GPT disk: p1 a small ext4, p2 LUKS1 with the files in an ext4, as qemu-img encrypted it."""

    disk: Path
    key: Path
    wrong: Path
    start: int
    size: int
    image: Path


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Locked:
    folder = tmp_path_factory.mktemp("locked")
    (key := folder / "key").write_bytes(KEY)
    (wrong := folder / "wrong").write_bytes(KEY + b"\n")
    (files := folder / "files").mkdir()
    for name, content in FILES.items():
        (files / name).write_bytes(content)
    plain, part, small, disk = (folder / name for name in ("plain", "part", "small", "disk.img"))
    foldkit.run("mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-U", UUID, "-d", files, plain, "60M")
    encrypt(plain, part, key)
    foldkit.run("mke2fs", "-q", "-t", "ext4", "-L", "boot", small, "8M")
    start, size = 16 * MIB, part.stat().st_size
    assert size % 512 == 0
    with disk.open("xb") as file:
        file.truncate(start + size + 2 * MIB)
    options = ["-n", f"1:2048:+{8 * MIB // 512}", "-n", f"2:{start // 512}:+{size // 512}"]
    foldkit.run("sgdisk", *options, disk)
    foldkit.put(disk, small, MIB)
    foldkit.put(disk, part, start)
    made = Locked(disk, key, wrong, start, size, folder / "inside.raw.zst")
    captured(made, made.image, "--key-file", key)
    return made


def encrypt(plain: Path, out: Path, key: Path) -> None:
    """Have qemu write into a LUKS1 container with a volume key of 512 bits.

    cryptsetup makes it: qemu measures how fast the machine is, and fails where that is busy.
    """
    with out.open("xb") as file:
        file.truncate(PAYLOAD + plain.stat().st_size)
    quick = ["--pbkdf-force-iterations=1000", "--key-size=512", "--cipher=aes-xts-plain64"]
    place = f"--align-payload={PAYLOAD // 512}"
    foldkit.run("cryptsetup", "luksFormat", "--batch-mode", "--type=luks1", *quick, place, out, key)
    secret = f"secret,id=s,file={key}"
    target = f"driver=luks,key-secret=s,file.filename={out}"
    foldkit.run(
        "qemu-img", "convert", "-n", "-f", "raw", "--object", secret, "--target-image-opts", plain, target
    )


def container(path: Path, key: Path, *options: str) -> None:
    """Have cryptsetup make a LUKS2 container of the size of the first partition."""
    with path.open("xb") as file:
        file.truncate(8 * MIB)
    small = ["--luks2-metadata-size=16k", "--luks2-keyslots-size=512k"]
    quick = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", *small]
    foldkit.run("cryptsetup", "luksFormat", "--batch-mode", "--type=luks2", *quick, *options, path, key)


def decrypt(disk: Path, locked: Locked, out: Path) -> None:
    """Have qemu decrypt what is on the second partition."""
    part = f"driver=raw,offset={locked.start},size={locked.size},file.filename={disk}".split(",")
    inner = ",".join(f"file.{option}" for option in part)
    secret = f"secret,id=s,file={locked.key}"
    options = f"driver=luks,key-secret=s,{inner}"
    foldkit.run("qemu-img", "convert", "--object", secret, "-O", "raw", "--image-opts", options, out)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; none may be left, for the volume key is in one of them."""
    (folder := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert not list(folder.iterdir())


def opened(path: Path) -> Image:
    return Image.open(open_source(str(path)))


def captured(locked: Locked, image: Path, *options: str | Path) -> dict[str, Any]:
    done = onebay("capture", locked.disk, image, "--json", *options)
    for secret in (KEY.decode(), KEY.hex(), LABEL, UUID):
        assert secret not in done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_restored_files_are_whole_and_the_image_is_small(locked: Locked, tmp_path: Path) -> None:
    captured(locked, whole := tmp_path / "whole.raw.zst")
    size = locked.image.stat().st_size
    assert size < whole.stat().st_size // 4
    # beside the files: key slots of 2 MiB and a journal of 4 MiB, neither of which compresses
    used = sum(map(len, FILES.values()))
    assert used < size < used + 8 * MIB
    target = tmp_path / "restored.img"
    fill(target, -(-locked.disk.stat().st_size // MIB) * MIB, 7)
    os.truncate(target, locked.disk.stat().st_size)
    badkit.onebay("restore", locked.image, target, "--yes", "--verify", "--no-grow")
    badkit.onebay("verify", locked.image, "--against", target)
    decrypt(target, locked, plain := tmp_path / "plain")
    foldkit.run("e2fsck", "-fn", plain)
    for name, content in FILES.items():
        out = tmp_path / name
        foldkit.run("debugfs", "-R", f"dump /{name} {out}", plain)
        assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_what_is_kept_is_the_ciphertext(locked: Locked) -> None:
    made = opened(locked.image)
    with closing(open_disk(locked.disk)) as disk:
        for start, end in made.keep.clip(0, disk.size):
            assert made.read(start, end - start) == disk.read(start, end - start)
        # header and key slots of LUKS, all of them
        facts = discover([disk]).of_kind("luks")[0].facts()
        assert isinstance(facts["payload_offset"], int)
        assert made.keep.covers(locked.start, locked.start + facts["payload_offset"])


def test_an_image_tells_nothing_of_what_is_inside(locked: Locked) -> None:
    made = opened(locked.image)
    with closing(open_disk(locked.disk)) as disk:
        assert made.facts.layers == inspect_tree(discover([disk]))
    stored = json.dumps([made.facts.layers, dict(made.facts.other)]).encode() + b"".join(made.blobs.values())
    for secret in (LABEL, UUID, KEY.decode(), "photo"):
        assert secret.encode() not in stored


def test_inspect_shows_what_is_inside(locked: Locked) -> None:
    assert LABEL not in badkit.onebay("inspect", locked.image, "--json").stdout
    assert LABEL in onebay("inspect", locked.disk, "--key-file", locked.key).stdout
    document = badkit.onebay("inspect", locked.image, "--json", "--key-file", locked.key).document
    nodes = [part["node"] for part in document["tree"]["parts"] if "node" in part]
    ((inner,),) = [node["parts"] for node in nodes if node["kind"] == "luks"]
    assert (inner["role"], inner["node"]["kind"]) == ("volume", "ext")
    assert inner["node"]["facts"]["uuid"] == UUID


@pytest.mark.parametrize("verb", ["capture", "inspect"])
def test_wrong_keys(locked: Locked, tmp_path: Path, verb: str) -> None:
    image = [tmp_path / "image.raw.zst"] if verb == "capture" else []
    for key, why in ((locked.wrong, "opens none of the key slots"), (tmp_path / "none", "no such file")):
        done = onebay(verb, locked.disk, *image, "--key-file", key, status=3)
        assert why in done.stderr
        assert done.stderr.splitlines()[-1].strip() == "nothing was written"
        assert KEY.decode() not in done.stderr
    assert not any(path.exists() for path in image)


def test_a_key_without_luks(locked: Locked, tmp_path: Path) -> None:
    disk = tmp_path / "plain.img"
    foldkit.run("mke2fs", "-q", "-t", "ext4", disk, "8M")
    done = badkit.onebay("capture", disk, tmp_path / "image.raw.zst", "--key-file", locked.key, status=3)
    assert "no LUKS volume, so the key opens nothing" in done.stderr
    assert not (tmp_path / "image.raw.zst").exists()


def test_a_cipher_that_is_not_opened(locked: Locked, tmp_path: Path) -> None:
    disk = tmp_path / "cbc.img"
    container(disk, locked.key, "--cipher=aes-cbc-essiv:sha256", "--key-size=256")
    done = badkit.onebay("capture", disk, tmp_path / "image.raw.zst", "--key-file", locked.key, status=4)
    assert "the cipher aes-cbc-essiv:sha256, not aes-xts-plain64" in done.stderr
    badkit.onebay("capture", disk, tmp_path / "image.raw.zst")


def test_another_luks_stays_closed_and_whole(locked: Locked, tmp_path: Path) -> None:
    """One key opens one of two; of the other every byte is kept."""
    disk, part, other = (tmp_path / name for name in ("disk.img", "part", "other"))
    disk.write_bytes(locked.disk.read_bytes())
    other.write_bytes(b"another")
    container(part, other)
    foldkit.put(disk, part, MIB)
    image = tmp_path / "image.raw.zst"
    done = badkit.onebay("capture", disk, image, "--key-file", locked.key)
    assert "p1: stays closed: " in done.stderr
    keep = opened(image).keep
    assert keep.covers(MIB, 9 * MIB)
    assert keep.size < 40 * MIB


def test_a_smaller_disk_with_luks_on_it(locked: Locked, tmp_path: Path) -> None:
    """LUKS before the file system that shrinks: both are small in the image."""
    disk, image = tmp_path / "disk.img", tmp_path / "image.raw.zst"
    disk.write_bytes(locked.disk.read_bytes())
    end = locked.disk.stat().st_size
    os.truncate(disk, end + 200 * MIB)
    foldkit.run("sgdisk", "-e", disk)
    foldkit.run("sgdisk", "-n", "3:0:0", disk)
    foldkit.run("mke2fs", "-q", "-t", "ext4", last := tmp_path / "last", "190M")
    at = json.loads(foldkit.run("sfdisk", "--json", disk))["partitiontable"]["partitions"][2]["start"]
    foldkit.put(disk, last, at * 512)
    told = badkit.onebay("capture", disk, image, "--minimize", "--key-file", locked.key, "--json").document
    assert told["disk_size"] < end + 100 * MIB
    badkit.onebay("restore", image, target := tmp_path / "target.img", "--no-grow")
    decrypt(target, locked, plain := tmp_path / "plain")
    foldkit.run("e2fsck", "-fn", plain)
    assert not opened(image).keep.covers(locked.start, locked.start + locked.size)


def test_without_the_library(locked: Locked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "python").mkdir()
    (folder / "cryptography.py").write_text("raise ImportError('no such library here')\n")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    image = tmp_path / "image.raw.zst"
    done = onebay("capture", locked.disk, image, "--key-file", locked.key, status=8)
    assert "the Python package cryptography is not installed" in done.stderr
    assert "pip install cryptography" in done.stderr
    assert not image.exists()
    told = json.loads(onebay("doctor", "--json", status=8).stdout)
    assert {"program": "cryptography", "package": "python3-cryptography", "use": "luks"} in told["missing"]


def test_only_verbs_that_read_look_inside() -> None:
    """A plan that is made with a key in hand could move what it must not; so nobody else has one."""
    users = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        if not any(name in text for name in INSIDE):
            continue
        for node in ast.walk(ast.parse(text)):
            names = {getattr(node, "id", None), getattr(node, "attr", None)}
            names |= {alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}
            if names & INSIDE:
                users.add(str(path.relative_to(SOURCE)))
    assert users - {"tree.py", "stack/luks/__init__.py"} == {
        "ops/unlock.py",
        "ops/capture.py",
        "ops/inspect.py",
    }
