"""The records of the image format (docs/image-format.md), and its constants.

Base formats: RFC 8878 (zstd frames, skippable frames) and the zstd seekable format 0.1.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Annotated, NamedTuple, Protocol

from onebay.base.error import BadMagic, Damaged
from onebay.base.record import Layout

UNIT = 2 << 20
MAX_SHIFT = 9
GRID = 4096
GROUP = 16
PAGE = 16384
VERSION = 1
ZSTD_MAGIC = 0xFD2FB528
SKIPPABLE_MAGIC = 0x184D2A5D
SEEK_TABLE_MAGIC = 0x184D2A5E
SEEK_MAGIC = 0x8F92EAB1
MAX_WINDOW = 8 << 20
MAX_STORED = UNIT + (64 << 10)
MAX_RUNS = 1 << 26
MAX_FACTS = 64 << 20
MAX_MANIFEST = 1 << 30
# The seekable format allows 0x8000000 entries; groups and pages take a few of them.
MAX_FRAMES = 0x7000000
SHA = 32


class State(IntEnum):
    """What a frame holds."""

    DATA = 0
    ZERO = 1
    DONT_CARE = 2


class Frame(NamedTuple):
    """One frame as the index knows it.

    `at` and `size` are bytes of the disk, `stored_at` and `stored_size` are bytes of the file.
    """

    number: int
    at: int
    size: int
    state: State
    stored_at: int
    stored_size: int
    stored_sha: bytes
    content_sha: bytes


class Packed(NamedTuple):
    """One frame on its way to a decoder: `stored` was checked against its digest.

    `stored` may be empty where the state is not data. `content_sha` is empty where it is not known (a pipe).
    """

    number: int
    at: int
    size: int
    state: State
    stored: bytes
    content_sha: bytes


class RandomOrigin(Protocol):
    """Bytes that can be read anywhere; `size` is None where it is not known."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def size(self) -> int | None:
        """In bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes at byte `offset`."""


@dataclass(frozen=True, slots=True)
class SkipHeader:
    """RFC 8878, 3.1.2."""

    magic: Annotated[int, "I"]
    length: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """Start of the manifest's payload."""

    tag: Annotated[bytes, "4s"]
    version: Annotated[int, "H"]
    first_state: Annotated[int, "B"]
    reserved: Annotated[int, "B"]
    first_stored: Annotated[int, "I"]
    first_sha: Annotated[bytes, "32s"]
    disk_size: Annotated[int, "Q"]
    sector_size: Annotated[int, "I"]
    grid: Annotated[int, "I"]
    map_runs: Annotated[int, "Q"]
    facts_stored: Annotated[int, "I"]
    map_stored: Annotated[int, "I"]
    blobs_stored: Annotated[int, "I"]
    reserved2: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class GroupHead:
    """Payload of a group header, without its digest."""

    tag: Annotated[bytes, "4s"]
    number: Annotated[int, "I"]
    count: Annotated[int, "H"]
    reserved: Annotated[int, "H"]
    length: Annotated[int, "I"]
    states: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class PageHead:
    """Start of an index page's payload."""

    tag: Annotated[bytes, "4s"]
    number: Annotated[int, "I"]
    count: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class RootHead:
    """Start of the root's payload."""

    tag: Annotated[bytes, "4s"]
    version: Annotated[int, "H"]
    reserved: Annotated[int, "H"]
    disk_size: Annotated[int, "Q"]
    frames: Annotated[int, "Q"]
    manifest_at: Annotated[int, "Q"]
    manifest_length: Annotated[int, "I"]
    pages: Annotated[int, "I"]
    index_at: Annotated[int, "Q"]
    root_at: Annotated[int, "Q"]
    manifest_sha: Annotated[bytes, "32s"]


@dataclass(frozen=True, slots=True)
class PageEntry:
    """One line of the root's page table."""

    disk_at: Annotated[int, "Q"]
    file_at: Annotated[int, "Q"]
    length: Annotated[int, "I"]
    count: Annotated[int, "I"]
    sha: Annotated[bytes, "32s"]


SKIP_HEADER = Layout(SkipHeader, order="<", size=8)
MANIFEST_HEAD = Layout(ManifestHead, order="<", size=84)
GROUP_HEAD = Layout(GroupHead, order="<", size=20)
PAGE_HEAD = Layout(PageHead, order="<", size=12)
ROOT_HEAD = Layout(RootHead, order="<", size=88)
PAGE_ENTRY = Layout(PageEntry, order="<", size=56)

MANIFEST_TAG, GROUP_TAG, PAGE_TAG, ROOT_TAG = b"1BYM", b"1BYG", b"1BYI", b"1BYR"
GROUP_SIZE = SKIP_HEADER.size + GROUP_HEAD.size + SHA
SEEK_FOOTER = struct.Struct("<IBI")
SEEK_ENTRY = struct.Struct("<II")


def skip_header(length: int, magic: int = SKIPPABLE_MAGIC) -> bytes:
    """Return the 8 bytes that make the next `length` bytes a skippable frame."""
    return SKIP_HEADER.pack(SkipHeader(magic, length))


def parse_skip(head: bytes, tag: bytes, what: str, name: str, at: int) -> int:
    """Check the first 12 bytes of a skippable frame of ours; return the length of the whole frame.

    Raises BadMagic where it is another frame.
    """
    skip = SKIP_HEADER.unpack(head, volume=name)
    if skip.magic != SKIPPABLE_MAGIC or head[8:12] != tag:
        raise BadMagic(f"no {what}", volume=name, at=at, expected=tag, found=head[:12])
    return SKIP_HEADER.size + skip.length


def group_header(number: int, states: list[State], length: int, shas: list[bytes]) -> bytes:
    """Return the 60 bytes ahead of a group: every one follows from the group's frames."""
    bits = sum(state << (2 * n) for n, state in enumerate(states))
    head = skip_header(GROUP_SIZE - SKIP_HEADER.size) + GROUP_HEAD.pack(
        GroupHead(GROUP_TAG, number, len(states), 0, length, bits)
    )
    return head + sha256(head + b"".join(shas)).digest()


def pack_kind(state: State, shift: int) -> int:
    """Return a frame's byte of the column `kinds`."""
    return state | shift << 2


def parse_kind(kind: int, number: int, name: str) -> tuple[State, int]:
    """Return state and shift of a frame; raises Damaged where they are out of range."""
    state, shift = kind & 3, kind >> 2
    if state > State.DONT_CARE or shift > MAX_SHIFT or (shift and (state == State.DATA or not number)):
        raise Damaged(f"frame {number} of an impossible kind", volume=name, found=kind)
    return State(state), shift


def frame_size(shift: int, at: int, disk_size: int, number: int, name: str) -> int:
    """Return the content size of a frame at byte `at` of the disk; raises Damaged beyond the disk's end."""
    size = UNIT << shift
    if at + size <= disk_size:
        return size
    if shift or at >= disk_size:
        raise Damaged(
            f"frame {number} ends beyond the disk", volume=name, expected=disk_size, found=at + size
        )
    return disk_size - at
