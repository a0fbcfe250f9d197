"""The benchmark's runner on a tiny disk: real commands, a peer that fails, restores that are subtly wrong."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import page
from bench.check import check, places, used_runs
from bench.contest import Entry, Ready, Stage, capturing, restores, restoring, serving, simple
from bench.machine import machine, versions
from bench.make_files import Shape, fresh
from bench.measure import Job, Pipeline, measure, one
from bench.peers import Onebay, Peer, Zstd
from bench.run import contest
from bench.work import START, Work, look
from onebay.base import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE = Shape(24 << 20, 6 << 20, 1 << 20)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A disk of 24 MiB with an ext4, made as the large ones are."""
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    fresh(path, SHAPE)
    facts = look(path, SHAPE)
    return Work("tiny", path, SHAPE.size, 0, start=START, end=SHAPE.end, **facts)  # type: ignore[arg-type]


def quiet(text: str) -> None:
    """Say nothing."""


def entry(name: str, *programs: str) -> Entry:
    """Return an entry that runs a shell script."""
    return Entry(name, partial(simple, Job(tuple(one("sh", "-c", program) for program in programs)), []))


def test_the_disk_is_what_was_asked_for(disk: Work) -> None:
    assert disk.kind == "ext4"
    assert SHAPE.used < disk.used < SHAPE.size
    assert [(place.kind, place.start) for place in places(disk.disk)] == [("ext", START)]


def test_the_same_seed_makes_the_same_files(disk: Work, tmp_path: Path) -> None:
    fresh(tmp_path / "again.img", SHAPE)
    both = []
    for path in (disk.disk, tmp_path / "again.img"):
        where = tmp_path / path.stem
        where.mkdir()
        tool.run(["debugfs", "-R", f"rdump home {where}", f"{path}?offset={START}"])
        files = sorted(file for file in where.rglob("*") if file.is_file())
        both.append([(str(file.relative_to(where)), file.read_bytes()) for file in files])
    assert len(both[0]) > 10
    assert both[0] == both[1]


def test_a_peer_that_fails_is_reported_and_has_no_numbers(tmp_path: Path) -> None:
    """Also where it fails in a later round: the earlier one says nothing about a tool that does not work."""
    told: list[str] = []
    second = f"test ! -e {tmp_path}/once && touch {tmp_path}/once"
    entries = [entry("good", "true"), entry("bad", "echo cannot >&2; exit 5"), entry("later", second)]
    entries.append(Entry("absent", entries[0].ready, "not installed: absent"))
    found = contest(entries, 3, tmp_path, told.append, warm=True)
    assert len(found["good"]["rounds"]) == 3
    assert found["bad"]["rounds"] == []
    assert found["bad"]["failure"] == "sh ended with status 5; cannot"
    assert found["later"]["rounds"] == []
    assert "status 1" in found["later"]["failure"]
    assert found["absent"] == {"rounds": [], "checks": [], "failure": "", "skipped": "not installed: absent"}
    assert [line for line in told if "bad: failed" in line], "once, and not in every round"
    assert len([line for line in told if "bad" in line]) == 1


