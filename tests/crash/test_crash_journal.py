"""The journal itself: what is torn never counts, what is stale is refused, what counts is completed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, Step, Write
from onebay.block import FileVolume, Overlay, Volume
from onebay.ops.capture import look
from onebay.ops.fold import plan_fold
from onebay.ops.grow import grow, has_room, plan_grow
from onebay.ops.journal import FILE_SIZE, HEAD, MAGIC, MIB, Journal, refuse_pending
from onebay.ops.journalmark import find_mark
from onebay.ops.run import Plan, execute
from onebay.sample.build import Sample, build_mini
from tests.crash.disks import Judge, soiled
from tests.crash.recording import GRAIN, Content, Log, Recorder, Soiled, Writable
from tests.crash.shape import mattering

SIZE = 24 * MIB
AT = 3 * MIB


class Nothing(Volume):
    """Zeros."""

    name = "nothing"

    def __init__(self, size: int, sector_size: int = 512) -> None:
        self.size, self.sector_size = size, sector_size

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        return bytes(size)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError("never written")

    def flush(self) -> None:
        raise AssertionError("never flushed")


def disk_of(sector_size: int) -> Soiled:
    """A disk full of random bytes."""
    return Soiled(Nothing(SIZE, sector_size), SIZE, ExtentSet.single(0, SIZE))


def plan_for(disk: Volume) -> Plan:
    """Two ordinary writes and two that belong together, of odd sizes."""
    rng = random.Random(29)
    steps: list[Step] = [
        Write(disk, 2 * MIB, rng.randbytes(1536), "ext: new block groups"),
        Write(disk, 5 * MIB, rng.randbytes(512), "table: something else"),
        Flush(disk),
        Write(disk, AT, rng.randbytes(9 * GRAIN), "critical: ext: descriptors"),
        Flush(disk),
        Write(disk, AT + 40 * GRAIN, rng.randbytes(2 * GRAIN), "critical: ext: superblock"),
        Flush(disk),
    ]
    return Plan("grow", disk, steps)


def run(volume: Volume) -> Log:
    """Complete what waits, else carry the plan out, as a verb does."""
    disk = Recorder(volume)
    journal = Journal(disk)
    if redo := journal.pending():
        journal.replay(redo)
    execute(plan_for(disk), journal=journal)
    return disk.log()


def critical(volume: Volume) -> bytes:
    """What the critical writes change."""
    return volume.read(AT, 48 * GRAIN)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_every_cut_is_old_or_new(sector_size: int, tally: Counter[str], thorough: bool) -> None:
    """Also without running the plan again: where the journal counts the change happens, else it did not."""
    base = disk_of(sector_size)
    log = run(base)
    old, new = critical(base), critical(log.volume(log.final()))
    counted = False
    rng = random.Random(31)
    for number, content in enumerate(
        [*map(dict, log.prefixes()), *log.subsets(rng, 600 if thorough else 60)]
    ):
        disk = Overlay(log.volume(content))
        journal = Journal(disk)
        redo = journal.pending()
        if redo is not None:
            journal.replay(redo)
            assert journal.pending() is None
            counted = True
        assert critical(disk) in (old, new), number
        assert redo is None or critical(disk) == new
        tally["states"] += 1
        tally["with a journal"] += redo is not None
    assert counted


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_replay_that_is_cut_is_replayed(sector_size: int, tally: Counter[str]) -> None:
    log = run(disk_of(sector_size))
    new = critical(log.volume(log.final()))
    rng = random.Random(37)
    waiting = [dict(c) for c in log.prefixes() if Journal(log.volume(c)).pending()]
    assert len(waiting) > 8
    for content in waiting:
        second = Recorder(log.volume(content))
        journal = Journal(second)
        redo = journal.pending()
        assert redo is not None
        journal.replay(redo)
        inner = second.log()
        for after in inner.sample(rng, 40, 20):
            disk = Overlay(inner.volume(after))
            again = Journal(disk)
            if redo := again.pending():
                again.replay(redo)
            assert critical(disk) == new
            tally["states"] += 1
            tally["cut twice"] += 1


def committed() -> tuple[Log, Content]:
    """A run, and the state right after the journal came to count."""
    log = run(disk_of(512))
    state = next(dict(c) for c in log.prefixes() if Journal(log.volume(c)).pending())
    return log, state


def test_a_torn_head_or_body_never_counts() -> None:
    """Any sector of it missing, and any byte of it flipped."""
    log, state = committed()
    journal = Journal(log.volume(state))
    first = journal.head_at // GRAIN - 40
    mine = [sector for sector in state if first <= sector <= journal.head_at // GRAIN]
    assert len(mine) > 20
    for sector in mine:
        torn = {other: data for other, data in state.items() if other != sector}
        assert Journal(log.volume(torn)).pending() is None
    disk = Overlay(log.volume(state))
    head = disk.read(journal.head_at, HEAD.size)
    places = [*range(journal.head_at, journal.head_at + HEAD.size)]
    places += range(journal.head_at - int.from_bytes(head[16:24], "little"), journal.head_at, 7)
    for at in places:
        byte = disk.read(at, 1)
        disk.write(at, bytes([byte[0] ^ 4]))
        assert Journal(disk).pending() is None, hex(at)
        disk.write(at, byte)
    assert Journal(disk).pending() is not None


@pytest.mark.parametrize("at", [AT, AT + 8 * GRAIN, AT + 41 * GRAIN, 2 * MIB, 2 * MIB + 1535])
def test_a_stale_journal_is_refused(at: int) -> None:
    """The disk was used since: a sector of the change, or of what it stands on, is another one."""
    log, state = committed()
    disk = Recorder(log.volume(state))
    disk.write(at, b"used")
    disk.flush()
    before = disk.writes
    journal = Journal(disk)
    redo = journal.pending()
    assert redo is not None
    with pytest.raises(Refused, match="the disk was changed since"):
        journal.replay(redo)
    assert disk.writes == before
    disk.write(5 * MIB, b"no part of the change")


def test_what_the_change_does_not_stand_on_may_change() -> None:
    log, state = committed()
    disk = Overlay(log.volume(state))
    disk.write(5 * MIB, b"an array was assembled since, and its superblock written")
    disk.write(AT + 20 * GRAIN, b"between the writes of the change")
    journal = Journal(disk)
    redo = journal.pending()
    assert redo is not None
    journal.replay(redo)
    assert critical(disk)[: 9 * GRAIN] == critical(log.volume(log.final()))[: 9 * GRAIN]


def test_a_file_belongs_to_the_disk_with_its_mark(ext_sample: Sample) -> None:
    """Another disk, of another size or a twin of the same one, neither takes nor overwrites nor clears it."""
    log, held, state, kept = cut_with_a_file(ext_sample)
    size = log.base.size
    for other in (soiled(ext_sample, 96 * MIB), soiled(ext_sample, 160 * MIB)):
        disk, store = Recorder(other), Recorder(held.volume(kept))
        journal = Journal(disk, store)
        assert journal.pending() is None
        assert not journal.traces()
        refused(partial(grow, disk, store=store), f"an interrupted change of another disk, of {size} bytes")
        refused(partial(journal.commit, []), "an interrupted change of another disk")
        journal.erase()
        assert store.writes == 0
    again, store = Writable(log.volume(state)), Writable(held.volume(kept))
    grow(again, store=store)
    assert not Journal(again, store).traces()
    grow(Writable(soiled(ext_sample, 160 * MIB)), store=store)  # and now it is free


def cut_with_a_file(sample: Sample) -> tuple[Log, Log, Content, Content]:
    """A grow with its journal in a file, cut in the change: logs of disk and file, and their states then."""
    disk, store = Recorder(soiled(sample, 96 * MIB)), Recorder(Nothing(FILE_SIZE))
    grow(disk, store=store)
    log, held = disk.log(), store.log()
    waiting = [dict(c) for c in log.prefixes() if waits(log.volume(c))]
    return log, held, waiting[len(waiting) // 2], state_after(held, len(held.epochs) - 1, None)


def waits(disk: Volume) -> bool:
    """Whether the disk says that a change of it waits."""
    found = find_mark(disk)
    return found is not None and not found[1].settled


def test_no_file_where_the_disk_cannot_tell_of_it() -> None:
    """A disk without a place for the mark: nothing is written, neither to it nor to the file."""
    disk, store = Recorder(disk_of(512)), Recorder(Nothing(FILE_SIZE))
    refused(lambda: execute(plan_for(disk), journal=Journal(disk, store)), "no free sector before the first")
    assert store.writes == 0
    assert critical(disk) == critical(disk_of(512))


def test_no_room() -> None:
    small = Overlay(Nothing(2 * MIB))
    with pytest.raises(Refused, match="does not fit"):
        Journal(small).commit([Write(small, 0, bytes(4096), "critical: x")])
    assert small.pages == {}
    assert Journal(Overlay(Nothing(4096))).pending() is None


def test_hostile_heads() -> None:
    """A head that says anything it likes, with right digests, is nothing or a Refused, never a traceback."""
    rng = random.Random(41)
    for _ in range(400):
        disk = Overlay(Nothing(4 * MIB))
        body = rng.randbytes(rng.choice((0, 11, 12, 13, 100, 700)))
        numbers = [rng.choice((0, 1, 2, len(body), 1 << 31)) for _ in range(2)]
        size = rng.choice((len(body), len(body), 0, 1 << 40))
        raw = MAGIC + disk.size.to_bytes(8, "little") + size.to_bytes(8, "little")
        raw += b"".join(n.to_bytes(4, "little") for n in numbers) + sha256(body).digest()
        raw += sha256(raw).digest()
        at = Journal(disk).head_at
        disk.write(at - len(body), body)
        disk.write(at, raw)
        redo = Journal(disk).pending()
        assert redo is None or size == len(body)


@pytest.fixture(scope="module")
def ext_sample(cache: Path) -> Sample:
    return build_mini("v9-gpt-lvm-ext4", cache=cache)


def cut_in_the_journal(sample: Sample, store: Volume | None = None) -> tuple[Log, Content]:
    """A grow of the sample, cut when half of the critical writes were done."""
    disk = Recorder(soiled(sample, 96 * MIB))
    grow(disk, store=store)
    log = disk.log()
    journal = Journal(disk)
    final = log.final()
    head = journal.head_at // GRAIN
    states = [dict(c) for c in log.prefixes()]
    if store is None:
        states = [c for c in states if c.get(head) not in (None, final.get(head))]
    else:
        states = states[-40:-4]
    return log, states[len(states) // 2]


def refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(Refused, match=match):
        call()


def test_other_verbs_wait(ext_sample: Sample, tmp_path: Path) -> None:
    """Nobody folds into, or takes for whole, a disk whose change waits in its journal."""
    log, state = cut_in_the_journal(ext_sample)
    disk = Writable(log.volume(state))
    refused(lambda: refuse_pending(disk), "interrupted")
    boot = FileVolume(ext_sample.boot)
    refused(lambda: plan_fold(boot, disk, scratch=tmp_path), "interrupted")
    boot.close()
    grow(disk)
    refuse_pending(disk)
    assert look(disk).keep


def test_the_image_was_put_back(ext_sample: Sample) -> None:
    """Somebody writes the old image over a disk whose change waits: the journal must not half-change that."""
    log, state = cut_in_the_journal(ext_sample)
    disk = Writable(log.volume(state))
    old = FileVolume(ext_sample.data)
    for start, end in old.data(0, old.size):
        for at in range(start, end, MIB):
            disk.write(at, old.read(at, min(MIB, end - at)))
    for start in range(0, old.size, MIB):  # as dd does: holes too
        size = min(MIB, old.size - start)
        if disk.read(start, size) != old.read(start, size):
            disk.write(start, old.read(start, size))
    old.close()
    refused(lambda: grow(disk), "the disk was changed since")
    Journal(disk).erase()
    assert grow(disk).steps
    assert not plan_grow(disk).steps


def test_a_journal_in_a_file(
    ext_sample: Sample, tmp_path_factory: pytest.TempPathFactory, tally: Counter[str], thorough: bool
) -> None:
    """The disk alone is not enough then; with the file the same command completes it."""
    base = soiled(ext_sample, 96 * MIB)
    judge = Judge(ext_sample, base, tmp_path_factory.mktemp("judge"))
    disk, store = Recorder(base), Recorder(Nothing(FILE_SIZE))
    both: list[tuple[int, int]] = []
    disk_flush, store_flush = disk.flush, store.flush

    def note(flush: Callable[[], None]) -> Callable[[], None]:
        def noted() -> None:
            flush()
            both.append((len(disk.epochs), len(store.epochs)))

        return noted

    disk.flush, store.flush = note(disk_flush), note(store_flush)  # type: ignore[method-assign]
    grow(disk, store=store)
    log, held = disk.log(), store.log()
    final = log.final()
    matter = mattering(log.volume(final))
    rng = random.Random(43)
    both = sorted(set(both))
    for now, then in [*pairwise(both)] * (20 if thorough else 1):
        content = state_after(log, now[0] - 1, rng if then[0] > now[0] else None)
        kept = state_after(held, now[1] - 1, rng if then[1] > now[1] else None)
        again = Writable(log.volume(content))
        grow(again, store=Writable(held.volume(kept)))
        wrong = [
            s
            for s in log.universe
            if again.read(s * GRAIN, GRAIN) != expected(log, final, s)
            and matter.overlaps(s * GRAIN, (s + 1) * GRAIN)
        ]
        assert not wrong
        judge.file_system(again)
        tally["states"] += 1
        tally["with a journal in a file"] += 1
    judge.close()


def state_after(log: Log, epochs: int, rng: random.Random | None) -> Content:
    """The state after so many epochs, with a random half of the next one where that is being written."""
    content: Content = {}
    for epoch in log.epochs[:epochs]:
        for sector, data in epoch:
            log.put(content, sector, data)
    for sector, data in log.epochs[epochs] if epochs < len(log.epochs) else ():
        if rng is not None and rng.random() < 0.5:
            log.put(content, sector, data)
    return content


def expected(log: Log, final: Content, sector: int) -> bytes:
    """Content of a sector after the whole run."""
    return final.get(sector, log.before[sector])


def test_room_is_looked_for_before_anything_is_written(ext_sample: Sample) -> None:
    """A disk whose end is somebody's: refused with the way out, and nothing is written."""
    disk = Recorder(soiled(ext_sample, 96 * MIB))
    plan = plan_grow(disk)
    room = Journal(disk).room(8 * MIB)
    plan.steps.append(Write(disk, room.end - 4096, bytes(512), "somebody else's step"))
    before = disk.writes
    refused(lambda: has_room(plan, Journal(disk)), "no free space for the journal")
    refused(lambda: grow(disk, plan=plan), "no free space for the journal")
    assert disk.writes == before
    assert has_room(plan, Journal(disk, Writable(Nothing(FILE_SIZE))))
