"""verify: a disk against an image, also one that has grown since it was restored.

What growing writes follows from the image and the size of the disk, so it is planned again, on the image: a
difference counts as explained only where the disk holds byte for byte what growing writes there. resize2fs
alone leaves the time of day, in superblocks and in one inode, and their checksums; these fields may differ.
Everything else that differs is a difference of data, wherever it lies. What a kernel wrote, be it while it
grew a file system, cannot be told from changed data and is none that can be explained.

Source of the fields: linux fs/ext4/ext4.h, struct ext4_super_block and struct ext4_inode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import Error, Inconsistent, Refused, ToolMissing
from onebay.base.event import Began, Ended, Moved, Noted, silent
from onebay.base.extent import ExtentSet
from onebay.base.step import Copy, Flush, Write, Zero, apply
from onebay.block import Overlay
from onebay.image import ImageVolume
from onebay.ops.grow import plan_grow
from onebay.ops.readback import Seen, masked, matches
from onebay.ops.run import CRITICAL
from onebay.table import Table
from onebay.tree import discover, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.event import Report
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.image import Frame, Image

OP = "verify"
SECTOR = 512
EXT = "ext:"
EXT_MAGIC_AT, EXT_MAGIC = 0x38, b"\x53\xef"
INODE_SIZE_AT = 0x58
# s_wtime; in the superblock's second sector s_wtime_hi and s_checksum
SUPER_TIMES = (frozenset(range(0x30, 0x34)), frozenset({0x74, *range(0x1FC, 0x200)}))
# by inode size: i_atime to i_mtime; l_i_checksum_lo, i_checksum_hi, i_ctime_extra to i_crtime_extra
INODE_TIMES = {
    128: frozenset(range(0x08, 0x14)),
    256: frozenset({*range(0x08, 0x14), 0x7C, 0x7D, *range(0x82, 0x98)}),
}


@dataclass(frozen=True, slots=True)
class Compared:
    """`equal` bytes of the image are on the disk as they were; others differ: bytes by why in `explained`."""

    equal: int
    explained: dict[str, int]


class Growth:
    """What growing the disk in `image` to `size` bytes writes: the extents, and `view` after all of them."""

    def __init__(self, image: Image, size: int) -> None:
        disk = ImageVolume(image)
        self.view = Overlay(disk, size=size)
        plan = plan_grow(Overlay(disk, size=size))
        steps = [step for step in plan.steps if not isinstance(step, Flush)]
        ranges: dict[str, list[tuple[int, int]]] = {}
        for step in steps:
            ranges.setdefault(reason_of(step), []).append((step.at, step.at + step.size))
        # whole sectors, as disks write them; of what was no part of the image, nothing is compared
        self.written = {why: ExtentSet.of(found).align(SECTOR) & image.keep for why, found in ranges.items()}
        self.inode_size = next((size for step in steps if (size := inode_size(step))), 0)
        for step in steps:
            carry_out(step, self.view, image.keep)

    def explain(self, differing: ExtentSet, disk: Volume) -> Iterator[tuple[str, ExtentSet]]:
        """Yield (why, bytes) for what of `differing`, not empty, follows from growing; each byte once."""
        low, high = differing.bounds[0], differing.bounds[-1]
        for why, extents in reversed(self.written.items()):  # the last reason counts
            mine = differing & extents.clip(low, high)
            differing -= mine
            right = ExtentSet.of(
                (at, at + SECTOR)
                for start, end in mine
                for at in range(start, end, SECTOR)
                if self.holds(disk, at, times=why.startswith(EXT))
            )
            if right:
                yield why, right

    def holds(self, disk: Volume, at: int, *, times: bool) -> bool:
        """Whether a sector of the disk is what growing writes, save the time of day where `times`."""
        size = min(SECTOR, disk.size - at)
        told, found = self.view.read(at, size), disk.read(at, size)
        wrong = {n for n in range(size) if told[n] != found[n]}
        if not wrong or not times:
            return not wrong
        if is_super(told):
            return wrong <= SUPER_TIMES[0]
        if at >= SECTOR and is_super(self.view.read(at - SECTOR, SECTOR)):
            return wrong <= SUPER_TIMES[1]
        allowed = INODE_TIMES.get(self.inode_size)
        return allowed is not None and {n % self.inode_size for n in wrong} <= allowed


def is_super(sector: bytes) -> bool:
    """Whether a sector is the first of an ext superblock."""
    return sector[EXT_MAGIC_AT : EXT_MAGIC_AT + 2] == EXT_MAGIC


def inode_size(step: Step) -> int:
    """Return the size of inodes in bytes where `step` writes an ext superblock, else 0."""
    if isinstance(step, Write) and reason_of(step).startswith(EXT) and is_super(step.data[:SECTOR]):
        return int.from_bytes(step.data[INODE_SIZE_AT : INODE_SIZE_AT + 2], "little")
    return 0


def reason_of(step: Write | Zero | Copy) -> str:
    """Return why a step is made, as the user reads it."""
    return step.why.removeprefix(CRITICAL).strip()


def carry_out(step: Step, view: Overlay, keep: ExtentSet) -> None:
    """Carry a step out on `view`, as far as `keep` reaches: a file system may zero many gigabytes."""
    match step:
        case Write():
            view.write(step.at, step.data)
        case Zero():
            for start, end in keep.clip(step.at, step.at + step.size):
                apply(Zero(view, start, end - start, step.why))
        case Copy():
            for start, end in keep.clip(step.at, step.at + step.size):
                apply(Copy(step.source, step.source_at + start - step.at, view, start, end - start, step.why))


def verify_against(image: Image, disk: Volume, *, report: Report = silent) -> Compared:
    """Compare every byte that matters of the image with `disk`.

    Raises Refused where the disk is smaller, Inconsistent where data differ: with the first place, the number
    of frames, and the volumes they lie in.
    """
    if disk.size < image.disk_size:
        raise Refused(
            "smaller than the image's disk", volume=disk.name, expected=image.disk_size, found=disk.size
        )
    report(Began(OP, disk.name, image.disk_size))
    bad: list[Frame] = []
    for frame in image.frames():
        if not matches(disk, image.keep, Seen(frame.at, frame.size, frame.state, frame.content_sha)):
            bad.append(frame)
        report(Moved(OP, frame.at + frame.size))
    explained = explain(image, disk, bad, report) if bad else {}
    equal = image.keep.size - sum(explained.values())
    report(Ended(OP, 0.0, "data equal; the disk has grown" if bad else "equal"))
    return Compared(equal, explained)


def explain(image: Image, disk: Volume, bad: list[Frame], report: Report) -> dict[str, int]:
    """Say why frames differ; raises Inconsistent where growing does not explain all of it."""
    growth = growth_of(image, disk, report)
    found: dict[str, int] = {}
    wrong: list[int] = []
    for frame in bad:
        rest = differing(image, disk, frame)
        for why, extents in growth.explain(rest, disk) if growth and rest else ():
            found[why] = found.get(why, 0) + extents.size
            rest -= extents
        if rest:
            wrong.append(rest.bounds[0])
    if wrong:
        error = Inconsistent(
            f"differs from the image in {len(wrong)} frames, the first here", volume=disk.name, at=wrong[0]
        )
        for line in places(image, wrong):
            error.add_note(line)
        raise error
    refuse_damage(disk, image)
    return found


def growth_of(image: Image, disk: Volume, report: Report) -> Growth | None:
    """Return what growing would have written; None where the disk has the image's size or cannot grow."""
    if disk.size == image.disk_size:
        return None
    try:
        return Growth(image, disk.size)
    except ToolMissing:
        raise
    except Error as error:
        report(Noted(f"growth does not explain what differs: {error}", disk.name))
        return None


