"""Write an image: one pass over the disk, front to back, into a file that gets its name when it is whole."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, TYPE_CHECKING

from onebay.base.error import Refused, Unsupported
from onebay.base.event import Began, Ended, Moved, Report, silent
from onebay.image.encode import Encoder, Made
from onebay.image.index import Columns, SeekTable, pack_page, pack_root
from onebay.image.manifest import SECTOR_SIZES, Facts, pack_manifest
from onebay.image.plan import plan
from onebay.image.record import (
    GROUP,
    GROUP_SIZE,
    MAX_FRAMES,
    PAGE,
    ROOT_TAG,
    SHA,
    VERSION,
    PageEntry,
    RootHead,
    State,
    group_header,
    pack_kind,
)
from onebay.image.sink import Sink, StreamSink, sink

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onebay.base.extent import ExtentSet
    from onebay.block.volume import Volume

OP = "write image"
# Index pages and seek table stay in memory up to this size, and go to an unnamed file beyond it.
SPOOL = 8 << 20


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written; sizes in bytes. `data`, `zero` and `dont_care` add up to `disk_size`."""

    path: Path | None
    disk_size: int
    image_size: int
    frames: int
    data: int
    zero: int
    dont_care: int
    root: str
    seconds: float


class ImageWriter:
    """Puts frames and what lies between them in their order."""

    def __init__(self, out: Sink | StreamSink, spool: IO[bytes], seeks: IO[bytes]) -> None:
        self.out, self.spool, self.seeks = out, spool, seeks
        self.table = SeekTable(self.seek)
        self.columns = Columns()
        self.pages: list[PageEntry] = []
        self.page_at = (0, 0)
        self.group: list[Made] = []
        self.disk_at = self.frames = self.groups = 0
        self.bytes = dict.fromkeys(State, 0)
        self.manifest = (0, b"")
        self.first_size = 0

    def seek(self, entries: bytes) -> None:
        """Spool entries of the seek table."""
        with self.out.guard():
            self.seeks.write(entries)

    def record(self, made: Made, file_at: int) -> None:
        """Note a frame that stands at byte `file_at` of the file."""
        if not self.columns:
            self.page_at = (self.disk_at, file_at)
        self.columns.add(
            pack_kind(made.state, made.shift), len(made.stored), made.stored_sha, made.content_sha
        )
        self.table.add(len(made.stored), made.size)
        self.bytes[made.state] += made.size
        self.disk_at += made.size
        self.frames += 1
        if self.frames > MAX_FRAMES:
            raise Unsupported("the disk needs too many frames", found=self.frames)
        if len(self.columns) == PAGE:
            self.end_page()

    def end_page(self) -> None:
        """Spool a full page."""
        page = pack_page(len(self.pages), self.columns)
        self.pages.append(PageEntry(*self.page_at, len(page), len(self.columns), sha256(page).digest()))
        with self.out.guard():
            self.spool.write(page)
        self.columns = Columns()

    def first(self, made: Made, manifest: bytes) -> None:
        """Write frame 0 and the manifest."""
        self.record(made, 0)
        self.first_size = len(made.stored)
        self.manifest = (len(manifest), manifest[-SHA:])
        self.table.add(len(manifest), 0)
        self.out.write(made.stored, manifest)

    def add(self, made: Made) -> None:
        """Write one more frame, with its group."""
        self.group.append(made)
        if len(self.group) == GROUP:
            self.end_group()

    def end_group(self) -> None:
        """Write a group; its last one may have fewer frames."""
        group, self.group = self.group, []
        if not group:
            return
        head = group_header(
            self.groups,
            [made.state for made in group],
            sum(len(made.stored) for made in group),
            [made.stored_sha for made in group],
        )
        self.table.add(GROUP_SIZE, 0)
        at = self.out.at + GROUP_SIZE
        for made in group:
            self.record(made, at)
            at += len(made.stored)
        self.out.write(head, *(made.stored for made in group))
        self.groups += 1

    def finish(self) -> bytes:
        """Write index, root and seek table; return the root digest."""
        self.end_group()
        if self.columns:
            self.end_page()
        index_at = self.out.at
        self.copy(self.spool)
        for page in self.pages:
            self.table.add(page.length, 0)
        head = RootHead(
            tag=ROOT_TAG,
            version=VERSION,
            reserved=0,
            disk_size=self.disk_at,
            frames=self.frames,
            manifest_at=self.first_size,
            manifest_length=self.manifest[0],
            pages=len(self.pages),
            index_at=index_at,
            root_at=self.out.at,
            manifest_sha=self.manifest[1],
        )
        root = pack_root(head, self.pages)
        self.out.write(root)
        self.table.add(len(root), 0)
        self.table.flush()
        self.out.write(self.table.head())
        self.copy(self.seeks)
        self.out.write(self.table.footer())
        return root[-SHA:]

    def copy(self, spool: IO[bytes]) -> None:
        """Append all of a spool."""
        with self.out.guard():
            spool.seek(0)
            while piece := spool.read(1 << 20):
                self.out.write(piece)


