"""Whether anything on a disk names partitions by the MBR's signature: PARTUUID, signature and number in hex.

That is the only name of a partition that a GPT cannot keep. fstab, boot menus and ramdisks have it in several
spellings (PARTUUID=, quoted or not, /dev/disk/by-partuuid/), so the name itself is looked for in everything
that is allocated. Not found: what is compressed inside a file (a ramdisk), and what a boot entry of the
firmware says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onebay.base.error import Error, Refused
from onebay.base.step import CHUNK
from onebay.fs.btrfs import Btrfs
from onebay.fs.btrfs.compressed import compressed_extents
from onebay.stack.lvm import VolumeGroup
from onebay.table import dsm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.extent import ExtentSet
    from onebay.block import Volume
    from onebay.layer import Layer
    from onebay.table import Table
    from onebay.tree import Tree

LOOK = 16 << 30  # bytes of one volume that are looked through, two minutes of an old disk
READABLE = ("fat", "ext", "btrfs", "xfs")  # whose files' text is on the disk as it reads
SPARE = 64  # bytes behind a chunk in which a name that begins in it ends
FLAG = "--partuuid-unchecked"


class References:
    """Looks through a disk; `unseen` says of each volume why it was not, `notes` what needs no flag."""

    def __init__(self, tree: Tree, table: Table) -> None:
        self.tree, self.table = tree, table
        self.text = f"{table.identity.lower()}-"
        self.unseen: list[tuple[Volume, str]] = []
        self.found: list[tuple[Volume, int]] = []
        for volume, extents in self.readable():
            at = find_name(volume, extents, self.text)
            if at is not None:
                self.found.append((volume, at))

    def notes(self, *, unchecked: bool) -> list[str]:
        """Return what the user must know; raises Refused, unless `unchecked`, where a GPT may break a name.

        What an appliance keeps on its data partitions is not what it boots from: a note is enough there.
        """
        name = f"PARTUUID {self.text}.."
        if self.found and not unchecked:
            volume, at = self.found[0]
            raise Refused(
                f"something refers to a partition as {name}, which a GPT cannot keep",
                volume=volume.name,
                at=at,
                hint="write UUID= of the file system there (fstab, the boot loader's configuration); where "
                f"nothing needs it, {FLAG}",
            )
        data = self.data_volumes()
        wanted = [(volume, why) for volume, why in self.unseen if id(volume) not in data]
        if wanted and not unchecked:
            raise Refused(
                f"not looked through for {name}, which a GPT cannot keep: "
                + ", ".join(f"{volume.name} ({why})" for volume, why in wanted),
                volume=self.tree.disks[0].name,
                hint=f"look for it yourself in fstab and boot menus there; where none has it, {FLAG}",
            )
        notes = [f"{volume.name} refers to {name} at {at:#x}, which is no more" for volume, at in self.found]
        notes += [f"not looked through for {name}: {volume.name} ({why})" for volume, why in self.unseen]
        return notes

    def readable(self) -> Iterator[tuple[Volume, ExtentSet]]:
        """Yield what can be looked through; the rest goes to `unseen`."""
        for volume in self.tree.unknown:
            if not is_empty(volume):
                self.unseen.append((volume, "unknown content"))
        self.unseen += [(suspect.volume, f"damaged {suspect.kind}") for suspect in self.tree.suspects]
        for layer in self.tree.layers:
            volume = layer.below[0]
            if isinstance(layer, VolumeGroup):
                hidden = [lv.name for lv in layer.group.lvs if lv.name not in layer.offered_names]
                self.unseen += [(volume, f"LVM volume {name}") for name in hidden]
            if layer.above or layer is self.table or layer.kind == "swap":
                continue
            try:
                why, extents = content_of(layer)
            except Error as error:
                why, extents = str(error), ()
            if why:
                self.unseen.append((volume, why))
            yield from zip(layer.below, extents, strict=False)  # none where there is too much

    def data_volumes(self) -> set[int]:
        """Return the identities of the volumes that stand on data partitions of an appliance's layout."""
        if dsm.generation(self.table) is None:
            return set()
        parts = [part for part in self.table.partitions if part.number not in dsm.SYSTEM_NUMBERS]
        found = {id(part.volume) for part in parts}
        for layer in self.tree.layers:
            if all(id(below) in found for below in layer.below):
                found.update(id(above) for above in layer.above)
        return found


def content_of(layer: Layer) -> tuple[str, tuple[ExtentSet, ...]]:
    """Return why a layer's text cannot be seen, or "", and the bytes to look through all the same.

    These are of each volume below, or none of any.
    """
    if layer.kind not in READABLE:
        return f"{layer.title}", ()
    if (layer.used_bytes() or 0) > LOOK:
        return f"more than {LOOK >> 30} GiB", ()
    used = layer.used()
    size = sum(extents.size for extents in used)
    if (why := layer.keep_whole()) is not None:
        return why, used if size <= LOOK else ()
    if size > LOOK:
        return f"more than {LOOK >> 30} GiB", ()
    if isinstance(layer, Btrfs) and layer.reader is not None and any(compressed_extents(layer.reader)):
        return "compressed files", used
    return "", used


def is_empty(volume: Volume) -> bool:
    """Whether a volume of at most `LOOK` bytes of data holds zeros only."""
    looked = 0
    for start, end in volume.data(0, volume.size):
        for at in range(start, end, CHUNK):
            looked += CHUNK
            if looked > LOOK or any(volume.read(at, min(CHUNK, end - at))):
                return False
    return True


def find_name(volume: Volume, extents: ExtentSet, text: str) -> int | None:
    """Return the byte at which `text` and two hex digits stand as a word of their own, or None."""
    needles = (text.lower().encode(), text.upper().encode())
    word = re.compile(rb"(?<![0-9a-f])" + needles[0] + rb"[0-9a-f]{2}(?![0-9a-f])", re.IGNORECASE)
    for start, end in extents:
        for at in range(start, end, CHUNK):
            piece = volume.read(at, min(CHUNK + SPARE, end - at))
            if any(needle in piece for needle in needles) and (hit := word.search(piece)):
                return at + hit.start()
    return None
