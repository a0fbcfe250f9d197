"""Read an image at random: root first, pages and frames as they are needed, each checked before use."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Inconsistent, Truncated, Unsupported
from onebay.base.event import Report, silent
from onebay.image.codec import Zeros, frame_length
from onebay.image.decode import Decoded, Decoder
from onebay.image.foreign import not_ours
from onebay.image.index import (
    SMALLEST_ROOT,
    Root,
    check_stored,
    page_frames,
    parse_footer,
    parse_root,
    seek_table_size,
    unpack_page,
)
from onebay.image.manifest import Described, Manifest, parse_manifest
from onebay.image.record import (
    MANIFEST_TAG,
    MAX_MANIFEST,
    MAX_STORED,
    PAGE,
    SEEK_ENTRY,
    SEEK_FOOTER,
    SEEK_MAGIC,
    ZSTD_MAGIC,
    Frame,
    Packed,
    RandomOrigin,
    State,
    parse_skip,
)
from onebay.image.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


# Frames that stand close to each other are read at once, up to this many bytes.
BATCH = 8 << 20
READ_OVER = 128 << 10
PAGES_KEPT = 2


class Image(Described):
    """An image that can be read anywhere. Use `Image.open`. For one thread."""

    def __init__(self, origin: RandomOrigin, size: int, root: Root, manifest: Manifest) -> None:
        self.origin, self.size, self.root, self.manifest = origin, size, root, manifest
        self.name = origin.name
        self.zeros = Zeros()
        self.loaded: dict[int, list[Frame]] = {}
        self.last: Decoded | None = None

    @classmethod
    def open(cls, origin: RandomOrigin) -> Image:
        """Open an image; raises Unsupported for other files and later versions, Damaged, or SourceError."""
        name, size = origin.name, origin.size
        if size is None:
            raise Unsupported("cannot be read at random, only as a stream", volume=name)
        root = read_root(origin, size)
        head = root.head
        manifest = parse_manifest(
            origin.read_at(head.manifest_at, head.manifest_length), head.manifest_at, name
        )
        if (
            manifest.digest != head.manifest_sha
            or manifest.disk_size != head.disk_size
            or manifest.head.first_stored != head.manifest_at
        ):
            raise Inconsistent("manifest and root are of different images", volume=name, at=head.manifest_at)
        image = cls(origin, size, root, manifest)
        first = image.page(0)[0]
        told = (manifest.head.first_state, manifest.head.first_stored, manifest.head.first_sha)
        if told != (first.state, first.stored_size, first.stored_sha):
            raise Inconsistent("manifest and index differ about frame 0", volume=name)
        return image

    @cached_property
    def starts(self) -> list[int]:
        """First byte of the disk of each page."""
        return [page.disk_at for page in self.root.pages]

    def page(self, number: int) -> list[Frame]:
        """Return the frames of one index page; raises Damaged. Two pages are kept."""
        found = self.loaded.get(number)
        if found is None:
            at = self.root.head.index_at + sum(page.length for page in self.root.pages[:number])
            entry = self.root.pages[number]
            columns = unpack_page(self.origin.read_at(at, entry.length), number, entry, self.name)
            found = list(page_frames(columns, number, self.root, self.name))
            while len(self.loaded) >= PAGES_KEPT:
                del self.loaded[next(iter(self.loaded))]
            self.loaded[number] = found
        return found

    def frames(self, first: int = 0) -> Iterator[Frame]:
        """Yield the frames from number `first` on, page by page."""
        for number in range(first // PAGE, len(self.root.pages)):
            yield from self.page(number)[first - number * PAGE if number == first // PAGE else 0 :]

    def find(self, at: int) -> Frame:
        """Return the frame that holds byte `at` of the disk; raises Truncated beyond its end."""
        if not 0 <= at < self.disk_size:
            raise Truncated("access beyond the end of the disk", volume=self.name, at=at)
        frames = self.page(bisect_right(self.starts, at) - 1)
        return frames[bisect_right(frames, at, key=lambda frame: frame.at) - 1]

    def packed(self, frames: Iterable[Frame]) -> Iterator[Packed]:
        """Yield `frames`, ascending, with their stored bytes checked; only data frames are read.

        Raises BadChecksum. Memory: 8 MiB and what the origin needs.
        """
        batch: list[Frame] = []
        end = 0
        for frame in frames:
            stored_end = frame.stored_at + frame.stored_size
            if frame.state == State.DATA:
                start = next((f.stored_at for f in batch if f.state == State.DATA), frame.stored_at)
                if end and (frame.stored_at - end > READ_OVER or stored_end - start > BATCH):
                    yield from self.fetch(batch)
                    batch = []
                end = stored_end
            elif len(batch) >= PAGE:
                yield from self.fetch(batch)
                batch, end = [], 0
            batch.append(frame)
        yield from self.fetch(batch)

    def fetch(self, batch: list[Frame]) -> Iterator[Packed]:
        """Read the data frames of `batch` at once."""
        data = [frame for frame in batch if frame.state == State.DATA]
        raw, start = b"", 0
        if data:
            start = data[0].stored_at
            raw = self.origin.read_at(start, data[-1].stored_at + data[-1].stored_size - start)
        for frame in batch:
            stored = b""
            if frame.state == State.DATA:
                stored = raw[frame.stored_at - start : frame.stored_at - start + frame.stored_size]
                check_stored(frame, stored, self.name)
            yield Packed(frame.number, frame.at, frame.size, frame.state, stored, frame.content_sha)

    def frame(self, number: int, *, check: bool = False) -> Decoded:
        """Return one frame decoded; raises Damaged. `check` also compares the content's SHA-256."""
        frame = self.page(number // PAGE)[number % PAGE]
        packed = next(self.packed([frame]))
        return Decoder(self.name, zeros=self.zeros, check=check).one(packed)

    def read(self, at: int, size: int) -> bytes:
        """Return `size` bytes of the disk at byte `at`; raises Truncated beyond its end, Damaged."""
        if at < 0 or size < 0 or at + size > self.disk_size:
            raise Truncated("access beyond the end of the disk", volume=self.name, at=at)
        out = []
        end = at + size
        while at < end:
            frame = self.find(at)
            stop = min(end, frame.at + frame.size)
            if frame.state != State.DATA:
                out.append(bytes(stop - at))
            else:
                if self.last is None or self.last.number != frame.number:
                    self.last = self.frame(frame.number)
                assert self.last.content is not None
                out.append(self.last.content[at - frame.at : stop - frame.at])
            at = stop
        return b"".join(out)

    def verify(self, *, threads: int = 2, report: Report = silent) -> str:
        """Check every byte of the file and every byte that it decodes to; return the root digest.

        Raises Damaged at the first thing that is wrong.
        """
        return verify(self, threads=threads, report=report)


def read_root(origin: RandomOrigin, size: int) -> Root:
    """Find the root from the end of the file; raises Unsupported where it is no image of ours, Damaged."""
    head = origin.read_at(0, min(size, 512))
    if head[:4] != ZSTD_MAGIC.to_bytes(4, "little"):
        raise not_ours(origin.name, head)
    try:
        return find_root(origin, size)
    except Damaged as error:
        if is_plain(origin, size):
            raise not_ours(origin.name, head) from error
        raise


def find_root(origin: RandomOrigin, size: int) -> Root:
    """Follow footer and last entry of the seek table to the root; raises Damaged or Unsupported."""
    name = origin.name
    least = SEEK_ENTRY.size + SEEK_FOOTER.size
    tail = origin.read_at(max(0, size - least), min(size, least))
    if size < SMALLEST_ROOT + least or tail[-4:] != SEEK_MAGIC.to_bytes(4, "little"):
        raise Truncated("no end mark: the image is cut short, or bytes were added", volume=name, at=size)
    count = parse_footer(tail[SEEK_ENTRY.size :], name)
    stored, content = SEEK_ENTRY.unpack(tail[: SEEK_ENTRY.size])
    at = size - seek_table_size(count) - stored
    if content or at < 0 or not SMALLEST_ROOT <= stored <= MAX_MANIFEST:
        raise Inconsistent("the seek table does not lead to a root", volume=name, at=size, found=stored)
    root = parse_root(origin.read_at(at, stored), at, name)
    # zstd cannot expand more than 32768 times: what claims more is a lie, and counts would follow it.
    if count < root.head.frames or root.head.disk_size > size << 15:
        raise Inconsistent("root and length of the file", volume=name, at=at, found=root.head)
    return root


def is_plain(origin: RandomOrigin, size: int) -> bool:
    """Whether a zstd file has no manifest behind its first frame."""
    start = origin.read_at(0, min(size, MAX_STORED + 12))
    try:
        length = frame_length(start, 0, origin.name)
        parse_skip(start[length : length + 12], MANIFEST_TAG, "manifest", origin.name, length)
    except Damaged:
        return True
    return False
