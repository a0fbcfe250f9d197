"""Which image is meant: by its root digest, or by a signature that OpenSSL made."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1 << 20


@dataclass
class Given:
    """An image of a disk with a boot signature, its root digest, and a key pair."""

    image: Path
    raw: bytes
    digest: str
    key: Path
    public: Path


def onebay(*argv: str | Path, stdin: Path | None = None) -> subprocess.CompletedProcess[str]:
    with (stdin or Path("/dev/null")).open("rb") as file:
        return subprocess.run(
            [sys.executable, "-m", "onebay", *map(str, argv)],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def openssl(*argv: str | Path) -> None:
    subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True, timeout=60)


def new_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a key as docs/rescue.md says."""
    key, public = folder / f"{name}.pem", folder / f"{name}.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    return key, public


def sign(given: Given, digest: str, signature: Path) -> None:
    """Sign as docs/rescue.md says."""
    text = given.image.with_suffix(".txt")
    text.write_text(f"onebay image {digest}\n")
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", given.key, "-in", text, "-out", signature)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("made")
    raw = bytearray(random.Random(7).randbytes(5 * MIB) + bytes(3 * MIB))
    raw[510:512] = b"\x55\xaa"
    (folder / "disk.img").write_bytes(raw)
    done = onebay("capture", folder / "disk.img", folder / "a.raw.zst", "--json")
    assert done.returncode == 0, done.stderr
    digest = "sha256:" + json.loads(done.stdout)["root"]
    return Given(folder / "a.raw.zst", bytes(raw), digest, *new_key(folder, "mine"))


@pytest.fixture
def given(made: Given, tmp_path: Path) -> Given:
    """The same in a folder of its own, without a signature."""
    image = tmp_path / "a.raw.zst"
    image.write_bytes(made.image.read_bytes())
    return Given(image, made.raw, made.digest, made.key, made.public)


def test_the_digest_is_that_of_the_root_frame(given: Given) -> None:
    """By hand (docs/image-format.md): the root is the last frame that the seek table counts."""
    data = given.image.read_bytes()
    count = int.from_bytes(data[-9:-5], "little")
    stored = int.from_bytes(data[-17:-13], "little")
    end = len(data) - 8 - 8 * count - 9
    assert given.digest == "sha256:" + hashlib.sha256(data[end - stored : end - 32]).hexdigest()


@pytest.mark.parametrize("verb", ["restore", "verify"])
def test_the_right_digest(given: Given, tmp_path: Path, verb: str) -> None:
    target = tmp_path / "target.img"
    argv = [target, "--no-grow"] if verb == "restore" else []
    done = onebay(verb, given.image, *argv, "--digest", given.digest)
    assert done.returncode == 0, done.stderr
    if argv:
        assert target.read_bytes() == given.raw


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--verify",)])
def test_another_digest_is_refused_before_anything_is_written(
    given: Given, tmp_path: Path, more: tuple[str, ...]
) -> None:
    target = tmp_path / "target.img"
    target.write_bytes(b"\xa5" * 8 * MIB)
    done = onebay("restore", given.image, target, "--yes", "--digest", f"sha256:{1:064x}", *more)
    assert done.returncode == 3
    assert given.digest in done.stderr
    assert done.stderr.endswith("nothing was written\n")
    assert target.read_bytes() == b"\xa5" * 8 * MIB
    assert onebay("verify", given.image, "--digest", f"sha256:{1:064x}").returncode == 3


def test_a_new_file_does_not_appear(given: Given, tmp_path: Path) -> None:
    done = onebay("restore", given.image, tmp_path / "new.img", "--digest", f"sha256:{1:064x}")
    assert done.returncode == 3
    assert not (tmp_path / "new.img").exists()


@pytest.mark.parametrize("good", [True, False])
def test_a_pipe_tells_at_its_end(given: Given, tmp_path: Path, good: bool) -> None:
    target = tmp_path / "target.img"
    digest = given.digest if good else f"sha256:{1:064x}"
    done = onebay("restore", "-", target, "--no-grow", "--digest", digest, stdin=given.image)
    if good:
        assert done.returncode == 0, done.stderr
        assert target.read_bytes() == given.raw
        return
    assert done.returncode == 3
    assert "cannot boot; it holds data of an image that was not meant" in done.stderr.splitlines()[-1]
    assert target.read_bytes()[510:512] != b"\x55\xaa"
    assert target.read_bytes()[512:MIB] == bytes(MIB - 512)


@pytest.mark.parametrize("text", ["sha256:12", "12" * 32, "md5:" + "0" * 64, "sha256:" + "g" * 64, ""])
def test_what_is_no_digest(given: Given, tmp_path: Path, text: str) -> None:
    done = onebay("restore", given.image, tmp_path / "new.img", "--digest", text)
    assert done.returncode == 2
    assert "no digest" in done.stderr


def test_signed(given: Given, tmp_path: Path) -> None:
    sign(given, given.digest, Path(f"{given.image}.sig"))
    target = tmp_path / "target.img"
    done = onebay("restore", given.image, target, "--no-grow", "--public-key", given.public)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == given.raw
    assert onebay("verify", given.image, "--public-key", given.public).returncode == 0


@pytest.mark.parametrize("what", ["another image", "another key", "flipped", "text"])
def test_not_signed(given: Given, tmp_path: Path, what: str) -> None:
    signature = Path(f"{given.image}.sig")
    sign(given, f"sha256:{1:064x}" if what == "another image" else given.digest, signature)
    public = new_key(tmp_path, "other")[1] if what == "another key" else given.public
    if what == "flipped":
        data = bytearray(signature.read_bytes())
        data[9] ^= 1
        signature.write_bytes(data)
    elif what == "text":
        signature.write_text("not found\n")
    target = tmp_path / "target.img"
    done = onebay("restore", given.image, target, "--public-key", public)
    assert done.returncode == 3, done.stderr
    assert "signature is not one over this image" in done.stderr
    assert done.stderr.endswith("nothing was written\n")
    assert not target.exists()


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("no signature", 7, "no such file"),
        ("empty", 7, "is no signature"),
        ("too long", 7, "is no signature"),
        ("no key", 3, "no such file"),
        ("a private key", 3, "openssl cannot check a signature with this key"),
    ],
)
def test_what_cannot_be_checked(given: Given, tmp_path: Path, what: str, code: int, says: str) -> None:
    signature = Path(f"{given.image}.sig")
    sign(given, given.digest, signature)
    public = {"no key": tmp_path / "none", "a private key": given.key}.get(what, given.public)
    if what == "no signature":
        signature.unlink()
    elif what in ("empty", "too long"):
        signature.write_bytes(b"" if what == "empty" else bytes(70_000))
    done = onebay("restore", given.image, tmp_path / "target.img", "--public-key", public)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "target.img").exists()


@pytest.mark.parametrize("good", [True, False])
def test_a_pipe_with_a_signature(given: Given, tmp_path: Path, good: bool) -> None:
    signature, target = tmp_path / "elsewhere.sig", tmp_path / "target.img"
    sign(given, given.digest if good else f"sha256:{1:064x}", signature)
    argv = ["restore", "-", target, "--no-grow", "--public-key", given.public]
    assert onebay(*argv, stdin=given.image).returncode == 2
    done = onebay(*argv, "--signature", signature, stdin=given.image)
    assert done.returncode == (0 if good else 3), done.stderr
    assert (target.read_bytes()[510:512] == b"\x55\xaa") is good


def test_a_signature_without_a_key(given: Given, tmp_path: Path) -> None:
    done = onebay("restore", given.image, tmp_path / "target.img", "--signature", "somewhere")
    assert done.returncode == 2
