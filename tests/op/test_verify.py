"""verify --against a disk that has grown: what growing wrote is named, the rest is a difference of data."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from onebay.base.error import Inconsistent
from onebay.base.extent import ExtentSet
from onebay.block import Overlay, open_disk
from onebay.image import Image
from onebay.ops.verify import Growth, verify_against
from onebay.sample.build import build_mini
from onebay.source import open_source
from tests.op.badkit import fails, make_disk, onebay, tool, untouched

MIB = 1 << 20
SIZE = 40 * MIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("verify"), size=SIZE, random=3 * MIB, label="gpt")


@pytest.fixture(scope="module")
def image(disk: Path) -> Path:
    path = disk.with_name("disk.raw.zst")
    onebay("capture", disk, path)
    return path


@pytest.fixture(scope="module")
def grown(image: Path) -> Path:
    path = image.with_name("grown.img")
    onebay("restore", image, path, "--size", "300M")
    return path


def test_what_growing_wrote_is_named(image: Path, grown: Path, tmp_path: Path) -> None:
    qcow2 = tmp_path / "grown.qcow2"
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", grown, qcow2)
    with untouched(grown, qcow2):
        told = onebay("verify", image, "--against", grown, "--json").document
        assert (
            onebay("verify", image, "--against", qcow2, "--json").document["explained"] == told["explained"]
        )
    why = [entry["why"] for entry in told["explained"]]
    assert any(text.startswith("let p1 end at") for text in why)
    assert any(text.startswith("ext: superblock") for text in why)
    assert told["equal"] + sum(entry["size"] for entry in told["explained"]) == kept(image).size


def test_growth_into_free_space_of_a_disk_of_the_same_size(image: Path, tmp_path: Path) -> None:
    loose, again, full = tmp_path / "loose.img", tmp_path / "loose.raw.zst", tmp_path / "full.img"
    onebay("restore", image, loose, "--size", "300M", "--no-grow")
    onebay("capture", loose, again)
    onebay("restore", again, full)
    assert full.stat().st_size == loose.stat().st_size
    told = onebay("verify", again, "--against", full, "--json").document
    assert any(entry["why"].startswith("ext: superblock") for entry in told["explained"])


def kept(image: Path) -> ExtentSet:
    """What matters of an image's disk."""
    with closing(open_source(str(image))) as source:
        return Image.open(source).keep


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_no_flipped_bit_is_explained(image: Path, grown: Path, tmp_path: Path) -> None:
    """In data, in metadata that growing left alone, and in metadata that it wrote; only times may differ."""
    copy = tmp_path / "copy.img"
    shutil.copyfile(grown, copy)
    keep = kept(image)
    fs = MIB
    times = {fs + 1024 + n for n in (*range(0x30, 0x34), 0x274, *range(0x3FC, 0x400))}
    places = [at for at in range(fs + 1024, fs + 2048, 173) if at not in times]
    rng = random.Random(4)
    extents = list(keep)
    for _ in range(8):
        extent = rng.choice(extents)
        places.append(rng.randrange(extent.start, extent.end))
    places += [440, 446, 512 + 16, 1024 + 40]
    for at in places:
        assert keep.overlaps(at, at + 1)
        flip(copy, at)
        done = fails(5, "verify", image, "--against", copy)
        assert "differs from the image in 1 frames" in done.stderr or "damaged" in done.stderr
        flip(copy, at)
    onebay("verify", image, "--against", copy)


EXT = {
    "plain": ("-O", "^metadata_csum"),
    "checksums": (),
    "blocks-1k": ("-b", "1024"),
    "inodes-128": ("-I", "128"),
    "inodes-512": ("-I", "512", "-O", "^metadata_csum"),
    "meta_bg": ("-O", "meta_bg,^resize_inode"),
    "moved": ("-O", "^resize_inode", "-b", "1024"),
    "bigalloc": ("-O", "bigalloc,^resize_inode"),
}


