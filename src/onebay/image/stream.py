"""Read an image from a pipe: the manifest first, then group by group, then the proof that all was there."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from onebay.base.error import BadChecksum, Damaged, Inconsistent, Truncated
from onebay.image.codec import block_size, frame_length, header_rest, parse_header
from onebay.image.foreign import not_ours
from onebay.image.index import (
    MAX_PAGE,
    PAGE_START,
    SMALLEST_ROOT,
    STORED_ROW,
    Columns,
    SeekTable,
    parse_root,
    unpack_page,
)
from onebay.image.manifest import Described, Manifest, manifest_length, parse_manifest
from onebay.image.record import (
    GROUP,
    GROUP_HEAD,
    GROUP_SIZE,
    GROUP_TAG,
    MAX_MANIFEST,
    MAX_SHIFT,
    MAX_STORED,
    PAGE,
    PAGE_TAG,
    ROOT_TAG,
    SEEK_ENTRY,
    SEEK_FOOTER,
    SKIP_HEADER,
    UNIT,
    ZSTD_MAGIC,
    Packed,
    PageEntry,
    State,
    frame_size,
    group_header,
    pack_kind,
    parse_kind,
    parse_skip,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


CHUNK = 1 << 20


class StreamOrigin(Protocol):
    """Bytes that come one after the other."""

    @property
    def name(self) -> str:
        """For messages."""

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield all bytes from byte `offset` on, in pieces."""