def test_missing_programs_are_named(disk: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Unheard(Peer):
        name = "unheard"
        programs = ("zstd", "no-such-program-of-ours")

    assert Unheard().lacks(disk, device=True) == "not installed: no-such-program-of-ours"


def test_no_image_no_restore(disk: Work, tmp_path: Path) -> None:
    """A peer that cannot capture does not restore either, and the reason is handed on."""

    class Broken(Zstd):
        name = "broken"

        def pack(self, source: Path, image: Path) -> Pipeline:
            return one("sh", "-c", "echo no space >&2; exit 1")

    assert (
        Stage(disk, tmp_path).no_image(Broken(), device=False) == "no image: sh ended with status 1; no space"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def restored(disk: Work, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What onebay restores, as a file."""
    folder = tmp_path_factory.mktemp("restored")
    stage = Stage(disk, folder)
    assert stage.no_image(Onebay(), device=False) == ""
    with restoring(stage, Onebay(), folder, device=False) as ready:
        assert ready.target is not None
        assert not measure(ready.job).failure
        return ready.target.read_bytes()


def test_a_true_restore_passes(disk: Work, restored: bytes, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(restored)
    findings = check(disk.disk, target, "disk")
    assert [finding.good for finding in findings] == [True, True, True]
    assert "bytes compared" in findings[2].text


def damaged_at(disk: Work) -> dict[str, int]:
    """Return where damage must be found: in a file, in the last used block, in both copies of the GPT."""
    runs = used_runs(disk.disk, places(disk.disk)[0])
    content = disk.disk.read_bytes()
    last = next(at for at in range(runs[-1][1] - 1, 0, -1) if content[at])
    middle = next(at for at in range(START + disk.used // 2, len(content)) if content[at])
    return {"middle": middle, "last": last, "table": 1024 + 56, "backup": disk.size - 512 + 24}


@pytest.mark.parametrize("where", ["middle", "last", "table", "backup"])
def test_one_wrong_bit_is_found(disk: Work, restored: bytes, tmp_path: Path, where: str) -> None:
    at = damaged_at(disk)[where]
    wrong = bytearray(restored)
    wrong[at] ^= 1

    @contextmanager
    def ready(scratch: Path) -> Iterator[Ready]:
        target = scratch / "target"
        (tmp_path / "wrong").write_bytes(wrong)
        job = Job((one("cp", tmp_path / "wrong", target),), (target,))
        yield Ready(job, [], target, partial(check, disk.disk, target, "disk"))

    found = contest([Entry("peer", ready)], 2, tmp_path, quiet, warm=True)["peer"]
    assert found["rounds"] == [], "a restore that is wrong has no time"
    assert found["failure"].startswith("what it made is wrong: ")


def test_free_space_does_not_matter(disk: Work, restored: bytes, tmp_path: Path) -> None:
    runs = used_runs(disk.disk, places(disk.disk)[0])
    free = next(end for (_, end), (start, _) in pairwise(runs) if start > end)
    other = bytearray(restored)
    other[free : free + 4096] = b"old" + bytes(4093)
    target = tmp_path / "target"
    target.write_bytes(other)
    assert all(finding.good for finding in check(disk.disk, target, "disk"))


def test_a_run_and_its_page(disk: Work, tmp_path: Path) -> None:
    """All who work on files capture, restore, are judged, and come into the table; over HTTP, too."""
    with serving(tmp_path) as url:
        stage = Stage(disk, tmp_path, url)
        numbers = contest(restores(stage, device=False), 1, tmp_path, quiet, warm=True)
        over_http = Entry("onebay", partial(restoring, stage, Onebay(), device=False, web=True))
        web = contest([over_http], 1, tmp_path, quiet, warm=True)
    assert not web["onebay"]["failure"]
    for name, own in numbers.items():
        assert own["failure"] == "", name
        assert own["skipped"] or own["rounds"][0]["wall"] > 0
        good = [finding["good"] for finding in own["checks"]]
        assert own["skipped"] or name.startswith("floor") or good == [True, True, True], name
    result = {
        "started": "2026-01-01T00:00:00",
        "size": "small",
        "rounds": 1,
        "versions": versions(),
        "machine": machine(tmp_path),
        "works": {"tiny": {"verbs": {"restore": numbers}}},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    text = tmp_path / "bench.md"
    text.write_text("before\n" + "old\n".join(page.MARKS) + "after\n")
    page.write(tmp_path / "result.json", text)
    page.write(tmp_path / "result.json", text)
    written = text.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "| tiny | restore | " in written
    assert "old" not in written
    svg = (tmp_path / "bench-restore.svg").read_text()
    assert svg.count('fill="#0a6"') == 1
    assert ">onebay<" in svg


def test_memory_of_onebay_is_bounded(disk: Work, tmp_path: Path) -> None:
    with capturing(Stage(disk, tmp_path), Onebay(), tmp_path, device=False) as ready:
        done = measure(ready.job)
    assert not done.failure
    assert 10 << 20 < done.largest < 300_000_000
    assert done.cpu > 0
