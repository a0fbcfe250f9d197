"""The index: pages of digests, the root that covers them, and the seek table.

A page is 16384 frames in columns. Nobody holds all pages: the writer spools them, a reader loads a few.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from onebay.base.error import BadChecksum, Damaged, Inconsistent, Truncated, Unsupported
from onebay.image.codec import compressor, unpack
from onebay.image.record import (
    GROUP,
    GROUP_SIZE,
    MAX_FRAMES,
    MAX_STORED,
    PAGE,
    PAGE_ENTRY,
    PAGE_HEAD,
    PAGE_TAG,
    ROOT_HEAD,
    ROOT_TAG,
    SEEK_ENTRY,
    SEEK_FOOTER,
    SEEK_MAGIC,
    SEEK_TABLE_MAGIC,
    SHA,
    SKIP_HEADER,
    VERSION,
    Frame,
    PageEntry,
    PageHead,
    RootHead,
    frame_size,
    parse_kind,
    parse_skip,
    skip_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROW = 1 + 4 + SHA + SHA
# What a pipe can check without decoding: kinds, sizes, digests of stored bytes.
STORED_ROW = 1 + 4 + SHA
PAGE_START = SKIP_HEADER.size + PAGE_HEAD.size
MAX_PAGE = PAGE_START + PAGE * ROW + (64 << 10)
SMALLEST_ROOT = SKIP_HEADER.size + ROOT_HEAD.size + PAGE_ENTRY.size + SHA


class Columns:
    """The columns of a page while it is being filled."""

    def __init__(self) -> None:
        self.kinds, self.sizes, self.stored, self.content = bytearray(), bytearray(), bytearray(), bytearray()

    def add(self, kind: int, size: int, stored: bytes, content: bytes = b"") -> None:
        """Append a frame; from a pipe `content` is not known."""
        self.kinds.append(kind)
        self.sizes += size.to_bytes(4, "little")
        self.stored += stored
        self.content += content

    def __len__(self) -> int:
        return len(self.kinds)

    def raw(self) -> bytes:
        """All columns, one after the other."""
        return b"".join((self.kinds, self.sizes, self.stored, self.content))


def pack_page(number: int, columns: Columns) -> bytes:
    """Return the whole skippable frame of a page."""
    head = PAGE_HEAD.pack(PageHead(PAGE_TAG, number, len(columns)))
    payload = head + compressor(3).compress(columns.raw())
    return skip_header(len(payload)) + payload


def unpack_page(raw: bytes, number: int, entry: PageEntry, name: str) -> bytes:
    """Return the columns of a page; raises Damaged where it is not the page that the root means."""
    if len(raw) != entry.length or sha256(raw).digest() != entry.sha:
        raise BadChecksum(f"index page {number}", volume=name, expected=entry.sha, found=sha256(raw).digest())
    parse_skip(raw[:12], PAGE_TAG, "index page", name, 0)
    head = PAGE_HEAD.unpack(raw, SKIP_HEADER.size, volume=name)
    if head.number != number or head.count != entry.count:
        raise Inconsistent(
            "number or count of an index page", volume=name, expected=number, found=head.number
        )
    return unpack(raw[PAGE_START:], ROW * head.count, name)


def after(number: int, manifest_length: int) -> int:
    """Return how many bytes stand between frame `number` and the frame before it."""
    if number == 1:
        return manifest_length + GROUP_SIZE
    return GROUP_SIZE if (number - 1) % GROUP == 0 and number else 0


def page_frames(columns: bytes, number: int, root: Root, name: str) -> Iterator[Frame]:
    """Yield the frames of page `number`; raises Damaged where they do not fit root, disk or file."""
    entry = root.pages[number]
    count = entry.count
    sizes = struct.unpack_from(f"<{count}I", columns, count)
    stored_at, content_at = 5 * count, (5 + SHA) * count
    disk_at, file_at = entry.disk_at, entry.file_at
    for row in range(count):
        frame = number * PAGE + row
        state, shift = parse_kind(columns[row], frame, name)
        size = frame_size(shift, disk_at, root.head.disk_size, frame, name)
        if not 0 < sizes[row] <= MAX_STORED:
            raise Damaged(f"stored size of frame {frame}", volume=name, found=sizes[row])
        if row:
            file_at += after(frame, root.head.manifest_length)
        yield Frame(
            frame,
            disk_at,
            size,
            state,
            file_at,
            sizes[row],
            columns[stored_at + SHA * row : stored_at + SHA * (row + 1)],
            columns[content_at + SHA * row : content_at + SHA * (row + 1)],
        )
        disk_at, file_at = disk_at + size, file_at + sizes[row]
    following = number + 1 < len(root.pages)
    if following:
        file_at += after((number + 1) * PAGE, root.head.manifest_length)
        end = (root.pages[number + 1].disk_at, root.pages[number + 1].file_at)
    else:
        file_at += after(1, root.head.manifest_length) - GROUP_SIZE if root.head.frames == 1 else 0
        end = (root.head.disk_size, root.head.index_at)
    if (disk_at, file_at) != end:
        raise Inconsistent(f"index page {number} ends elsewhere", volume=name, expected=end, found=file_at)


@dataclass(frozen=True, slots=True)
class Root:
    """A checked root: head, page table, its whole length in bytes, and the digest that names the image."""

    head: RootHead
    pages: tuple[PageEntry, ...]
    size: int
    digest: bytes


def pack_root(head: RootHead, pages: list[PageEntry]) -> bytes:
    """Return the whole skippable frame of the root; its last 32 bytes are the root digest."""
    payload = ROOT_HEAD.pack(head) + b"".join(map(PAGE_ENTRY.pack, pages))
    out = skip_header(len(payload) + SHA) + payload
    return out + sha256(out).digest()


def parse_root(raw: bytes, at: int, name: str) -> Root:
    """Read the root that stands at byte `at` of the file; raises Damaged or Unsupported."""
    if len(raw) < SMALLEST_ROOT:
        raise Truncated("root of the image", volume=name, at=at, expected=SMALLEST_ROOT, found=len(raw))
    length = parse_skip(raw[:12], ROOT_TAG, "root of the image", name, at)
    digest = sha256(memoryview(raw)[:-SHA]).digest()
    if length != len(raw) or digest != raw[-SHA:]:
        raise BadChecksum("root of the image", volume=name, at=at, expected=raw[-SHA:], found=digest)
    head = ROOT_HEAD.unpack(raw, SKIP_HEADER.size, volume=name)
    if head.version != VERSION:
        raise Unsupported(
            "version of the image", volume=name, expected=VERSION, found=head.version, hint="update onebay"
        )
    table = memoryview(raw)[SKIP_HEADER.size + ROOT_HEAD.size : -SHA]
    pages = tuple(PAGE_ENTRY.unpack_all(table))
    check_root(head, pages, len(table), at, name)
    return Root(head, pages, length, digest)


def check_root(head: RootHead, pages: tuple[PageEntry, ...], table_size: int, at: int, name: str) -> None:
    """Raise Inconsistent where the root contradicts itself or its place in the file."""
    counts = [min(PAGE, head.frames - first) for first in range(0, min(head.frames, MAX_FRAMES), PAGE)]
    good = (
        0 < head.frames <= MAX_FRAMES
        and 0 < head.disk_size < 1 << 63
        and head.pages == len(pages)
        and table_size == len(pages) * PAGE_ENTRY.size
        and [page.count for page in pages] == counts
        and head.root_at == at
        and all(PAGE_START < page.length <= MAX_PAGE for page in pages)
        and head.index_at + sum(page.length for page in pages) == at
        and head.manifest_at + head.manifest_length <= head.index_at
        and (pages[0].disk_at, pages[0].file_at) == (0, 0)
    )
    if not good:
        raise Inconsistent("root of the image contradicts itself", volume=name, at=at, found=head)


class SeekTable:
    """Seek table entries, handed to `sink` in pieces: a spool when writing, a hash when checking."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self.sink = sink
        self.count = 0
        self.pending = bytearray()

    def add(self, stored: int, content: int) -> None:
        """Append the entry of one frame; `content` is 0 for skippable frames."""
        self.pending += SEEK_ENTRY.pack(stored, content)
        self.count += 1
        if len(self.pending) >= 64 << 10:
            self.flush()

    def flush(self) -> None:
        """Hand over what is pending."""
        self.sink(bytes(self.pending))
        self.pending.clear()

    def head(self) -> bytes:
        """Return the skippable header; the entries follow."""
        return skip_header(self.count * SEEK_ENTRY.size + SEEK_FOOTER.size, SEEK_TABLE_MAGIC)

    def footer(self) -> bytes:
        """Return what follows the entries: the last bytes of the image."""
        return SEEK_FOOTER.pack(self.count, 0, SEEK_MAGIC)


def parse_footer(raw: bytes, name: str) -> int:
    """Return the number of entries by the last 9 bytes of a file; raises Damaged."""
    count, descriptor, magic = SEEK_FOOTER.unpack(raw)
    if magic != SEEK_MAGIC or descriptor or not 4 <= count < 1 << 27:
        raise Damaged("seek table", volume=name, found=raw)
    return int(count)


def seek_table_size(count: int) -> int:
    """Return the length of a seek table frame of `count` entries."""
    return SKIP_HEADER.size + count * SEEK_ENTRY.size + SEEK_FOOTER.size


def check_stored(frame: Frame, stored: bytes | memoryview, name: str) -> None:
    """Raise BadChecksum where stored bytes are not what the index says."""
    found = sha256(stored).digest()
    if len(stored) != frame.stored_size or found != frame.stored_sha:
        raise BadChecksum(
            f"frame {frame.number}",
            volume=name,
            at=frame.stored_at,
            expected=frame.stored_sha,
            found=found,
        )
