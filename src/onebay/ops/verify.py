"""verify: a disk against an image, also one that has grown since it was restored.

What growing writes follows from the image and the size of the disk, so it is planned again, on the image: a
difference counts as explained only where the disk holds byte for byte what growing writes there. resize2fs
alone leaves the time of day, in superblocks and in one inode: there it may be any, under the right checksum.
Everything else that differs is a difference of data, wherever it lies. What a kernel wrote, be it while it
grew a file system, cannot be told from changed data and is none that can be explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import Error, Inconsistent, Refused, ToolMissing
from onebay.base.event import Began, Ended, Moved, Noted, silent
from onebay.base.extent import ExtentSet
from onebay.base.step import Copy, Flush, Write, Zero, apply
from onebay.block import Overlay, locate
from onebay.fs.ext import ExtFs
from onebay.fs.ext.clock import clocks
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
    from onebay.fs.ext.clock import Clock
    from onebay.image import Frame, Image

OP = "verify"
SECTOR = 512
Pieces = tuple[tuple[int, int], ...]  # (byte, size) of the disk


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
        for step in steps:
            carry_out(step, self.view, image.keep)
        self.clocks = clocks_by_sector(self.view)

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
                if self.holds(disk, at)
            )
            if right:
                yield why, right

    def holds(self, disk: Volume, at: int) -> bool:
        """Whether a sector of the disk is what growing writes, at the time of day that the disk says."""
        size = min(SECTOR, disk.size - at)
        told, found = bytearray(self.view.read(at, size)), disk.read(at, size)
        if told == found:
            return True
        for clock, pieces in self.clocks.get(at, ()):
            now = clock.set_as(gather(self.view, pieces), gather(disk, pieces))
            done = 0
            for start, length in pieces:
                low, high = max(start, at), min(start + length, at + size)
                if low < high:
                    told[low - at : high - at] = now[done + low - start : done + high - start]
                done += length
        return told == found


def gather(disk: Volume, pieces: Pieces) -> bytes:
    """Read a record that lies in pieces."""
    return b"".join(disk.read(at, size) for at, size in pieces)


def clocks_by_sector(view: Volume) -> dict[int, list[tuple[Clock, Pieces]]]:
    """Find the records of ext on `view` that hold the time of day, by the sectors that they lie in."""
    found: dict[int, list[tuple[Clock, Pieces]]] = {}
    for layer in discover([view]).layers:
        for clock in clocks(layer) if isinstance(layer, ExtFs) else ():
            places = locate(layer.below[0], clock.at, clock.at + clock.size)
            if any(piece.volume is not view for piece in places):
                continue
            pieces = tuple((piece.at, piece.size) for piece in places)
            sectors = ExtentSet.of((at, at + size) for at, size in pieces).align(SECTOR)
            for at in (at for start, end in sectors for at in range(start, end, SECTOR)):
                found.setdefault(at, []).append((clock, pieces))
    return found


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
    """Return what growing would have written, into free space of the disk, too; None where it cannot grow."""
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
