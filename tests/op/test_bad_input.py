"""What is no disk, no image, no option: one clear error, the right exit code, and nothing is written."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from badkit import (
    MIB,
    afresh,
    fails,
    failure,
    make_disk,
    onebay,
    tool,
    untouched,
)

SIZE = 24 * MIB


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sound disk and its image, which no test may change."""
    folder = tmp_path_factory.mktemp("sound")
    disk = make_disk(folder)
    onebay("capture", disk, folder / "image.raw.zst")
    with untouched(folder):
        yield folder


def text(path: Path) -> None:
    path.write_text("dear diary, this is no disk\n")


def empty(path: Path) -> None:
    path.touch()


def bound(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def null(path: Path) -> None:
    path.symlink_to("/dev/null")


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def gone(path: Path) -> None:
    pass


NO_DISKS: dict[Callable[[Path], None], tuple[int, str]] = {
    text: (3, "no whole number of sectors"),
    empty: (3, "empty"),
    Path.mkdir: (3, "neither a disk image nor a block device"),
    os.mkfifo: (3, "neither a disk image nor a block device"),
    bound: (3, "neither a disk image nor a block device"),
    null: (3, "neither a disk image nor a block device"),
    endless: (3, "neither a disk image nor a block device"),
    dangling: (7, "no such file"),
    circle: (3, "symbolic links"),
    gone: (7, "no such file"),
}


@pytest.mark.parametrize("make", NO_DISKS, ids=lambda make: make.__name__)
def test_not_a_disk(make: Callable[[Path], None], sound: Path, tmp_path: Path) -> None:
    """As a disk to look at, to read, to write and to compare."""
    status, match = NO_DISKS[make]
    thing, image, disk = tmp_path / "thing", sound / "image.raw.zst", sound / "disk.img"
    make(thing)
    with untouched(tmp_path):
        fails(status, "inspect", thing, match=match)
        fails(status, "inspect", thing, "--json", match=match)
        fails(status, "capture", thing, tmp_path / "out.raw.zst", match=match)
        fails(status, "grow", thing, match=match if make is not text else "nothing that could grow")
        fails(3 if make is text else status, "verify", image, "--against", thing)
        fails(3 if make is text else status, "fold", "--boot", thing, "--data", disk, "--dry-run")
        fails(3 if make is text else status, "fold", "--boot", disk, "--data", thing, "--in-place")
        if make not in (gone, dangling, circle):  # a name that is free is a target to make
            fails(3, "restore", image, thing, "--yes")


@pytest.mark.parametrize(
    ("make", "status", "match"),
    [
        (text, 4, "not an image of onebay"),
        (empty, 5, "empty"),
        (Path.mkdir, 7, "folder"),
        (bound, 7, "cannot read"),
        (null, 5, "empty"),
        (endless, 4, "not an image of onebay"),
        (dangling, 7, "no such file"),
        (circle, 7, "symbolic links"),
        (gone, 7, "no such file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_not_an_image(make: Callable[[Path], None], status: int, match: str, tmp_path: Path) -> None:
    thing, target = tmp_path / "thing", tmp_path / "target"
    make(thing)
    with untouched(tmp_path):
        fails(status, "restore", thing, target, match=match)
        fails(status, "restore", thing, target, "--dry-run", match=match)
        fails(status, "verify", thing, match=match)


def test_a_disk_is_no_image(sound: Path, tmp_path: Path) -> None:
    fails(4, "restore", sound / "disk.img", tmp_path / "t", match="not an image of onebay")
    fails(4, "restore", "-", tmp_path / "t", stdin=sound / "disk.img", match="not an image of onebay")
    assert not list(tmp_path.iterdir())


def test_an_image_is_no_disk(sound: Path, tmp_path: Path) -> None:
    """It can be read like one, as a packed disk can, but not written."""
    image, other = tmp_path / "copy.raw.zst", tmp_path / "other.raw.zst"
    shutil.copyfile(sound / "image.raw.zst", image)
    tool("zstd", "-q", sound / "disk.img", "-o", other)
    with untouched(tmp_path):
        onebay("inspect", image)
        onebay("inspect", other)
        fails(4, "grow", image)
        fails(4, "grow", other, match="zstd")
        fails(4, "restore", image, image, "--yes", match="zstd")
        fails(3, "capture", image, image, "--yes", match="replace the disk")
    onebay("capture", image, tmp_path / "again.raw.zst")
    onebay("verify", tmp_path / "again.raw.zst", "--against", sound / "disk.img")


@pytest.mark.parametrize("content", [bytes(512), b"\xff" * 512, bytes(510) + b"\x55\xaa", b"EFI PART" * 64])
def test_one_sector(content: bytes, sound: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    with untouched(tmp_path):
        onebay("inspect", disk)
        fails(3, "grow", disk)
        fails(3, "restore", sound / "image.raw.zst", disk, "--yes", match="cannot be so small.*found 512")
        fails(3, "verify", sound / "image.raw.zst", "--against", disk, match="smaller")
    onebay("capture", disk, tmp_path / "one.raw.zst")
    onebay("restore", tmp_path / "one.raw.zst", tmp_path / "copy", "--no-grow", "--verify")
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize(
    "argv",
    [
        ["frobnicate"],
        ["inspect"],
        ["inspect", "d", "--nonsense"],
        ["inspect", "d", "--sector-size", "513"],
        ["capture", "d", "image.zip"],
        ["capture", "d", "i.raw.zst", "--level", "20"],
        ["capture", "d", "i.raw.zst", "--threads", "0"],
        ["restore", "i"],
        ["restore", "i", "t", "--size", "much"],
        ["restore", "i", "t", "--size", "-1"],
        ["restore", "i", "t", "--size", "0"],
        ["restore", "i", "t", "--size", "8388608T"],
        ["restore", "i", "t", "--size", "9" * 5000],
        ["fold", "--boot", "b"],
        ["fold", "--boot", "b", "--data", "d"],
        ["fold", "--boot", "b", "--data", "d", "--in-place", "--output", "o"],
        ["fold", "--boot", "b", "--data", "d", "--in-place", "--table", "dos"],
        ["verify"],
    ],
    ids=lambda argv: " ".join(argv)[:40],
)
def test_wrong_usage(argv: list[str]) -> None:
    fails(2, *argv)


def test_a_python_of_its_own(sound: Path, tmp_path: Path) -> None:
    """The forked commands of these tests end as a freshly started one does."""
    for status, argv in ((3, ["grow", "/dev/null"]), (7, ["inspect", "gone"]), (2, ["inspect"])):
        real = failure(afresh(*argv, status=status, cwd=tmp_path))
        assert real.stderr == fails(status, *argv).stderr
