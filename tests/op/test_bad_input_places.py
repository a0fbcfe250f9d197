"""What a command may write to, and what it prints: nothing is lost, one document, one state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from badkit import (
    MIB,
    ONEBAY,
    afresh,
    blank,
    digest,
    fails,
    failure,
    golden,
    make_disk,
    onebay,
    patch,
    root,
    untouched,
)

from onebay.ops.target import MARK

SIZE, LARGER = 24 * MIB, 40 * MIB
WITHOUT_POWERS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sound disk and its image, which no test may change."""
    folder = tmp_path_factory.mktemp("sound")
    disk = make_disk(folder)
    onebay("capture", disk, folder / "image.raw.zst")
    with untouched(folder):
        yield folder


def test_existing_target_needs_yes(sound: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.img"
    target.write_bytes(b"somebody's only copy" * 4 * MIB)
    with untouched(tmp_path):
        fails(3, "restore", sound / "image.raw.zst", target, match="exists already")
        fails(3, "restore", "-", target, stdin=sound / "image.raw.zst", match="exists already")
    onebay("restore", sound / "image.raw.zst", target, "--yes", "--verify", "--no-grow")
    onebay("verify", sound / "image.raw.zst", "--against", target)


def test_a_file_without_data_needs_no_yes(sound: Path, tmp_path: Path) -> None:
    """Nothing is lost; also what a restore leaves that ended between making the file and its first write."""
    target = blank(tmp_path / "new.img", LARGER)
    onebay("restore", sound / "image.raw.zst", target, "--no-grow")
    with target.open("rb") as file:
        assert file.read(SIZE) == (sound / "disk.img").read_bytes()


def test_existing_image_needs_yes(sound: Path, tmp_path: Path) -> None:
    image = tmp_path / "old.raw.zst"
    image.write_text("old")
    with untouched(tmp_path):
        fails(3, "capture", sound / "disk.img", image, match="exists already")
    onebay("capture", sound / "disk.img", image, "--yes")
    onebay("verify", image)


def test_image_would_replace_the_disk(sound: Path, tmp_path: Path) -> None:
    disk, link = tmp_path / "disk.raw.zst", tmp_path / "link.raw.zst"
    shutil.copyfile(sound / "disk.img", disk)
    link.hardlink_to(disk)
    with untouched(tmp_path):
        for image in (disk, link):
            fails(3, "capture", disk, image, "--yes", match="would replace the disk")


def test_journal_never_over_a_file(sound: Path, tmp_path: Path) -> None:
    disk, other = tmp_path / "disk.img", tmp_path / "other"
    shutil.copyfile(sound / "disk.img", disk)
    shutil.copyfile(disk, other)
    os.truncate(disk, LARGER)
    with untouched(tmp_path):
        fails(3, "grow", disk, "--journal", other, match="no journal")
        fails(3, "grow", disk, "--journal", disk, match="another program is writing to it")
        fails(3, "grow", disk, "--journal", tmp_path, match="neither a disk image")
    onebay("grow", disk, "--journal", tmp_path / "journal")


def test_picture_never_over_a_disk(sound: Path, tmp_path: Path) -> None:
    disk, picture = tmp_path / "disk.img", tmp_path / "disk.svg"
    shutil.copyfile(sound / "disk.img", disk)
    with untouched(tmp_path):
        fails(3, "inspect", disk, "--svg", disk, match="no picture")
        fails(3, "inspect", disk, "--svg", "/dev/null", match="no picture")
        fails(3, "inspect", disk, "--svg", tmp_path, match="no picture")
        fails(3, "inspect", disk, "--svg", tmp_path / "no" / "where.svg", match="cannot write")
    for _ in range(2):
        onebay("inspect", disk, "--svg", picture)
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize("verb", ["restore", "capture", "fold"])
def test_bad_places_for_output(verb: str, sound: Path, tmp_path: Path) -> None:
    image, disk = sound / "image.raw.zst", sound / "disk.img"
    argv: dict[str, Callable[[Path], list[str | Path]]] = {
        "restore": lambda place: ["restore", image, place],
        "capture": lambda place: ["capture", disk, place],
        "fold": lambda place: ["fold", "--boot", disk, "--data", disk, "--output", place],
    }
    call = argv[verb]
    (tmp_path / "folder.raw.zst").mkdir()
    (tmp_path / "null.raw.zst").symlink_to("/dev/null")
    (tmp_path / "file").write_text("old")
    with untouched(tmp_path):
        for options in ((), ("--yes",)):
            fails(3, *call(tmp_path / "folder.raw.zst"), *options)
            fails(3, *call(tmp_path / "null.raw.zst"), *options)
        fails(3, *call(tmp_path / "no such folder" / "x.raw.zst"), match="no such folder")
        fails(3, *call(tmp_path / "file" / "x.raw.zst"), match="no such folder")
        fails(3, *call(tmp_path / f"{'n' * 300}.raw.zst"), match="file name too long")


@root
@pytest.mark.parametrize("verb", ["restore", "capture", "fold"])
def test_folder_that_cannot_be_written(verb: str, sound: Path, tmp_path: Path) -> None:
    folder, disk = tmp_path / "locked", sound / "disk.img"
    folder.mkdir(mode=0o555)
    argv: dict[str, list[str | Path]] = {
        "restore": ["restore", sound / "image.raw.zst", folder / "x"],
        "capture": ["capture", disk, folder / "x.raw.zst"],
        "fold": ["fold", "--boot", disk, "--data", disk, "--output", folder / "x"],
    }
    with untouched(tmp_path):
        failure(afresh(*argv[verb], status=3, prefix=WITHOUT_POWERS), "cannot be written")


@root
def test_files_that_may_not_be_read(sound: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    shutil.copyfile(sound / "disk.img", secret)
    secret.chmod(0)
    for argv in (["inspect", secret], ["restore", secret, tmp_path / "t"], ["grow", secret]):
        failure(afresh(*argv, status=7, prefix=WITHOUT_POWERS), "permission denied")


def test_target_too_small(sound: Path, tmp_path: Path) -> None:
    """The message says how small it may be; a target of that size is large enough. A pipe is not shrunk."""
    image, small, new = sound / "image.raw.zst", tmp_path / "small", tmp_path / "new"
    floor = onebay("shrink", image, "--dry-run", "--json").document["floor"]
    assert MIB < floor < SIZE
    small.write_bytes(b"\xaa" * (floor - 512))
    less = str(floor - MIB)
    with untouched(tmp_path):
        match = f"cannot be shrunk on the way: expected at least {SIZE}, found {floor - 512}"
        fails(3, "restore", "-", small, "--yes", stdin=image, match=match)
        for option in ((), ("--dry-run",)):
            for target in (new, small):
                size = less if target is new else str(floor - 512)
                match = f"cannot be so small: expected >= {floor} bytes, found {size}"
                fails(3, "restore", image, target, "--yes", "--size", less, *option, match=match)
            fails(3, "restore", image, small, "--yes", *option, match=f">= {floor} bytes")
    onebay("restore", image, new, "--size", str(floor), "--verify", "--no-grow")
    new.unlink()
    onebay("restore", image, new, "--size", str(SIZE), "--verify", "--no-grow")
    assert digest(new) == digest(sound / "disk.img")


def test_size_smaller_than_the_target(sound: Path, tmp_path: Path) -> None:
    target = tmp_path / "large"
    target.write_bytes(b"\xaa" * (LARGER))
    with untouched(tmp_path):
        fails(
            3,
            "restore",
            sound / "image.raw.zst",
            target,
            "--yes",
            "--size",
            str(LARGER - MIB),
            match="larger than --size",
        )


LOCALES: tuple[dict[str, str], ...] = (
    {"LC_ALL": "C"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    {"PYTHONIOENCODING": "gb2312:strict"},
)


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_names_that_are_no_text(locale: dict[str, str], tmp_path: Path) -> None:
    """Names are bytes; whatever they are, commands work and messages come out."""
    name = os.fsdecode(b"\xff\x1b[31m\n" + "磁盘 \N{PILE OF POO}".encode())
    disk = golden("mbr", "primary", tmp_path / name)
    env = {**os.environ, **locale}
    assert afresh("inspect", disk, "--json", status=0, env=env).document["format"] == 1
    afresh("inspect", disk, status=0, env=env)
    afresh("inspect", tmp_path / f"{name}, gone", status=7, env=env)
    afresh("capture", disk, tmp_path / f"{name}.raw.zst", status=0, env=env)
    afresh("restore", tmp_path / f"{name}.raw.zst", tmp_path / "copy", "--no-grow", status=0, env=env)
    assert digest(tmp_path / "copy") == digest(disk)


def test_a_name_like_an_option(tmp_path: Path) -> None:
    golden("mbr", "primary", tmp_path / "-x")
    afresh("inspect", "--", "-x", status=0, cwd=tmp_path)
    failure(afresh("inspect", "-x", status=2, cwd=tmp_path))


# What a command prints


def test_output_that_cannot_be_written(sound: Path, tmp_path: Path) -> None:
    full = Path("/dev/full")
    state = "what was asked for is done"
    failure(onebay("inspect", sound / "disk.img", stdout=full, status=3), "No space left", state)
    argv = ("restore", sound / "image.raw.zst", tmp_path / "copy", "--no-grow")
    failure(onebay(*argv, stdout=full, status=3), "No space left", state)
    assert digest(tmp_path / "copy") == digest(sound / "disk.img")


def test_json_is_one_document(sound: Path, tmp_path: Path) -> None:
    image = sound / "image.raw.zst"
    both = golden("gpt", "both-bad", tmp_path / "both-bad.img")
    document = onebay("inspect", both, "--json").document
    assert [finding["severity"] for finding in document["findings"]].count("damage") == 1
    grown = tmp_path / "grown"
    assert onebay("restore", image, grown, "--size", str(LARGER), "--json").document["size"] == LARGER
    assert onebay("grow", grown, "--json").document["steps"] == []  # full already
    assert onebay("grow", grown, "--json", "--dry-run").document["steps"] == []
    assert onebay("verify", image, "--json").document["disk_size"] == SIZE
    assert onebay("verify", image, "--against", sound / "disk.img", "--json").document["equal"]
    assert (
        onebay("capture", both, tmp_path / "both.raw.zst", "--json").document["disk_size"]
        == both.stat().st_size
    )
    assert onebay("capture", both, tmp_path / "x.raw.zst", "--json", "--dry-run").document["keep"]
    for argv in (["inspect", "gone"], ["grow", both], ["restore", "gone", "t"], ["verify", "gone"]):
        assert onebay(*argv, "--json", status=7 if "gone" in argv else 3).stdout == ""


def test_dry_run_writes_nothing(sound: Path, tmp_path: Path) -> None:
    image, disk = sound / "image.raw.zst", sound / "disk.img"
    larger = tmp_path / "larger.img"
    shutil.copyfile(disk, larger)
    os.truncate(larger, LARGER)
    with untouched(tmp_path):
        assert "nothing was written" in onebay("capture", disk, tmp_path / "x.raw.zst", "--dry-run").stdout
        assert onebay("restore", image, tmp_path / "new", "--size", str(LARGER), "--dry-run").stdout
        assert onebay("restore", image, larger, "--yes", "--dry-run", "--json").document["steps"]
        assert onebay("grow", larger, "--dry-run", "--yes", "--json").document["steps"]
        fails(3, "fold", "--boot", disk, "--data", disk, "--dry-run")
        assert (
            "bytes that matter" in onebay("restore", "-", tmp_path / "new", "--dry-run", stdin=image).stdout
        )
    onebay("grow", larger)
    assert digest(larger) != digest(disk)


def test_events_are_json_lines(sound: Path, tmp_path: Path) -> None:
    image = tmp_path / "x.raw.zst"
    for argv in (
        ["capture", sound / "disk.img", image],
        ["verify", image],
        ["restore", image, tmp_path / "copy", "--size", str(LARGER)],
        ["verify", image, "--against", sound / "disk.img"],
    ):
        events = [json.loads(line) for line in onebay(*argv, "--events").stderr.splitlines()]
        assert {event["version"] for event in events} == {1}
        assert {"began", "moved", "ended"} <= {event["event"] for event in events}, argv


def test_events_before_a_failure(sound: Path, tmp_path: Path) -> None:
    """A front end reads JSON lines up to the error, which is the rest."""
    copy = tmp_path / "copy"
    shutil.copyfile(sound / "disk.img", copy)
    patch(copy, 2 * MIB, b"\x99" * MIB)
    done = fails(5, "verify", sound / "image.raw.zst", "--against", copy, "--events", match="differs")
    lines = done.stderr.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("onebay: "))
    assert first > 0
    assert all(json.loads(line)["version"] == 1 for line in lines[:first])


def test_nobody_reads_the_events(sound: Path, tmp_path: Path) -> None:
    """A front end that died does not take the restore with it."""
    reader, writer = os.pipe()
    os.close(reader)
    argv = [*ONEBAY, "restore", str(sound / "image.raw.zst"), str(tmp_path / "copy")]
    ended = subprocess.run([*argv, "--no-grow", "--events"], stderr=writer, check=False)
    os.close(writer)
    assert ended.returncode == 0
    assert digest(tmp_path / "copy") == digest(sound / "disk.img")


def test_verify_against_a_wrong_disk(sound: Path, tmp_path: Path) -> None:
    image = sound / "image.raw.zst"
    other = make_disk(tmp_path / "other")
    changed, short, long = tmp_path / "changed", tmp_path / "short", tmp_path / "long"
    for copy in (changed, short, long):
        shutil.copyfile(sound / "disk.img", copy)
    patch(changed, 440, b"\x01")
    os.truncate(short, SIZE - MIB)
    os.truncate(long, SIZE + MIB)
    with untouched(tmp_path):
        fails(5, "verify", image, "--against", other, match="differs from the image in")
        fails(5, "verify", image, "--against", changed, match=r"at 0x0: differs from the image in 1 frames")
        fails(3, "verify", image, "--against", short, match="smaller")
        onebay("verify", image, "--against", long)


def test_another_images_marker_is_no_permission(sound: Path, tmp_path: Path) -> None:
    """Only the same restore goes on without --yes; what another one left half-written is somebody's."""
    target = tmp_path / "target.img"
    shutil.copyfile(sound / "disk.img", target)
    with target.open("r+b") as file:
        file.write((MARK + bytes(32).hex().encode()).ljust(512, b"\0"))
    with untouched(target):
        fails(3, "restore", sound / "image.raw.zst", target, match="exists already")
    onebay("restore", sound / "image.raw.zst", target, "--yes", "--no-grow")
    onebay("verify", sound / "image.raw.zst", "--against", target)


def test_dropping_a_journal_drops_nothing_else(sound: Path) -> None:
    with untouched(sound / "disk.img"):
        done = onebay("grow", sound / "disk.img", "--drop-journal")
    assert "no change was interrupted" in done.stdout
