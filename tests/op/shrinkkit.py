"""What the tests of shrinking share."""

from __future__ import annotations

from pathlib import Path

from onebay.block import open_disk
from onebay.ops.foldlayout import data_table
from onebay.sample.build import Sample
from onebay.tree import discover
from tests.story import onebay as plain


def larger(sample: Sample, folder: Path) -> Path:
    """The miniature on a disk of 1 GiB: kernels do not shrink a btrfs to less than 256 MiB."""
    image, disk = folder / "mini.raw.zst", folder / "larger.img"
    plain("capture", sample.data, image)
    plain("restore", image, disk, "--size", "1G")
    return disk


def partitions(disk: Path) -> dict[int, tuple[int, int]]:
    table = data_table(discover([open_disk(disk)]))
    return {part.number: (part.start, part.size) for part in table.partitions}


def carve(disk: Path, fs: Path) -> Path:
    """Copy the first partition out of a disk."""
    start, size = partitions(disk)[1]
    fs.write_bytes(open_disk(disk).read(start, size))
    return fs
