#!/usr/bin/env python3
"""Write docs/resize.md from what each layer says of itself; a test says when it is out of date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onebay.layer import Layer
from onebay.stack.lvm.read import LonePv
from onebay.table import Table
from onebay.tree import PROBES

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).parents[1] / "docs" / "resize.md"
ORDER = [probe.kind for probe in PROBES]
SKIPPED = (Table, LonePv)  # what others are made of, and what is never alone on a disk that grows
HEAD = """# What can grow and shrink where

Each layer says it of itself; this page is written from that by `make docs`. Growth goes bottom-up, from
the table to the file system on the last data partition, and stops with a note at the first layer that
keeps its size: what stands below it has grown by then, what stands on it is as it was. In an appliance's
layout only the data volume ever changes, never the system's partitions.

| layer | grows | shrinks |
|---|---|---|
"""
TAIL = """
**Where it runs.** Image files and block devices, without root for files: nothing is mounted. What only a
kernel can do is done by the small virtual machine's kernel on a copy-on-write view of the disk; the bytes
that it changed become steps like all others, so that `--journal`, a power cut and running again work the
same. The virtual machine is built from packages on first use (about two minutes; `--cache` says where).
Where there is none, the table grows, the file system stays, and a note says so. What is inside LUKS
changes through the journal as a whole, and nobody can tell what is free at the end of a disk that is
encrypted up to there: `--journal FILE` is needed then. `restore` takes `--key-file` and `--journal` as
well; without a key the partition grows, and a note names the command for the rest. A header that is
detached from its payload is refused.

**Past 2 TiB.** An MBR reaches 2 TiB. `onebay grow DISK --table gpt` turns it into a GPT in place:
partitions keep numbers, places, content and (mapped) types, logical ones become ordinary entries, and
BIOS and UEFI boot the disk after every single write. GRUB's core moves first and LBA 0 changes last:
until then the disk is the MBR disk it was. The core of a fold is taken along; that of a distribution
knows no GPT and is made anew, where its files are on ext and of the very build that is installed here.
The last 4 KiB before the first partition stay free, for the mark of the journal. `restore` names the
command where an image with an MBR goes to a disk of more than 2 TiB. Refused, with nothing written:

- any other boot code, known or not, that works or of which nobody can tell: GRUB Legacy, LILO, Windows.
  Code that only starts the active partition may stay where no partition is active;
- sectors behind LBA 0, or where GRUB's core would go, that hold anything but zeros and a GRUB core;
- a disk where the core would only find room behind the last partition, which then could not grow;
- anything that names a partition by the MBR's signature, as `PARTUUID=1234abcd-01` or
  `/dev/disk/by-partuuid/1234abcd-01`: a GPT cannot keep such a name. All that is allocated is read for it;
- what cannot be read for it: more than 16 GiB in one file system, LUKS, compressed files of a btrfs,
  damaged, unknown and merely named formats. A note is enough for the data partitions of a known
  appliance, which it does not boot from.

`--partuuid-unchecked` makes notes of the last two, told before anything is written. Not found in any case:
names inside a compressed ramdisk, and boot entries that the firmware keeps.
"""


def layers() -> Iterator[type[Layer]]:
    """Yield every layer there is, in the order of the probes."""

    def below(parent: type[Layer]) -> Iterator[type[Layer]]:
        for child in parent.__subclasses__():
            yield from (child, *below(child))

    found = [layer for layer in below(Layer) if layer.__module__.startswith("onebay.")]
    named = {layer.kind: layer for layer in found if layer not in SKIPPED and hasattr(layer, "kind")}
    yield from sorted(
        named.values(), key=lambda layer: ORDER.index(layer.kind) if layer.kind in ORDER else len(ORDER)
    )


def title(layer: type[Layer]) -> str:
    """Return what people call it."""
    return "everything else, known by name only" if layer.kind == "whole" else layer.kind


def document() -> str:
    """Return the whole page."""
    rows = [f"| {title(layer)} | {layer.growth} | {layer.shrinkage} |\n" for layer in layers()]
    return HEAD + "".join(rows) + TAIL


if __name__ == "__main__":
    TARGET.write_text(document(), "utf-8")