@pytest.mark.parametrize("name", EXT)
def test_only_the_time_of_day_may_differ_in_what_resize2fs_wrote(name: str, tmp_path: Path) -> None:
    """Bytes 8 to 19 of every 128 are times in inodes, and anything else in bitmaps and descriptors."""
    fs, files, path, image = (tmp_path / part for part in ("fs", "files", "grown.img", "fs.raw.zst"))
    files.mkdir()
    (files / "content").write_bytes(random.Random(3).randbytes(MIB))
    tool("mke2fs", "-q", "-t", "ext4", *EXT[name], "-d", files, fs, "200m")
    onebay("capture", fs, image)
    onebay("restore", image, path, "--size", "500M")
    tool("e2fsck", "-fn", path)
    time.sleep(1.1 - time.time() % 1)  # a second run of resize2fs says another time
    with closing(open_source(str(image))) as source, closing(open_disk(path)) as disk:
        opened = Image.open(source)
        assert verify_against(opened, disk).explained
        places = list(flips(fs, path, opened.keep))
        assert len(places) > 20
        growth = Growth(opened, disk.size)
        for at in places:
            view = Overlay(disk)
            view.write(at, bytes([disk.read(at, 1)[0] ^ 0xFF]))
            sector = ExtentSet.single(at // 512 * 512, at // 512 * 512 + 512)
            left = sector - ExtentSet.of(part for _, found in growth.explain(sector, view) for part in found)
            assert left == sector, hex(at)
        for at in random.Random(name).sample(places, 3):
            view = Overlay(disk)
            view.write(at, bytes([disk.read(at, 1)[0] ^ 0xFF]))
            with pytest.raises(Inconsistent):
                verify_against(opened, view)


def flips(old: Path, new: Path, keep: ExtentSet) -> Iterator[int]:
    """Places in every sector that growing changed, as e2fsprogs names the fields that they are not in."""
    told = tool("dumpe2fs", new)
    size = int(found[1]) if (found := re.search(r"Block size: +(\d+)", told)) else 0
    supers = [1024, *(int(n) * size for n in re.findall(r"Backup superblock at (\d+)", told))]
    times = {at + n for at in supers for n in (*range(0x30, 0x34), *range(0x40, 0x44), 0x274, 0x277)}
    if found := re.search(r"block (\d+), offset 0x([0-9a-f]+)", tool("debugfs", "-R", "imap <7>", new)):
        inode = int(found[1]) * size + int(found[2], 16)
        times |= {inode + n for n in (*range(0x08, 0x14), *range(0x84, 0x98))}
    with old.open("rb") as before, new.open("rb") as after:
        for start, end in keep.clip(0, old.stat().st_size):
            before.seek(start)
            after.seek(start)
            one, two = before.read(end - start), after.read(end - start)
            for at in range(0, end - start, 512):
                if one[at : at + 512] != two[at : at + 512]:
                    wanted = (0x08, 0x0A, 0x13, 0x3A, 0x7C, 0x82, 0x88, 0x94, 0x10A, 0x174, 0x1FC)
                    yield from (start + at + n for n in wanted if start + at + n not in times)


def test_changed_files_are_not_growth(image: Path, grown: Path, tmp_path: Path) -> None:
    copy, fs = tmp_path / "copy.img", tmp_path / "fs"
    shutil.copyfile(grown, copy)
    tool("dd", f"if={copy}", f"of={fs}", "bs=1M", "skip=1")
    tool("debugfs", "-w", "-R", "rm random", fs)
    tool("dd", f"if={fs}", f"of={copy}", "bs=1M", "seek=1", "conv=notrunc")
    fails(5, "verify", image, "--against", copy, match=r"in p1 \(ext4\)")


@pytest.mark.parametrize("layout", ["shr-mbr-lvm-btrfs", "v8-mbr-btrfs", "v9-gpt-lvm-ext4"])
def test_all_layouts(layout: str, cache: Path, tmp_path: Path) -> None:
    """md, LVM, btrfs and ext4 grown on one another: every difference is one that growing makes."""
    sample = build_mini(layout, cache=cache)
    image, grown = tmp_path / "i.raw.zst", tmp_path / "grown.img"
    onebay("capture", sample.data, image)
    onebay("restore", image, grown, "--size", "3G")
    told = json.loads(onebay("verify", image, "--against", grown, "--json").stdout)
    assert any(entry["why"].startswith("md: the array is") for entry in told["explained"])
    assert told["equal"] > 100 * sum(entry["size"] for entry in told["explained"])
