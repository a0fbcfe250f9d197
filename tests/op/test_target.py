"""A restore's target: never bootable before it is whole, whatever write the power fails after."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from onebay.base.error import BadChecksum, Refused
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, create_disk
from onebay.image import Facts, write_image
from onebay.ops.restore import open_image
from onebay.ops.restore import restore as restore_image
from onebay.ops.target import HEAD, MARK, Target
from onebay.source import open_source

MIB = 1 << 20
SIZE = 6 * MIB
IDENTITY = bytes(range(32))


class Cut(Exception):  # noqa: N818
    """The power failed."""


class Failing(FileVolume):
    """A file whose power fails before write number `limit`."""

    limit = 1 << 30

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        self.limit -= 1
        if self.limit < 0:
            raise Cut
        super().write(at, data)

    def zero(self, at: int, size: int) -> None:
        self.limit -= 1
        if self.limit < 0:
            raise Cut
        super().zero(at, size)


def content(rng: random.Random) -> tuple[bytes, ExtentSet, ExtentSet]:
    """A disk with a boot signature, a table in the middle and one at the end, and what matters of it."""
    data = bytearray(rng.randbytes(SIZE))
    data[510:512] = b"\x55\xaa"
    data[3 * MIB : 4 * MIB] = bytes(MIB)
    keep = ExtentSet.of([(0, 70000), (2 * MIB, 5 * MIB), (SIZE - 33 * 512, SIZE)])
    late = ExtentSet.of([(0, 512), (2 * MIB + 512, 2 * MIB + 1024), (SIZE - 33 * 512, SIZE)])
    return bytes(data), keep, late


def restore(disk: FileVolume, data: bytes, keep: ExtentSet, late: ExtentSet) -> bool:
    target = Target(disk, keep, late, IDENTITY, image_size=SIZE)
    resumed = target.begin()
    for at in range(0, SIZE, 2 * MIB):
        frame = data[at : at + 2 * MIB]
        if resumed and target.same(at, frame):
            target.hold(at, frame)
        else:
            target.put(at, frame, known_zero=False)
    target.finish()
    return resumed


def test_every_cut_is_unbootable_and_completes(tmp_path: Path) -> None:
    data, keep, late = content(random.Random(1))
    path = tmp_path / "disk"
    for limit in range(40):
        path.unlink(missing_ok=True)
        path.write_bytes(random.Random(limit).randbytes(8 * MIB))
        old = path.read_bytes()
        disk = Failing(path, writable=True)
        disk.limit = limit
        try:
            restore(disk, data, keep, late)
        except Cut:
            sector = disk.read(0, 512)
            assert sector == old[:512] or sector.startswith(MARK), limit
            disk.limit = 1 << 30
            assert restore(disk, data, keep, late) == sector.startswith(MARK)
        else:
            assert limit > 8, "the whole restore took fewer writes than it has barriers"
            disk.close()
            break
        for start, end in keep:
            assert disk.read(start, end - start) == data[start:end]
        disk.close()
    else:
        pytest.fail("the restore never came to its end")


def test_another_image_starts_over(tmp_path: Path) -> None:
    data, keep, late = content(random.Random(2))
    disk = create_disk(tmp_path / "disk", SIZE)
    assert not Target(disk, keep, late, IDENTITY, image_size=SIZE).begin()
    assert Target(disk, keep, late, IDENTITY, image_size=SIZE).begin()
    assert not Target(disk, keep, late, bytes(32), image_size=SIZE).begin()
    assert not restore(disk, data, keep, late)
    assert disk.read(HEAD, MIB) == bytes(MIB)  # nobody cares about it, so nobody wrote it


def test_too_small(tmp_path: Path) -> None:
    disk = create_disk(tmp_path / "disk", SIZE - 512)
    with pytest.raises(Refused, match=str(SIZE)):
        Target(disk, ExtentSet(), ExtentSet(), IDENTITY, image_size=SIZE)


def test_a_disk_that_loses_its_table_at_the_end_is_not_called_unbootable(tmp_path: Path) -> None:
    """Everything is written when the late parts are read back: nothing goes on from there."""

    class Forgetful(FileVolume):
        """Loses its boot sector when its cache is dropped for the second time."""

        dropped = 0

        def forget(self) -> None:
            self.dropped += 1
            if self.dropped == 2:
                self.write(0, bytes(512))

    data, keep, _ = content(random.Random(4))
    source = create_disk(tmp_path / "source.img", SIZE)
    source.write(0, data)
    write_image(source, tmp_path / "image.raw.zst", keep=keep, facts=Facts(name="disk", created=""))
    create_disk(tmp_path / "target.img", SIZE).close()
    target = Forgetful(tmp_path / "target.img", writable=True)
    with pytest.raises(BadChecksum) as caught:
        restore_image(open_image(open_source(str(tmp_path / "image.raw.zst"))), target, verify=True)
    assert caught.value.state.endswith("is written, but does not hold what the image says")
