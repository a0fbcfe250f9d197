"""restore: an image to a disk. Data first, flushed; read back where asked; what makes it bootable last.

The target cannot boot before everything is there (ops/target.py). The same command run again goes on: of a
target that carries the image's marker, only frames whose bytes it reads back and finds equal are left alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Refused
from onebay.base.event import Began, Ended, Moved, Noted, silent
from onebay.base.extent import ExtentSet
from onebay.image import Image, Packed, State, Stream, decode_parallel
from onebay.ops.readback import Seen, matches, not_given_back
from onebay.ops.run import on_failure
from onebay.ops.target import Target, marker
from onebay.ops.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onebay.base.event import Report
    from onebay.block import FileVolume
    from onebay.source import Source

__all__ = ["Restored", "carries_marker", "open_image", "restore"]

OP = "restore"
ANY = Trust()
MAX_LATE = 64 << 20  # bytes; they wait in memory, and partition tables are small


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; sizes in bytes."""

    image_size: int
    written: int
    resumed: bool
    seconds: float


def open_image(source: Source) -> Image | Stream:
    """Open an image at random where its source allows it, else as a stream; raises Damaged, Unsupported."""
    return Image.open(source) if source.seekable else Stream.open(source)


def carries_marker(disk: FileVolume, image: Image | Stream) -> bool:
    """Whether an earlier restore of the same image to this disk was not completed."""
    mark = marker(image.manifest.digest)
    return disk.size >= len(mark) and disk.read(0, len(mark)) == mark


def late_of(image: Image | Stream) -> ExtentSet:
    """Return the bytes that must be written last, as the capture said: the partition tables.

    Raises Damaged where the list breaks its rules.
    """
    extents = image.facts.other.get("late", [])
    try:
        late = ExtentSet.of((int(start), int(end)) for start, end in extents)
    except (TypeError, ValueError, OverflowError) as error:
        raise Damaged("list of late extents", volume=image.name, found=extents) from error
    late = late.clip(0, image.disk_size)
    if late.size > MAX_LATE:
        raise Damaged("list of late extents is too long", volume=image.name, found=late.size)
    return late


def restore(
    image: Image | Stream,
    disk: FileVolume,
    *,
    verify: bool = False,
    threads: int = 2,
    trust: Trust = ANY,
    report: Report = silent,
) -> Restored:
    """Write `image` to `disk`; `verify` reads everything back before the disk becomes bootable.

    Raises Refused (too small, another sector size, an image that `trust` does not mean) before anything is
    written; afterwards every error says that the target is incomplete and how to go on. Which image a pipe
    holds is known at its end: where it is another one, the target has its data and cannot boot.
    """
    trust.check(image)
    if image.manifest.sector_size != disk.sector_size:
        raise Refused(
            "sector size of the target",
            volume=disk.name,
            expected=image.manifest.sector_size,
            found=disk.sector_size,
        )
    target = Target(disk, image.keep, late_of(image), image.manifest.digest, image_size=image.disk_size)
    began = time.monotonic()
    report(Began(OP, disk.name, image.keep.size))
    incomplete = f"{disk.name} is incomplete and cannot boot; the same command run again goes on"
    with on_failure(incomplete, disk.name):
        job = Job(image, target, keep_digests=verify and isinstance(image, Stream), report=report)
        resumed = target.begin()
        if resumed:
            report(Noted("goes on where it was interrupted; what is there already is compared", disk.name))
        job.run(threads, resumed=resumed)
    with on_failure(f"{disk.name} cannot boot; it holds data of an image that was not meant", disk.name):
        trust.check(image)
    with on_failure(incomplete, disk.name):
        if verify:
            disk.flush()
            disk.forget()
            job.read_back()
        target.finish()
    if verify:
        with on_failure(f"{disk.name} is written, but does not hold what the image says", disk.name):
            disk.forget()
            job.read_back_late()
    seconds = time.monotonic() - began
    report(Ended(OP, seconds, f"{job.written} bytes written"))
    return Restored(image.disk_size, job.written, resumed, seconds)


class Job:
    """One pass over an image, and what is needed to compare afterwards."""

    def __init__(self, image: Image | Stream, target: Target, *, keep_digests: bool, report: Report) -> None:
        self.image, self.target, self.report = image, target, report
        self.keep_digests = keep_digests
        self.seen: list[Seen] = []
        self.written = self.moved = 0

    def run(self, threads: int, *, resumed: bool) -> None:
        """Decode and write every frame; on a resumed target only what differs."""
        packed: Iterable[Packed]
        if isinstance(self.image, Image):
            frames = self.image.frames()
            packed = self.image.packed(
                frame
                for frame in frames
                if not (resumed and self.present(Seen(frame.at, frame.size, frame.state, frame.content_sha)))
            )
        else:
            packed = self.image
        known_zero = self.target.disk.fresh and not resumed
        for frame in decode_parallel(packed, self.image.name, threads=threads, zeros=None):
            if self.keep_digests:
                digest = sha256(frame.content).digest() if frame.content is not None else b""
                self.seen.append(Seen(frame.at, frame.size, frame.state, digest))
            if frame.content is not None:
                if resumed and isinstance(self.image, Stream) and self.target.same(frame.at, frame.content):
                    self.target.hold(frame.at, frame.content)
                else:
                    self.written += self.target.put(frame.at, frame.content, known_zero=known_zero)
            elif frame.state == State.ZERO:
                self.target.zero(frame.at, frame.at + frame.size, known_zero=known_zero)
            self.progress(frame.at, frame.size)

    def present(self, seen: Seen) -> bool:
        """Whether a frame is on the target already, and no part of it has to come last."""
        if self.target.late.overlaps(seen.at, seen.at + seen.size):
            return False
        found = matches(self.target.disk, self.target.keep, seen)
        if found:
            self.progress(seen.at, seen.size)
        return found

    def progress(self, at: int, size: int) -> None:
        """Report what is done, in kept bytes."""
        self.moved += self.target.keep.clip(at, at + size).size
        self.report(Moved(OP, self.moved))

    def frames(self) -> Iterator[Seen]:
        """Yield what the target must hold."""
        if isinstance(self.image, Image):
            for frame in self.image.frames():
                yield Seen(frame.at, frame.size, frame.state, frame.content_sha)
        else:
            yield from self.seen

    def read_back(self) -> None:
        """Compare the disk with what was written to it, late parts aside; raises BadChecksum."""
        for seen in self.frames():
            if not self.target.late.overlaps(seen.at, seen.at + seen.size):
                self.compare(seen)

    def read_back_late(self) -> None:
        """Compare the frames that hold late parts, after these were written; raises BadChecksum."""
        for seen in self.frames():
            if self.target.late.overlaps(seen.at, seen.at + seen.size):
                self.compare(seen)

    def compare(self, seen: Seen) -> None:
        """Raise BadChecksum where the disk gives back other bytes than it was given."""
        disk = self.target.disk
        if not matches(disk, self.target.keep, seen):
            raise not_given_back(disk, seen.at)