def check_arguments(volume: Volume, keep: ExtentSet, level: int, threads: int) -> None:
    """Raise ValueError for impossible arguments, Refused for disks that no image can hold."""
    if not 1 <= level <= 19 or threads < 1:
        raise ValueError(f"level or threads out of range: {level}, {threads}")
    if keep.bounds and keep.bounds[-1] > volume.size:
        raise ValueError(f"keep ends beyond the disk: {keep.bounds[-1]}")
    if volume.size == 0 or volume.sector_size not in SECTOR_SIZES:
        raise Refused("empty disk or impossible sector size", volume=volume.name, found=volume.sector_size)


def write_image(
    volume: Volume,
    place: Path | StreamSink,
    *,
    keep: ExtentSet,
    facts: Facts,
    blobs: Mapping[str, bytes] | None = None,
    level: int = 3,
    threads: int = 2,
    report: Report = silent,
) -> Summary:
    """Write the bytes `keep` of `volume` as an image to the file `place`, which it replaces when it is whole.

    `level` is 1..19. Raises Refused (no space, not an ordinary file, empty disk), Unsupported (too large for
    the format) and what reading the volume raises; then no file is left behind. A stream gets
    the same bytes as they come. Memory: under 120 MB, besides `keep` and `blobs`.
    """
    check_arguments(volume, keep, level, threads)
    began = time.monotonic()
    total, moved = keep.size, 0
    report(Began(OP, volume.name, total))

    def read(size: int) -> None:
        nonlocal moved
        moved += size
        report(Moved(OP, min(moved, total)))

    path = None if isinstance(place, StreamSink) else place
    folder = None if path is None else str(path.parent)
    with (
        sink(place) as out,
        tempfile.SpooledTemporaryFile(SPOOL, dir=folder) as spool,
        tempfile.SpooledTemporaryFile(SPOOL, dir=folder) as seeks,
    ):
        writer = ImageWriter(out, spool, seeks)
        encoder = Encoder(volume, level=level, threads=threads, read=read)
        with closing(encoder.frames(plan(volume, keep))) as frames:
            made = next(frames)
            first = (made.state, made.stored, made.stored_sha)
            sizes = {"disk_size": volume.size, "sector_size": volume.sector_size}
            writer.first(made, pack_manifest(facts, keep, blobs or {}, first=first, **sizes))
            for made in frames:
                writer.add(made)
        digest = writer.finish()
    seconds = time.monotonic() - began
    report(Moved(OP, total))
    report(Ended(OP, seconds, digest.hex()))
    return Summary(
        path=path,
        disk_size=volume.size,
        image_size=out.at,
        frames=writer.frames,
        data=writer.bytes[State.DATA],
        zero=writer.bytes[State.ZERO],
        dont_care=writer.bytes[State.DONT_CARE],
        root=digest.hex(),
        seconds=seconds,
    )
