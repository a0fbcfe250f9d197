"""Encrypted packages: what can be said of them without a key, which is only whether they are whole.

    0   4  any byte, AD BE EF
    4   4  length of the header, little endian
    8      the header in MessagePack: [bytes, [[length, BLAKE2b-256], ...], ...]
       64  an Ed25519 signature of the header, which is not checked here
           the entries, encrypted, one after the other; each has the length and the hash that the header says

Sources: sud0woodo/patology, patology.py at 18737e0, and the reader of .spk files after
synacktiv/synodecrypt that public scripts carry, which agree. Not supported, on purpose: decrypting, so
that names, model and version stay unknown.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Damaged, Truncated
from onebay.ops.payload.sums import Check, differs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import Volume
    from onebay.ops.payload.stream import Stream

MAGIC = b"\xad\xbe\xef"
HEAD = 8  # bytes before the header
SIGNATURE = 64
HASH = 32
MAX_HEADER = 8 << 20
MAX_ENTRIES = 1 << 17
SOURCE = "its header"
# MessagePack, "Formats": first byte -> (bytes of the number that follows)
UINT = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
ARRAY = {0xDC: 2, 0xDD: 4}
BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bin, and str, which older writers used


class Entry(NamedTuple):
    """An encrypted entry: its length in bytes and its hash."""

    size: int
    hash: bytes


def is_sealed(head: bytes, *, named: bool) -> bool:
    """Whether a file that begins with `head` is an encrypted package; one `named` so needs only the magic.

    Any other file also needs a length that a header can have: three bytes may be there by chance.
    """
    return head[1:4] == MAGIC and (named or 0 < int.from_bytes(head[4:8], "little") <= MAX_HEADER)


class Reader:
    """MessagePack, the three types that a header is made of; raises Damaged for every other."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def damaged(self, what: str) -> Damaged:
        """Return the error for the place where we are."""
        return Damaged(f"header of an encrypted package: {what}", volume=self.name, at=HEAD + self.at)

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise self.damaged("it ends early")
        self.at += size
        return part

    def number(self) -> int:
        """Return an unsigned number."""
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first not in UINT:
            raise self.damaged("a number was expected")
        return int.from_bytes(self.take(UINT[first]), "big")

    def array(self) -> int:
        """Return how many elements of an array follow."""
        first = self.take(1)[0]
        if first & 0xF0 == 0x90:
            return first & 0x0F
        if first not in ARRAY:
            raise self.damaged("a list was expected")
        return int.from_bytes(self.take(ARRAY[first]), "big")

    def blob(self) -> bytes:
        """Return a string of bytes."""
        first = self.take(1)[0]
        if first & 0xE0 == 0xA0:
            return self.take(first & 0x1F)
        if first not in BYTES:
            raise self.damaged("bytes were expected")
        return self.take(int.from_bytes(self.take(BYTES[first]), "big"))


def read_entries(file: Volume) -> tuple[list[Entry], int]:
    """Return the entries of an encrypted package and where the first begins; raises Damaged, Truncated."""
    size = int.from_bytes(file.read(4, 4), "little")
    if not 0 < size <= MAX_HEADER:
        raise Damaged(
            "encrypted package: length of its header",
            volume=file.name,
            at=4,
            expected=f"1 to {MAX_HEADER} bytes",
            found=size,
        )
    start = HEAD + size + SIGNATURE
    if start > file.size:
        raise Truncated(
            "encrypted package: ends in its header",
            volume=file.name,
            at=file.size,
            expected=start,
            found=file.size,
        )
    reader = Reader(file.read(HEAD, size), file.name)
    if reader.array() < 2:
        raise reader.damaged("it has no list of entries")
    reader.blob()
    count = reader.array()
    if count > MAX_ENTRIES:
        raise reader.damaged(f"it has {count} entries")
    return [read_entry(reader) for _ in range(count)], start


def read_entry(reader: Reader) -> Entry:
    """Return one entry."""
    if reader.array() != 2:
        raise reader.damaged("an entry was expected")
    entry = Entry(reader.number(), reader.blob())
    if len(entry.hash) != HASH:
        raise reader.damaged(f"a hash of {len(entry.hash)} bytes")
    return entry


def verify(entries: list[Entry], stream: Stream, size: int) -> Iterator[Check]:
    """Yield the verdict about each entry, from a stream at the first; `size` is that of the whole file.

    Raises Truncated where the file ends before the last of them.
    """
    end = stream.at + sum(entry.size for entry in entries)
    if end > size:
        raise Truncated(
            "encrypted package: ends early", volume=stream.name, at=size, expected=end, found=size
        )
    for number, entry in enumerate(entries, 1):
        stream.what = f"entry {number}"
        hashed = hashlib.blake2b(digest_size=HASH)
        for part in stream.parts(entry.size):
            hashed.update(part)
        why = differs("blake2b-256", entry.hash.hex(), hashed.hexdigest())
        yield Check(SOURCE, f"entry {number}", "fails" if why else "holds", why)
    why = differs("bytes", end, size)
    yield Check(SOURCE, "length of the file", "fails" if why else "holds", why)
