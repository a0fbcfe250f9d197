"""A journal that is not where the next run would look: the disk became larger, or it is in a file."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.base.extent import ExtentSet
from onebay.base.step import Write
from onebay.block import FileVolume, Overlay, Volume
from onebay.ops.grow import grow, has_room, plan_grow
from onebay.ops.journal import FILE_SIZE, MIB, Journal, refuse_pending
from onebay.ops.journalmark import MAGIC, MARK, PLACES, Mark, find_mark, free_place, pack_mark, places
from onebay.sample.build import Sample, build_mini
from tests.crash.disks import Judge, soiled
from tests.crash.recording import Content, Log, Recorder, Replayed, Writable
from tests.crash.test_crash_journal import Nothing, waits

GROWTH = 96 * MIB
MORE = 64 * MIB


@pytest.fixture(scope="module", params=["v9-gpt-lvm-ext4", "v8-mbr-btrfs"])
def sample(request: pytest.FixtureRequest, cache: Path) -> Sample:
    return build_mini(request.param, cache=cache)


@pytest.fixture(scope="module")
def ext_sample(cache: Path) -> Sample:
    return build_mini("v9-gpt-lvm-ext4", cache=cache)


def marked_states(log: Log, base: Volume) -> Iterator[Content]:
    """Every state after a sector in which the disk says that a change waits."""
    for content in log.prefixes():
        if waits(Replayed(base, content, log.universe)):
            yield dict(content)


def test_the_disk_became_larger(sample: Sample, tmp_path: Path, tally: Counter[str], thorough: bool) -> None:
    """Between the cut and the second run, as an image file or a virtual disk does."""
    large = soiled(sample, GROWTH + MORE)
    disk = Recorder(Overlay(large, size=large.size - MORE))
    grow(disk)
    log = disk.log()
    judge = Judge(sample, large, tmp_path)
    rng = random.Random(53)
    marked = [*marked_states(log, large)]
    others = log.sample(rng, *((200, 100) if thorough else (4, 4)))
    picked = rng.sample(marked, min(len(marked), 60 if thorough else 5)) + others
    for content in picked:
        again = Writable(Replayed(large, content, log.universe))
        waiting = waits(again)
        grow(again)
        judge.file_system(again)
        judge.table(again)
        assert find_mark(again) is None
        assert not plan_grow(again).steps
        tally["states"] += 1
        tally["on a disk that became larger"] += 1
        tally["with a journal"] += waiting
    judge.close()
    if sample.layout.filesystem == "ext4":
        assert len(marked) > 20


def cut_with_a_file(sample: Sample) -> tuple[Log, Log, Content]:
    """A grow with its journal in a file, cut when the change is half done."""
    disk, store = Recorder(soiled(sample, GROWTH)), Recorder(Nothing(FILE_SIZE))
    store.name = "/mnt/stick/journal"
    grow(disk, store=store)
    log = disk.log()
    states = [*marked_states(log, log.base)]
    return log, store.log(), states[len(states) // 2]


def committed_file(held: Log) -> Replayed:
    """The journal's file as it is while the change is under way: before its head is cleared."""
    content: Content = {}
    for epoch in held.epochs[:-1]:
        for sector, data in epoch:
            held.put(content, sector, data)
    return held.volume(content)


def test_the_file_was_not_given(
    ext_sample: Sample, tmp_path: Path, tally: Counter[str], thorough: bool
) -> None:
    """At no cut does the second run go on without the file where it is needed; refused, it wrote nothing."""
    disk, store = Recorder(soiled(ext_sample, GROWTH)), Recorder(Nothing(FILE_SIZE))
    grow(disk, store=store)
    log, held = disk.log(), store.log()
    judge = Judge(ext_sample, log.base, tmp_path)
    rng = random.Random(59)
    marked = [*marked_states(log, log.base)]
    others = log.sample(rng, *((200, 100) if thorough else (6, 6)))
    for content in rng.sample(marked, 60 if thorough else 5) + others:
        again = Writable(log.volume(content))
        waiting = waits(again)
        if waiting:
            with pytest.raises(Refused, match="its journal is in a file"):
                grow(again)
            assert not again.pages
            grow(again, store=Writable(committed_file(held)))
        else:
            grow(again)
        judge.file_system(again)
        assert find_mark(again) is None
        tally["states"] += 1
        tally["without the journal's file"] += 1
        tally["with a journal in a file"] += waiting
    judge.close()


def test_what_is_said_of_the_file(ext_sample: Sample) -> None:
    log, held, state = cut_with_a_file(ext_sample)
    disk = Writable(log.volume(state))
    with pytest.raises(Refused, match="its journal is in a file: found /mnt/stick/journal") as caught:
        refuse_pending(disk)
    assert caught.value.hint == "onebay grow DISK --journal /mnt/stick/journal"
    with pytest.raises(Refused, match="this is not its journal"):
        Journal(disk, Writable(Nothing(FILE_SIZE))).pending()
    assert Journal(disk, Writable(committed_file(held))).pending() is not None
    assert not disk.pages


