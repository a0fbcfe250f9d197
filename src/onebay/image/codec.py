"""Bounded use of zstd: frame headers, lengths of frames, decoding to a known size, frames of zeros.

Source: RFC 8878 section 3.1.1. libzstd never starts a frame with an RLE block because zstd <= 1.4.3 cannot
read that (lib/compress/zstd_compress.c), so frames of zeros are made by it and not by hand.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import zstandard

from onebay.base.error import BadChecksum, BadMagic, Damaged, Inconsistent, Truncated
from onebay.image.record import MAX_STORED, MAX_WINDOW, UNIT, ZSTD_MAGIC

Buffer = bytes | bytearray | memoryview
BLOCK = 128 << 10
# Distinct encodings of zero frames that are remembered; a hostile image has no more than it has bytes.
REMEMBERED = 64


class Shape(NamedTuple):
    """A zstd frame header: `header_size` bytes; `content_size` is None where it is not given."""

    header_size: int
    content_size: int | None
    window: int
    checksum: bool


def header_rest(descriptor: int) -> int:
    """Return how many bytes of a frame header follow its descriptor byte."""
    single = descriptor >> 5 & 1
    return (not single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]


def parse_header(buf: Buffer, at: int, name: str) -> Shape:
    """Read a frame header at byte `at` of `buf`; raises BadMagic, Truncated, or Damaged for dictionaries."""
    view = memoryview(buf)[at:]
    if len(view) < 5:
        raise Truncated("zstd frame header", volume=name, expected=5, found=len(view))
    if int.from_bytes(view[:4], "little") != ZSTD_MAGIC:
        raise BadMagic("no zstd frame", volume=name, found=bytes(view[:4]))
    descriptor = view[4]
    size = 5 + header_rest(descriptor)
    if len(view) < size:
        raise Truncated("zstd frame header", volume=name, expected=size, found=len(view))
    if descriptor & 0x0B:  # a dictionary, or the reserved bit
        raise Damaged("zstd frame header with a dictionary or a reserved bit", volume=name, found=descriptor)
    single = bool(descriptor >> 5 & 1)
    width = (int(single), 2, 4, 8)[descriptor >> 6]
    content = None
    if width:
        content = int.from_bytes(view[size - width : size], "little") + (256 if width == 2 else 0)
    if single:
        window = content or 0
    else:
        exponent, mantissa = view[5] >> 3, view[5] & 7
        window = (1 << (10 + exponent)) + (1 << (7 + exponent)) * mantissa
    return Shape(size, content, window, bool(descriptor & 4))


def block_size(head: int, name: str) -> tuple[int, bool]:
    """Return the stored size of the block with this 3-byte header, and whether it is the last one."""
    kind, size = head >> 1 & 3, head >> 3
    if kind == 3 or size > BLOCK:
        raise Damaged("zstd block of an impossible kind or size", volume=name, found=head)
    return 1 if kind == 1 else size, bool(head & 1)


def frame_length(buf: Buffer, at: int, name: str) -> int:
    """Return the length of the frame at byte `at` of `buf` by walking over its blocks.

    Raises Truncated where it ends beyond `buf`, Damaged where it is no valid frame.
    """
    view = memoryview(buf)
    shape = parse_header(view, at, name)
    place, last = at + shape.header_size, False
    while not last:
        if place + 3 > len(view):
            raise Truncated("zstd frame", volume=name, expected=place + 3 - at, found=len(view) - at)
        size, last = block_size(view[place] | view[place + 1] << 8 | view[place + 2] << 16, name)
        place += 3 + size
    place += 4 * shape.checksum
    if place > len(view):
        raise Truncated("zstd frame", volume=name, expected=place - at, found=len(view) - at)
    return place - at


def check_frame(stored: Buffer, size: int, name: str) -> None:
    """Check the header of a frame that must hold `size` bytes; raises Damaged where it breaks a rule."""
    shape = parse_header(stored, 0, name)
    if shape.content_size != size:
        raise Inconsistent("content size of a frame", volume=name, expected=size, found=shape.content_size)
    if not shape.checksum:
        raise Damaged("frame without a checksum", volume=name)
    if shape.window > MAX_WINDOW:
        raise Damaged("window of a frame", volume=name, expected=f"<= {MAX_WINDOW}", found=shape.window)


def unpack(stored: Buffer, size: int, name: str, codec: zstandard.ZstdDecompressor | None = None) -> bytes:
    """Decode exactly one frame of `size` bytes and check its XXH64; raises Damaged.

    A decompressor may be used again, but by one thread at a time.
    """
    check_frame(stored, size, name)
    if size == 0:
        return b""
    codec = codec or decompressor()
    try:
        content = codec.decompress(stored, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"cannot decode a frame: {error}", volume=name) from error
    if len(content) != size:
        raise Inconsistent("content of a frame", volume=name, expected=size, found=len(content))
    return content


def compressor(level: int) -> zstandard.ZstdCompressor:
    """Return a compressor whose frames keep the rules; not for two threads at a time."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)