def differing(image: Image, disk: Volume, frame: Frame) -> ExtentSet:
    """Return the sectors of a frame that matter and differ."""
    found: list[tuple[int, int]] = []
    step = 1 << 20
    for at in range(frame.at, frame.at + frame.size, step):
        size = min(step, frame.at + frame.size - at)
        if not image.keep.overlaps(at, at + size):
            continue
        told, read = image.read(at, size), bytes(masked(disk, image.keep, at, size))
        if told == read:
            continue
        for low in range(0, size, SECTOR):
            high = min(low + SECTOR, size)
            if told[low:high] != read[low:high]:
                found.append((at + low, at + high))
    return ExtentSet.of(found)


def refuse_damage(disk: Volume, image: Image) -> None:
    """Raise Inconsistent where the grown disk reads worse than the image: then nothing is explained."""
    before = discover([ImageVolume(image)])
    after = discover([disk])
    known = {(finding.kind, finding.text) for finding in before.all_findings()}
    new = [
        finding
        for finding in after.all_findings()
        if finding.severity == "damage" and (finding.kind, finding.text) not in known
    ]
    if new:
        raise Inconsistent(f"the grown disk is damaged: {new[0].text}", volume=new[0].volume, at=new[0].at)
    kinds = [layer.title for layer in before.layers]
    found = [layer.title for layer in after.layers]
    if kinds != found:
        raise Inconsistent(
            "other layers than in the image",
            volume=disk.name,
            expected=", ".join(kinds),
            found=", ".join(found),
        )


def places(image: Image, wrong: list[int]) -> list[str]:
    """Return lines that say in which partitions bytes differ, and how often."""
    disk = ImageVolume(image)
    tree = discover([disk])
    table = tree.on(disk)
    counts: dict[str, int] = {}
    for at in wrong:
        name = "outside all partitions"
        for part in table.partitions if isinstance(table, Table) else ():
            if not part.is_extended and part.start <= at < part.end:
                titles = [layer.title for _, _, layer in walk(tree, part.volume) if layer is not None]
                name = f"in p{part.number} ({', '.join(titles) or 'not recognised'})"
        counts[name] = counts.get(name, 0) + 1
    return [f"{count} {name}" for name, count in counts.items()]