def test_a_journal_on_the_disk_is_found_where_a_file_is_given(ext_sample: Sample, tmp_path: Path) -> None:
    disk = Recorder(soiled(ext_sample, GROWTH))
    grow(disk)
    log = disk.log()
    states = [*marked_states(log, log.base)]
    again, store = Writable(log.volume(states[len(states) // 2])), Writable(Nothing(FILE_SIZE))
    grow(again, store=store)
    judge = Judge(ext_sample, log.base, tmp_path)
    judge.file_system(again)
    judge.close()
    assert not Journal(again).traces()


def marked(ext_sample: Sample) -> tuple[Log, Content]:
    """A grow whose journal is on the disk, cut when the change is half done."""
    disk = Recorder(soiled(ext_sample, GROWTH))
    grow(disk)
    log = disk.log()
    states = [*marked_states(log, log.base)]
    return log, states[len(states) // 2]


def test_a_journal_that_is_gone(ext_sample: Sample) -> None:
    """Somebody wrote over it: refused, until it is dropped; then the sector of the mark is as it was."""
    log, state = marked(ext_sample)
    disk = Recorder(log.volume(state))
    found = find_mark(disk)
    assert found is not None
    disk.write(found[1].head_at - 4096, b"used")
    before = disk.writes
    for call in (lambda: grow(disk), lambda: refuse_pending(disk)):
        with pytest.raises(Refused, match="its journal is gone"):
            call()
    assert disk.writes == before
    journal = Journal(disk)
    assert journal.traces()
    journal.erase()
    assert not journal.traces()
    assert journal.pending() is None
    assert disk.read(found[0], MARK.size) == bytes(MARK.size)


def test_a_disk_that_became_smaller(ext_sample: Sample) -> None:
    log, state = marked(ext_sample)
    disk = Overlay(log.volume(state), size=log.base.size - MIB)
    with pytest.raises(Refused, match="became smaller after a change of it was interrupted"):
        refuse_pending(disk)
    assert not disk.pages


def test_the_mark_stands_where_nobody_writes(ext_sample: Sample) -> None:
    """In a sector of zeros before the first partition, off the table; without one, no file is used."""
    disk = Writable(soiled(ext_sample, GROWTH))
    plan = plan_grow(disk)
    store = Journal(disk, Writable(Nothing(FILE_SIZE)))
    assert has_room(plan, store)
    first = free_place(disk, ExtentSet())
    assert first == places(disk)[0] < min(p["start"] * 512 for p in partitions(ext_sample))
    assert first == min(p["start"] * 512 for p in partitions(ext_sample)) - 512
    assert free_place(disk, ExtentSet.single(first, first + 1)) == first - 512
    for number in range(PLACES):
        disk.write(first - number * 512, b"somebody's")
    assert free_place(disk, ExtentSet()) is None
    with pytest.raises(Refused, match="no free sector before the first partition"):
        has_room(plan, store)
    assert has_room(plan, Journal(disk))


def test_beside_a_bios_boot_partition(tmp_path: Path) -> None:
    """That a conversion to GPT makes in the gap: the mark is found as before, off the partition."""
    path = tmp_path / "disk.img"
    with path.open("xb") as file:
        file.truncate(8 * MIB)
    subprocess.run(
        ["/usr/sbin/sfdisk", "-q", path],
        input=b"label: gpt\nfirst-lba: 34\nstart=40, size=2003, type=21686148-6449-6E6F-744E-656564454649\n"
        b"start=2048\n",
        check=True,
    )
    disk = FileVolume(path)
    assert places(disk) == [sector * 512 for sector in (2047, 2046, 2045, 2044, 2043, 39, 38, 37, 36, 35, 34)]
    disk.close()


def partitions(sample: Sample) -> list[dict[str, int]]:
    """The partitions as sfdisk listed them when the sample was made."""
    found: list[dict[str, int]] = json.loads(sample.golden["data.sfdisk.json"])["partitiontable"][
        "partitions"
    ]
    return found


def test_hostile_marks(ext_sample: Sample) -> None:
    """A mark that says anything, with a right digest, is a Refused and no traceback."""
    rng = random.Random(61)
    disk = Writable(soiled(ext_sample, GROWTH))
    at = places(disk)[0]
    for _ in range(200):
        head_at = rng.choice((0, 5, disk.size - 96, disk.size, 1 << 63, (1 << 64) - 1))
        raw = bytearray(pack_mark(disk, head_at, rng.randbytes(32), rng.choice((None, "x" * 500, "\x1b[2J"))))
        size = rng.choice((0, disk.size, disk.size + 1, (1 << 64) - 1))
        mark = MARK.unpack(raw)
        raw[:] = resealed(mark, disk_size=size, name_size=rng.choice((0, 3, 1 << 31)))
        disk.write(at, raw)
        for store in (None, Writable(Nothing(FILE_SIZE))):
            journal = Journal(disk, store)
            with pytest.raises(Refused) as caught:
                journal.pending()
            assert "\x1b" not in str(caught.value) + str(caught.value.hint)
            assert journal.traces()
        journal.erase()
        assert not journal.traces()
    disk.write(at, MAGIC)
    assert find_mark(disk) is None


def resealed(mark: Mark, **changes: int) -> bytes:
    """The bytes of a mark with other numbers and a right digest."""
    raw = MARK.pack(mark, **changes)[:-32]
    return raw + sha256(raw).digest()


def test_the_mark_keeps_off_the_change(ext_sample: Sample) -> None:
    """A change that writes into the sectors before the first partition itself is completed all the same."""
    base = soiled(ext_sample, GROWTH)
    disk = Recorder(base)
    at = places(disk)[0]
    write = Write(disk, at - 512, bytes([7]) * 1024, "critical: boot: core")
    journal = Journal(disk)
    journal.commit([write])
    disk.write(at, write.data[512:])
    disk.flush()
    redo = journal.pending()
    assert redo is not None
    journal.replay(redo)
    assert disk.read(at - 512, 1024) == write.data
    assert not journal.traces()
