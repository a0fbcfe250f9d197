"""Images cut short or with a flipped bit, from a file, a pipe and over HTTP: no disk ever boots from them.

What can be seen before the target is touched is refused then; what only shows on the way leaves a disk that
says that it is not complete, and the same command over a good image completes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from badkit import MIB, Done, digest, fails, failure, make_disk, onebay, run, tool, untouched

sys.path.append(str(Path(__file__).parents[1] / "store"))
from server import Object, Server

MARK = b"onebay: this restore is not complete"
INCOMPLETE = "is incomplete and cannot boot; the same command run again goes on"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sound disk and its image, which no test may change."""
    folder = tmp_path_factory.mktemp("sound")
    disk = make_disk(folder, size=40 * MIB, random=8 * MIB)
    onebay("capture", disk, folder / "image.raw.zst")
    with untouched(folder):
        yield folder


@pytest.fixture
def image(sound: Path, tmp_path: Path) -> Path:
    """The image, to be damaged."""
    copy = tmp_path / "image.raw.zst"
    copy.write_bytes((sound / "image.raw.zst").read_bytes())
    return copy


def from_file(image: Path, *argv: str | Path) -> Done:
    return run("restore", image, *argv)


def from_pipe(image: Path, *argv: str | Path) -> Done:
    """Through a real pipe, which has no end to look at first."""
    fifo = image.with_suffix(".pipe")
    os.mkfifo(fifo)
    writer = subprocess.Popen(["sh", "-c", f"cat '{image}' > '{fifo}'"], stderr=subprocess.DEVNULL)
    try:
        return run("restore", "-", *argv, stdin=fifo)
    finally:
        writer.kill()
        writer.wait()
        fifo.unlink()


def from_web(image: Path, *argv: str | Path) -> Done:
    with Server(Object(image.read_bytes())) as server:
        return run("restore", server.url, *argv)


def from_web_without_ranges(image: Path, *argv: str | Path) -> Done:
    with Server(Object(image.read_bytes(), ranges=False)) as server:
        return run("restore", server.url, *argv)


WAYS: list[Callable[..., Done]] = [from_file, from_pipe, from_web, from_web_without_ranges]
every_way = pytest.mark.parametrize("restore", WAYS, ids=lambda way: way.__name__)


def judge(done: Done, target: Path) -> None:
    """Check that a damaged image failed and what it left: nothing at all, or what cannot boot."""
    assert done.status == 5, done
    if target.exists():
        failure(done, state=INCOMPLETE)
        with target.open("rb") as file:
            head = file.read(512)
        assert head.startswith(MARK)
        assert head[510:] != b"\x55\xaa"
        assert "does not contain" in tool("sfdisk", "--dump", target, ok=(0, 1))
    else:
        failure(done)


@every_way
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999, 1.0])
def test_cut_short(restore: Callable[..., Done], share: float, image: Path, sound: Path) -> None:
    size = image.stat().st_size
    os.truncate(image, min(size - 1, int(size * share)))
    target = image.with_name("target")
    with untouched(image):
        judge(restore(image, target), target)
    completes(sound, target)


def completes(sound: Path, target: Path) -> None:
    """The same command over a good image completes what is there."""
    left = target.exists()
    done = onebay("restore", sound / "image.raw.zst", target, "--no-grow", "--json")
    assert done.document["resumed"] == left
    assert digest(target) == digest(sound / "disk.img")


@every_way
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.97, 0.9999])
def test_one_bit_flipped(restore: Callable[..., Done], share: float, image: Path, sound: Path) -> None:
    data = bytearray(image.read_bytes())
    at = int(len(data) * share)
    data[at] ^= 0x10
    image.write_bytes(data)
    target = image.with_name("target")
    with untouched(image):
        done = restore(image, target, "--no-grow")
        verified = run("verify", image)
    if done.status == 4:  # the bit was in the mark of the file: no image at all
        assert share == 0.0
        failure(done)
        assert not target.exists()
        return
    judge(done, target)
    failure(verified)
    assert verified.status == 5
    completes(sound, target)


def test_two_images_one_after_the_other(image: Path) -> None:
    image.write_bytes(image.read_bytes() * 2)
    for restore in (from_file, from_pipe):
        target = image.with_name(restore.__name__)
        done = restore(image, target, "--no-grow")
        assert done.status in (4, 5), done
        if target.exists():
            judge(done, target)


def test_damage_is_seen_before_the_target_is_touched(image: Path, tmp_path: Path) -> None:
    """Where an image can be read at random, a damaged index is seen before the target is opened."""
    os.truncate(image, image.stat().st_size - 1)
    target = tmp_path / "old.img"
    target.write_bytes(b"\xaa" * (48 * MIB))
    with untouched(target):
        done = fails(5, "restore", image, target, "--yes")
        assert "image.raw.zst" in done.stderr


@pytest.mark.parametrize(
    ("make", "status", "match"),
    [
        (lambda: Object(b"", statuses=[404]), 7, "404|no such|not there"),
        (lambda: Object(b"", statuses=[403]), 7, "denied|403"),
        (lambda: Object(b"", password="Basic x"), 7, "401|denied|credentials"),
        (lambda: Object(b""), 5, "empty"),
        (lambda: Object(b"<html>sign in</html>" * 99), 4, "not an image of onebay"),
    ],
    ids=["gone", "forbidden", "password", "empty", "a page"],
)
def test_the_web_has_something_else(
    make: Callable[[], Object], status: int, match: str, tmp_path: Path
) -> None:
    with Server(make()) as server:
        fails(status, "restore", server.url, tmp_path / "target", match=match)
        assert server.url.split("/")[2] in server.host
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.1:9/x.raw.zst", 7),
        ("ftp://127.0.0.1/x", 4),
        ("http://", 4),
        ("http://[::1/x", 4),
    ],
)
def test_no_such_server(url: str, status: int, tmp_path: Path) -> None:
    fails(status, "restore", url, tmp_path / "target")
    assert not list(tmp_path.iterdir())
