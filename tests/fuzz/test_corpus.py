"""Everything that fuzzing ever found, again: one small file a finding; and the harness holds what it says."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from fuzz import watch
from fuzz.disk import Disk, WroteError, dump, load, paged
from fuzz.recipe import Window
from fuzz.seeds import seed
from fuzz.targets import ByteTarget, DiskTarget, everything

HERE = Path(__file__).parent
TARGETS = everything()
FOUND = sorted(path for path in HERE.glob("*/*") if path.suffix in (".case", ".bin"))
MEMORY = 256 << 20


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_was_found_stays_mended(path: Path) -> None:
    tracemalloc.start()
    try:
        with watch.watched(2 * watch.SECONDS):
            TARGETS[path.parent.name].replay(path.read_bytes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


def test_every_finding_has_its_target() -> None:
    folders = {path.name for path in HERE.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_unchanged_seeds_are_no_findings(name: str) -> None:
    target = TARGETS[name]
    if isinstance(target, ByteTarget):
        for start in target.own_starts():
            target.try_input(start)
        return
    for one in target.seed_names[:3]:
        target.run(Disk(seed(one)))


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_reached_once(name: str) -> None:
    """Inputs that between them reach what fuzzing reached; nothing but Error may escape."""
    for data in TARGETS[name].kept_starts():
        with watch.watched(2 * watch.SECONDS):
            TARGETS[name].try_input(data)


def test_what_is_kept_is_what_was_run() -> None:
    target = TARGETS["gpt"]
    assert isinstance(target, DiskTarget)
    # sector 1, eight bytes of the first partition entries; then the disk cut
    data = bytes([7, 0, 0 << 3 | 1, 0x10, 2, 0, 0xAA, 3 << 3 | 2, 0x40, 2, 0x80, 99])
    disk = target.prepare(data)
    again = load(target.keep(data).decode(), disk.seed)
    assert disk.changed
    assert (again.size, again.sector_size) == (disk.size, disk.sector_size)
    pages = {*disk.changed, *again.changed}
    assert [again.page(n) for n in pages] == [disk.page(n) for n in pages]
    assert dump(again) == dump(disk)


def test_checksums_are_mended() -> None:
    """A changed name in a volume group is seen, and not only a wrong checksum."""
    target = TARGETS["lvm"]
    assert isinstance(target, DiskTarget)
    disk = Disk(seed("lvm/dsm"))
    before = dump(disk)
    disk.reads = []
    target.run(disk)
    reads = Window(disk.reads).reads
    at = next(at for at, size in reads if disk.peek(at, size).lstrip().startswith(b"vg"))
    disk.put(at, b"xy")
    assert target.mender is not None
    target.mender(disk, reads)
    assert len(dump(disk).splitlines()) == len(before.splitlines()) + 3  # the name, two checksums


def test_who_writes_is_found() -> None:
    disk = Disk(seed("disk/files"))
    for write in (lambda: disk.write(0, b"x"), lambda: disk.zero(0, 1), disk.flush):
        with pytest.raises(WroteError):
            write()


def test_who_takes_too_long_is_found() -> None:
    def forever() -> None:
        with watch.watched(0.05):
            while True:
                pass

    with pytest.raises(watch.TooSlowError):
        forever()


@pytest.mark.parametrize("step", [1, 4095, 4096, 10_000, 1 << 20])
def test_pages_are_the_stream(step: int) -> None:
    content = bytes(5000) + b"abc" * 3000 + bytes(20_000) + b"z"
    size, pages = paged(content[at : at + step] for at in range(0, len(content), step))
    assert size == len(content)
    assert b"".join(pages.get(n, bytes(4096)) for n in range(9))[:size] == content
    assert all(any(page) for page in pages.values())
