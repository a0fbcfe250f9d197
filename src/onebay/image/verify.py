"""Check an image as a whole: every byte of the file, every byte that it decodes to, every rule of a state."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent
from onebay.base.event import Began, Ended, Moved, Report, silent
from onebay.image.decode import decode_parallel
from onebay.image.index import SeekTable, check_stored, seek_table_size
from onebay.image.record import (
    GROUP,
    GROUP_SIZE,
    SEEK_FOOTER,
    SKIP_HEADER,
    Frame,
    Packed,
    State,
    group_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onebay.image.read import Image

OP = "verify image"
CHUNK = 1 << 20


def verify(image: Image, *, threads: int = 2, report: Report = silent) -> str:
    """Check everything and return the root digest; raises Damaged at the first thing that is wrong."""
    began = time.monotonic()
    report(Began(OP, image.name, image.size))
    seeks = sha256()
    table = SeekTable(seeks.update)
    for _ in decode_parallel(
        whole(image, table, report), image.name, threads=threads, check=True, zeros=image.zeros
    ):
        pass
    for page in image.root.pages:
        table.add(page.length, 0)
    table.add(image.root.size, 0)
    check_seek_table(image, table, seeks.digest)
    report(Moved(OP, image.size))
    report(Ended(OP, time.monotonic() - began, image.root.digest.hex()))
    return image.root.digest.hex()


def whole(image: Image, table: SeekTable, report: Report) -> Iterator[Packed]:
    """Yield all frames with their stored bytes checked, and check what stands between them."""
    frames = image.frames()
    first = next(frames)
    yield checked(image, first, image.origin.read_at(0, first.stored_size))
    table.add(first.stored_size, first.size)
    table.add(image.root.head.manifest_length, 0)
    group: list[Frame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == GROUP:
            yield from check_group(image, group, table)
            report(Moved(OP, frame.stored_at + frame.stored_size))
            group = []
    if group:
        yield from check_group(image, group, table)


def check_group(image: Image, group: list[Frame], table: SeekTable) -> Iterator[Packed]:
    """Yield the frames of a group; raises Damaged where its header is not what follows from them."""
    start = group[0].stored_at - GROUP_SIZE
    end = group[-1].stored_at + group[-1].stored_size
    raw = memoryview(image.origin.read_at(start, end - start))
    expected = group_header(
        (group[0].number - 1) // GROUP,
        [frame.state for frame in group],
        end - start - GROUP_SIZE,
        [frame.stored_sha for frame in group],
    )
    if raw[:GROUP_SIZE] != expected:
        raise Inconsistent("group header", volume=image.name, at=start, expected=expected, found=raw)
    table.add(GROUP_SIZE, 0)
    for frame in group:
        at = frame.stored_at - start
        yield checked(image, frame, bytes(raw[at : at + frame.stored_size]))
        table.add(frame.stored_size, frame.size)


def checked(image: Image, frame: Frame, stored: bytes) -> Packed:
    """Check a frame's stored bytes, and that its state and the keep map agree."""
    check_stored(frame, stored, image.name)
    kept = image.keep.overlaps(frame.at, frame.at + frame.size)
    if kept != (frame.state != State.DONT_CARE):
        raise Inconsistent(
            f"keep map and state of frame {frame.number}",
            volume=image.name,
            at=frame.stored_at,
            found=frame.state.name,
        )
    return Packed(frame.number, frame.at, frame.size, frame.state, stored, frame.content_sha)


def check_seek_table(image: Image, table: SeekTable, digest: Callable[[], bytes]) -> None:
    """Compare the seek table with the one that follows from the index; raises Inconsistent."""
    table.flush()
    at = image.size - seek_table_size(table.count)
    head = image.origin.read_at(at, SKIP_HEADER.size)
    found = sha256()
    end = image.size - SEEK_FOOTER.size
    for start in range(at + SKIP_HEADER.size, end, CHUNK):
        found.update(image.origin.read_at(start, min(CHUNK, end - start)))
    footer = image.origin.read_at(end, SEEK_FOOTER.size)
    if head != table.head() or found.digest() != digest() or footer != table.footer():
        raise Inconsistent("seek table and index", volume=image.name, at=at)
