"""Images as input: bytes of a file as they are, and files built with right digests over wrong parts."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from zstandard import ZstdDecompressor, ZstdError, frame_content_size

from fuzz.disk import Disk, Seed
from fuzz.recipe import Tape, interesting
from onebay.base.error import BadChecksum, Error
from onebay.base.extent import ExtentSet
from onebay.image import Facts, Image, ImageVolume, Stream, decode_parallel, write_image
from onebay.image.codec import Zeros, compressor
from onebay.image.index import SeekTable
from onebay.image.record import (
    GROUP_SIZE,
    MANIFEST_HEAD,
    PAGE_ENTRY,
    PAGE_HEAD,
    PAGE_TAG,
    ROOT_HEAD,
    ROOT_TAG,
    SHA,
    SKIP_HEADER,
    VERSION,
    PageEntry,
    PageHead,
    RootHead,
    State,
    group_header,
    pack_kind,
    skip_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Change = Callable[[str, bytes], bytes]
    Part = tuple[State, int, int, bytes]

UNIT = 2 << 20
SIZE = UNIT + (64 << 10)
FACTS = Facts("disk", "2026-01-01T00:00:00Z", layers=[{"kind": "ext"}], smallest_target=4096)
MAX_CHANGES = 12
TOO_LARGE = 64 << 20  # what a case may decode to: more is only slow


class Origin:
    """Bytes as a file and as a pipe."""

    def __init__(self, data: bytes) -> None:
        self.data, self.name, self.size = data, "image", len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read as a file does: what is asked for beyond the end is our error."""
        out = self.data[offset : offset + length] if offset >= 0 <= length else b""
        if len(out) != length:
            raise Error("short read", volume=self.name, at=offset)
        return out

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield what follows `offset`, in odd pieces."""
        for at in range(offset, len(self.data), 1000):
            yield self.data[at : at + 1000]


@cache
def plain_image(blobs: bool = True) -> bytes:  # noqa: FBT001, FBT002
    """Write an image of a small disk with a data, a zero and a don't-care frame."""
    disk = Disk(Seed("plain", (SIZE,), 512, {0: b"boot" * 1024, 5: b"\1" * 4096}))
    keep = ExtentSet.of([(0, 65536), (UNIT, UNIT + 4096)] if blobs else [(0, 4096)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        own = {"kit": b"K" * 50} if blobs else None
        write_image(disk, path, keep=keep, facts=FACTS, blobs=own, threads=1)
        return path.read_bytes()


def seeds() -> list[bytes]:
    """Return images."""
    return [plain_image(True), plain_image(False)]


def look(data: bytes) -> None:
    """Read an image both ways; where one reads it to its end, so does the other, and both say the same."""
    origin = Origin(data)
    try:
        at_random, content = outcome_at_random(origin)
    except BadChecksum:
        outcome_piped(origin)  # what the content's own digests say, a pipe cannot know in time
        return
    piped, same = outcome_piped(origin)
    assert (at_random is None) == (piped is None), "file and pipe disagree about an image"
    assert at_random == piped, "file and pipe name different roots"
    assert content == same, "file and pipe decode to different bytes"


def outcome_at_random(origin: Origin) -> tuple[bytes | None, bytes | None]:
    """Return the root digest and a digest of the content, None where something is wrong.

    Raises BadChecksum where that is nothing but a digest of a frame's content.
    """
    try:
        image = Image.open(origin)
        if image.disk_size > TOO_LARGE:
            list(zip(image.frames(), range(100), strict=False))
            return None, None
        with suppress(Error):
            image.read(max(0, image.disk_size - 512), min(512, image.disk_size))
        with suppress(Error):
            list(ImageVolume(image).data(0, image.disk_size))
        assert image.keep.size <= image.disk_size
        root = image.verify(threads=1)
        image.blobs.values()
    except Error as error:
        if isinstance(error, BadChecksum) and error.what.startswith("content of frame"):
            raise
        return None, None
    content = sha256(image.read(0, image.disk_size)).digest()
    return bytes.fromhex(root), content


def outcome_piped(origin: Origin) -> tuple[bytes | None, bytes | None]:
    """Return what `outcome_at_random` does, from a pipe; what only a whole file shows is asked here too."""
    try:
        stream = Stream.open(origin)
        if stream.disk_size > TOO_LARGE:
            return None, None
        found, states = sha256(), []
        for part in decode_parallel(stream, origin.name, threads=1):
            found.update(bytes(part.size) if part.content is None else part.content)
            states.append((part.at, part.size, part.state))
        stream.blobs.values()
        for at, size, state in states:
            if stream.keep.overlaps(at, at + size) != (state != State.DONT_CARE):
                return None, None
    except Error:
        return None, None
    return stream.root, found.digest()


class Changes:
    """Changes of named parts, taken from the fuzzer's bytes: part, kind, position, value."""

    names = (
        *("first", "head", "facts", "map", "blobs", "group"),
        *("frames", "page", "columns", "root", "entries", "seek"),
    )

    def __init__(self, tape: Tape) -> None:
        self.wanted: dict[str, list[tuple[int, int, int, bytes]]] = {}
        for _ in range(MAX_CHANGES):
            if not tape.left:
                break
            name = self.names[tape.number(1) % len(self.names)]
            kind, at = tape.number(1), tape.number(2)
            width = (1, 2, 4, 8)[kind >> 3 & 3]
            value = tape.number(1)
            raw = tape.take(width) if kind & 7 < 2 else b""
            self.wanted.setdefault(name, []).append((kind & 7, at, value << 4 | width, raw))

    def apply(self, name: str, data: bytes) -> bytes:
        """Return a part with what is to be changed in it."""
        out = bytearray(data)
        for kind, place, packed, raw in self.wanted.get(name, ()):
            at, width, value = place % (len(out) + 1), packed & 15, packed >> 4
            old = int.from_bytes(out[at : at + width], "little")
            if kind < 2:
                out[at : at + width] = raw
            elif kind == 2:
                number = interesting(value, Disk(Seed("", (SIZE,), 512, {})))
                out[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
            elif kind < 5:
                out[at : at + width] = ((old + value - 128) % (1 << 8 * width)).to_bytes(width, "little")
            elif kind == 5:
                out[at:at] = bytes([value]) * width
            elif kind == 6:
                del out[at : at + width * (1 + value % 16)]
            else:
                del out[at:]
        return bytes(out)


@cache
def ingredients() -> tuple[list[Part], bytes, bytes, bytes, bytes]:
    """Return frames (state, shift, size, stored); the manifest's head, facts, map and blobs as stored."""
    image = Image.open(Origin(plain_image(True)))
    raw = plain_image(True)
    frames = []
    for frame in image.frames():
        stored = raw[frame.stored_at : frame.stored_at + frame.stored_size]
        shift = max(frame.size // UNIT, 1).bit_length() - 1
        frames.append((frame.state, shift, frame.size, stored))
    manifest = image.manifest
    start = image.root.head.manifest_at + SKIP_HEADER.size + MANIFEST_HEAD.size
    facts = raw[start : start + manifest.head.facts_stored]
    return frames, MANIFEST_HEAD.pack(manifest.head), facts, manifest.map_stored, manifest.blobs_stored


def build(data: bytes, text: bytes | None = None) -> bytes:
    """Put an image together with all lengths and digests right, then changed parts under right digests.

    `text` takes the place of the facts.
    """
    change = Changes(Tape(data)).apply
    frames, head, facts, runs, blobs = ingredients()
    first = change("first", frames[0][3])
    if text is None:
        text = change("facts", ZstdDecompressor().decompress(facts))
    facts = compressor(1).compress(text)
    runs = compressor(1).compress(change("map", ZstdDecompressor().decompressobj().decompress(runs)))
    blobs = change("blobs", blobs)
    fields = MANIFEST_HEAD.pack(
        MANIFEST_HEAD.unpack(head),
        first_stored=len(first),
        first_sha=sha256(first).digest(),
        facts_stored=len(facts),
        map_stored=len(runs),
        blobs_stored=len(blobs),
    )
    body = change("head", fields) + facts + runs + blobs
    manifest = skip_header(len(body) + SHA) + body
    manifest += sha256(manifest).digest()
    stored = [first, *(frame[3] for frame in frames[1:])]
    if len(stored) > 1:
        stored[-1] = change("frames", stored[-1])
    shas = [sha256(part).digest() for part in stored]
    group = group_header(0, [f[0] for f in frames[1:]], sum(map(len, stored[1:])), shas[1:])
    out = first + manifest + change("group", group) + b"".join(stored[1:])
    return out + tail(change, frames, stored, manifest, len(out))


def tail(change: Change, frames: list[Part], stored: list[bytes], manifest: bytes, index_at: int) -> bytes:
    """Return index page, root and seek table."""
    zeros = Zeros()
    sizes = b"".join(len(part).to_bytes(4, "little") for part in stored)
    contents = b"".join(
        sha256(image_content(part, size)).digest() if state == State.DATA else zeros.content_sha(size)
        for (state, _, size, _), part in zip(frames, stored, strict=True)
    )
    columns = bytes(pack_kind(state, shift) for state, shift, _, _ in frames) + sizes
    columns += b"".join(sha256(part).digest() for part in stored) + contents
    payload = change("page", PAGE_HEAD.pack(PageHead(PAGE_TAG, 0, len(frames))))
    payload += compressor(3).compress(change("columns", columns))
    page = skip_header(len(payload)) + payload
    disk_size = sum(size for _, _, size, _ in frames)
    entry = PageEntry(0, 0, len(page), len(frames), sha256(page).digest())
    entries = change("entries", PAGE_ENTRY.pack(entry))
    root_at = index_at + len(page)
    head = RootHead(
        tag=ROOT_TAG,
        version=VERSION,
        reserved=0,
        disk_size=disk_size,
        frames=len(frames),
        manifest_at=len(stored[0]),
        manifest_length=len(manifest),
        pages=1,
        index_at=index_at,
        root_at=root_at,
        manifest_sha=manifest[-SHA:],
    )
    body = change("root", ROOT_HEAD.pack(head)) + entries
    root = skip_header(len(body) + SHA) + body
    root += sha256(root).digest()
    seeks = bytearray()
    table = SeekTable(seeks.extend)
    for number, (part, (_, _, size, _)) in enumerate(zip(stored, frames, strict=True)):
        table.add(len(part), size)
        if number == 0:
            table.add(len(manifest), 0)
            table.add(GROUP_SIZE, 0)
    table.add(len(page), 0)
    table.add(len(root), 0)
    table.flush()
    return page + root + change("seek", table.head() + bytes(seeks) + table.footer())


def image_content(stored: bytes, size: int) -> bytes:
    """Decode a frame as far as it goes."""
    try:
        if frame_content_size(stored) > UNIT:
            return b""
        return ZstdDecompressor().decompress(stored, max_output_size=size)
    except ZstdError:
        return b""


def parts(data: bytes) -> None:
    """Look at an image that was built with changed parts."""
    look(build(data))


def part_seeds() -> list[bytes]:
    """Return one unchanged image, and one small change of each part."""
    return [b"", *(bytes([number, 0, 4, 0, 0, 1]) for number in range(len(Changes.names)))]


def facts(data: bytes) -> None:
    """Look at an image whose facts are any text."""
    look(build(b"", data))


def fact_text() -> bytes:
    """Return the facts of an image."""
    return ZstdDecompressor().decompress(ingredients()[2])