class Feed:
    """A stream of pieces, taken in the sizes that the format has. `at` is the byte offset in the image."""

    def __init__(self, pieces: Iterator[bytes], name: str) -> None:
        self.pieces, self.name = pieces, name
        self.buf = bytearray()
        self.at = 0
        self.progress = "before its manifest"

    def fill(self, size: int) -> bool:
        """Wait until `size` bytes are there; False where the stream ends before."""
        while len(self.buf) < size:
            piece = next(self.pieces, None)
            if piece is None:
                return False
            self.buf += piece
        return True

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes without taking them."""
        self.fill(size)
        return bytes(self.buf[:size])

    def take(self, size: int) -> bytes:
        """Take exactly `size` bytes; raises Truncated where the stream ends before."""
        if not self.fill(size):
            raise Truncated(f"the image ends {self.progress}", volume=self.name, at=self.at + len(self.buf))
        out = bytes(self.buf[:size])
        del self.buf[:size]
        self.at += size
        return out

    def take_skippable(self, tag: bytes, what: str, least: int, most: int) -> bytes:
        """Take a skippable frame of ours, of `least` to `most` bytes; raises Truncated or Damaged."""
        at = self.at
        start = self.take(12)
        length = parse_skip(start, tag, what, self.name, at)
        if not least <= length <= most:
            raise Damaged(f"length of the {what}", volume=self.name, at=at, found=length)
        return start + self.take(length - len(start))

    def take_frame(self) -> bytes:
        """Take one zstd frame, at most 2 MiB of content; raises Damaged where it is another one."""
        out = self.take(5)
        out += self.take(header_rest(out[4]))
        shape = parse_header(out, 0, self.name)
        if shape.content_size is None or shape.content_size > UNIT:
            raise Damaged("first frame", volume=self.name, expected=f"<= {UNIT}", found=shape.content_size)
        parts, length, last = [out], len(out), False
        while not last:
            head = self.take(3)
            size, last = block_size(int.from_bytes(head, "little"), self.name)
            parts += (head, self.take(size))
            length += 3 + size
            if length > MAX_STORED:
                raise Damaged("first frame is too long", volume=self.name, found=length)
        return b"".join([*parts, self.take(4 * shape.checksum)])


class Stream(Described):
    """An image from a pipe. `Stream.open` reads the manifest; iterating reads the rest, once."""

    def __init__(self, feed: Feed, first: bytes, manifest: Manifest) -> None:
        self.feed, self.manifest, self.first = feed, manifest, first
        self.manifest_length = feed.at - len(first)
        self.name = feed.name
        self.columns = Columns()
        # Of each page: its length in frames and the digest of what the index must say.
        self.pages: list[tuple[int, bytes]] = []
        self.starts: list[tuple[int, int]] = []
        self.zero: tuple[bytes, bytes] | None = None
        self.left = feed.at
        self.seeks = sha256()
        self.table = SeekTable(self.seeks.update)
        self.frames = self.disk_at = self.groups = 0
        self.root: bytes | None = None

    @classmethod
    def open(cls, origin: StreamOrigin) -> Stream:
        """Read up to the manifest; raises Unsupported (other files, later versions), Damaged, SourceError."""
        feed = Feed(origin.stream(), origin.name)
        head = feed.peek(512)
        if head[:4] != ZSTD_MAGIC.to_bytes(4, "little"):
            raise not_ours(origin.name, head)
        try:
            first = feed.take_frame()
            at = feed.at
            length = manifest_length(feed.peek(12), at, origin.name)
        except Damaged as error:
            raise not_ours(origin.name, head) from error
        manifest = parse_manifest(feed.take(length), at, origin.name)
        told = (manifest.head.first_stored, manifest.head.first_sha)
        found = (len(first), sha256(first).digest())
        if told != found:
            raise BadChecksum("frame 0", volume=origin.name, at=0, expected=told[1], found=found[1])
        return cls(feed, first, manifest)

    def __iter__(self) -> Iterator[Packed]:
        """Yield all frames, each group checked before; ends only after the root was checked.

        Raises Truncated where the pipe ends early, Damaged otherwise. Whether zero frames hold zeros, the
        decoder checks.
        """
        if self.frames:
            raise ValueError("a stream is read once")
        head = self.manifest.head
        self.feed.progress = f"after 0 of {self.disk_size} bytes of the disk"
        yield self.packed(State(head.first_state), self.first, head.first_sha)
        self.table.add(self.manifest_length, 0)
        while self.disk_at < self.disk_size:
            self.feed.progress = f"after {self.disk_at} of {self.disk_size} bytes of the disk"
            yield from self.group()
            self.groups += 1
        self.feed.progress = "within its index"
        self.end()

    def packed(self, state: State, stored: bytes, sha: bytes) -> Packed:
        """Note the next frame and return it; raises Damaged where it does not fit the disk."""
        where = f"{self.name}: frame {self.frames}"
        size = parse_header(stored, 0, where).content_size or 0
        shift = max(size // UNIT, 1).bit_length() - 1
        if shift > MAX_SHIFT or size != frame_size(
            shift, self.disk_at, self.disk_size, self.frames, self.name
        ):
            raise Inconsistent("content size", volume=where, found=size)
        kind = pack_kind(state, shift)
        parse_kind(kind, self.frames, self.name)
        if not self.columns:
            self.starts.append((self.disk_at, self.feed.at - self.left))
        packed = Packed(self.frames, self.disk_at, size, state, stored, b"")
        self.columns.add(kind, len(stored), sha)
        self.table.add(len(stored), size)
        self.frames += 1
        self.disk_at += size
        if len(self.columns) == PAGE:
            self.end_page()
        return packed

    def end_page(self) -> None:
        """Keep only a digest of the columns that the index must repeat."""
        self.pages.append((len(self.columns), sha256(self.columns.raw()).digest()))
        self.columns = Columns()

    def group(self) -> Iterator[Packed]:
        """Yield the frames of the next group; raises Damaged before the first of them."""
        at, name = self.feed.at, self.name
        raw = self.feed.take(GROUP_SIZE)
        parse_skip(raw, GROUP_TAG, "group header", name, at)
        head = GROUP_HEAD.unpack(raw, SKIP_HEADER.size)
        if not 0 < head.count <= GROUP or head.length > head.count * MAX_STORED:
            raise Damaged("group header", volume=name, at=at, found=raw)
        body = self.feed.take(head.length)
        frames: list[tuple[State, bytes, bytes]] = []
        place = 0
        for n in range(head.count):
            state = head.states >> 2 * n & 3
            if state > State.DONT_CARE:
                raise Damaged("group header: state", volume=name, at=at, found=state)
            stored, sha = self.split(body, place, State(state))
            frames.append((State(state), stored, sha))
            place += len(stored)
        states, shas = [frame[0] for frame in frames], [frame[2] for frame in frames]
        expected = group_header(self.groups, states, place, shas)
        if raw != expected or place != head.length:
            raise BadChecksum("group", volume=name, at=at, expected=expected[-32:], found=raw[-32:])
        self.table.add(GROUP_SIZE, 0)
        self.left = len(body)
        for frame in frames:
            yield self.packed(*frame)
            self.left -= len(frame[1])
        if head.count < GROUP and self.disk_at < self.disk_size:
            raise Inconsistent("a group is short before the end of the disk", volume=name, at=at)

    def split(self, body: bytes, at: int, state: State) -> tuple[bytes, bytes]:
        """Return the frame at byte `at` of a group, and its digest; raises Damaged."""
        if state != State.DATA and self.zero and body.startswith(self.zero[0], at):
            return self.zero
        length = frame_length(body, at, f"{self.name}: frame {self.frames}")
        stored = body[at : at + length]
        if length > MAX_STORED:
            raise Damaged(f"frame {self.frames} is too long", volume=self.name, found=length)
        sha = sha256(stored).digest()
        if state != State.DATA:
            self.zero = (stored, sha)
        return stored, sha

    def end(self) -> None:
        """Check pages, root and seek table against what went by; raises Damaged."""
        if self.columns:
            self.end_page()
        index_at = self.feed.at
        entries = [self.page(number) for number in range(len(self.pages))]
        at = self.feed.at
        raw = self.feed.take_skippable(ROOT_TAG, "root of the image", SMALLEST_ROOT, MAX_MANIFEST)
        root = parse_root(raw, at, self.name)
        self.table.add(len(raw), 0)
        head = root.head
        told = (head.disk_size, head.frames, head.manifest_at, head.manifest_length, head.index_at)
        found = (self.disk_size, self.frames, len(self.first), self.manifest_length, index_at)
        if told != found or head.manifest_sha != self.manifest.digest or list(root.pages) != entries:
            raise Inconsistent("root and data", volume=self.name, at=at, expected=told, found=found)
        self.seek_table()
        self.root = root.digest

    def page(self, number: int) -> PageEntry:
        """Check one index page against the frames that went by, and return what the root must say of it."""
        at = self.feed.at
        raw = self.feed.take_skippable(PAGE_TAG, "index page", PAGE_START, MAX_PAGE)
        count, digest = self.pages[number]
        entry = PageEntry(*self.starts[number], len(raw), count, sha256(raw).digest())
        columns = unpack_page(raw, number, entry, self.name)
        if sha256(columns[: STORED_ROW * count]).digest() != digest:
            raise Inconsistent("index and data", volume=self.name, at=at)
        self.table.add(len(raw), 0)
        return entry

    def seek_table(self) -> None:
        """Compare the seek table with the frames that went by, and see that nothing follows."""
        self.table.flush()
        at = self.feed.at
        head = self.feed.take(SKIP_HEADER.size)
        left = SEEK_ENTRY.size * self.table.count
        found = sha256()
        while left and head == self.table.head():
            step = min(left, CHUNK)
            found.update(self.feed.take(step))
            left -= step
        if left or found.digest() != self.seeks.digest():
            raise Inconsistent("seek table and data", volume=self.name, at=at)
        if self.feed.take(SEEK_FOOTER.size) != self.table.footer():
            raise Inconsistent("end of the seek table", volume=self.name, at=self.feed.at)
        if self.feed.fill(1):
            raise Inconsistent("bytes after the end of the image", volume=self.name, at=self.feed.at)