def decompressor() -> zstandard.ZstdDecompressor:
    """Return a decompressor that refuses larger windows; not for two threads at a time."""
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)


class ZeroFrame(NamedTuple):
    """A frame of zeros and its two digests."""

    stored: bytes
    stored_sha: bytes
    content_sha: bytes


class Zeros:
    """Frames of zeros: each size is made, and each foreign encoding decoded, only once. For one thread."""

    def __init__(self) -> None:
        self.unit = bytes(UNIT)
        self.made: dict[int, ZeroFrame] = {}
        self.known: set[tuple[int, bytes]] = set()
        self.shas: dict[int, bytes] = {}
        self.hash, self.hashed = sha256(), 0

    def make(self, size: int) -> ZeroFrame:
        """Return the frame of `size` zeros; memory is that of the frame, whatever its size."""
        found = self.made.get(size)
        if found is None:
            out, left = [], size
            codec = compressor(3).compressobj(size=size)
            while left:
                step = min(left, UNIT)
                out.append(codec.compress(self.unit if step == UNIT else bytes(step)))
                left -= step
            stored = b"".join([*out, codec.flush()])
            found = self.made[size] = ZeroFrame(stored, sha256(stored).digest(), self.content_sha(size))
            self.known.add((size, found.stored_sha))
        return found

    def content_sha(self, size: int) -> bytes:
        """Return the SHA-256 of `size` zeros; ever larger powers of two share their work."""
        found = self.shas.get(size)
        if found is not None:
            return found
        if size % UNIT:
            return sha256(bytes(size)).digest() if size < UNIT else self.long_sha(size)
        if size < self.hashed:
            return self.long_sha(size)
        while self.hashed < size:
            self.hash.update(self.unit)
            self.hashed += UNIT
            if self.hashed & (self.hashed - 1) == 0:
                self.shas[self.hashed] = self.hash.digest()
        return self.hash.digest()

    def long_sha(self, size: int) -> bytes:
        """Return the SHA-256 of `size` zeros, from the start."""
        done = sha256()
        for start in range(0, size, UNIT):
            done.update(self.unit[: min(UNIT, size - start)])
        return done.digest()

    def check(self, stored: bytes, size: int, name: str) -> None:
        """Raise Damaged where `stored` is not one frame of `size` zeros."""
        key = (size, sha256(stored).digest())
        if key in self.known:
            return
        check_frame(stored, size, name)
        if len(stored) > MAX_STORED or frame_length(stored, 0, name) != len(stored):
            raise Damaged("bytes after a frame of zeros", volume=name)
        reader = decompressor().stream_reader(stored)
        left = size
        try:
            while piece := reader.read(UNIT):
                left -= len(piece)
                if left < 0 or piece != self.unit[: len(piece)]:
                    raise BadChecksum("a frame of zeros holds other bytes", volume=name)
        except zstandard.ZstdError as error:
            raise Damaged(f"cannot decode a frame of zeros: {error}", volume=name) from error
        if left:
            raise Truncated("frame of zeros", volume=name, expected=size, found=size - left)
        if len(self.known) < REMEMBERED:
            self.known.add(key)
