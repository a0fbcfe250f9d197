"""The members of a tar, one after the other, from a stream that is read once.

The standard library's decoder of one header block is used (`TarInfo.frombuf`), its reader of archives is not:
that one believes every size that a header claims (an extended header of gigabytes is read into memory, a map
of a sparse file grows without limit), calls itself for each long name, and keeps all members. Here each step
has a limit. Links are never followed, and nothing is written anywhere.

Sources: POSIX.1-2017, pax, "ustar interchange format" and "pax extended header"; GNU tar manual, "Basic Tar
Format". Not supported: sparse members, multi-volume and incremental archives, other kinds of members.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Refused, Unsupported
from onebay.ops.payload.stream import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.ops.payload.stream import Stream

BLOCK = 512
ZEROS = bytes(BLOCK)
MAGIC_AT = 257
MAGIC = b"ustar"
MAX_MEMBERS = 1 << 17
MAX_EXTRA = 64 << 10  # bytes of one header that extends the next
MAX_CHAIN = 16  # headers that extend one member
MAX_NAMES = 32 << 20  # characters of all names together
RECORD = re.compile(rb"(\d{1,6}) ([^=\0]{1,256})=")
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
OTHERS = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
EXTENDING = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name as stored, `kind` (file, folder, link, other), and the bytes of its content."""

    name: str
    kind: str
    size: int


def is_tar(block: bytes) -> bool:
    """Whether a file's first 512 bytes are a tar header with its magic and a right checksum."""
    return block[MAGIC_AT:].startswith(MAGIC) and len(block) == BLOCK and decode(block) is not None


def decode(block: bytes) -> tarfile.TarInfo | None:
    """Decode a header block; None where it is none."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def members(stream: Stream) -> Iterator[Member]:
    """Yield each member of a tar; its content is what `stream` gives next, and whoever asks takes all of it.

    Raises Truncated where the tar ends before its end mark, Damaged, Unsupported, Refused beyond the limits.
    """
    names = 0
    for number in range(MAX_MEMBERS + 1):
        member = next_member(stream)
        if member is None:
            return
        names += len(member.name)
        if number == MAX_MEMBERS or names > MAX_NAMES:
            raise Refused(
                "tar: more members, or longer names, than a package has",
                volume=stream.name,
                at=stream.at,
                expected=f"<= {MAX_MEMBERS} members, {MAX_NAMES} characters",
                found="more",
            )
        start = stream.at
        stream.what = shown(member.name)
        yield member
        assert stream.at == start + member.size
        stream.take(-member.size % BLOCK)
        stream.what = "a header"


def next_member(stream: Stream) -> Member | None:
    """Return the next member with what extended headers say of it, None at the end mark."""
    extra: dict[str, str] = {}
    for _ in range(MAX_CHAIN):
        at = stream.at
        block = stream.take(BLOCK)
        if block == ZEROS:
            return None
        info = decode(block)
        if info is None or info.size < 0:
            raise Damaged("tar: no header where one must be", volume=stream.name, at=at)
        if info.type not in EXTENDING:
            return described(info, extra, stream.name, at)
        extra |= extended(info, stream, at)
    raise Damaged("tar: headers that extend one another", volume=stream.name, at=stream.at)


def described(info: tarfile.TarInfo, extra: dict[str, str], name: str, at: int) -> Member:
    """Return the member of a header; raises Unsupported for kinds that a package has no use for."""
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extra):
        raise Unsupported("tar: a sparse member", volume=name, at=at)
    path = extra.get("path", info.name)
    if info.type in FILES:
        size = extra.get("size", str(info.size))
        if not size.isascii() or not size.isdigit() or len(size) > 20:
            raise Damaged("tar: size of a member", volume=name, at=at, found=size[:40])
        return Member(path, "file", int(size))
    if info.type == tarfile.DIRTYPE:
        return Member(path, "folder", 0)
    if info.type in LINKS or info.type in OTHERS:
        return Member(path, "link" if info.type in LINKS else "other", 0)
    raise Unsupported("tar: a member of an unknown kind", volume=name, at=at, found=info.type)


def extended(info: tarfile.TarInfo, stream: Stream, at: int) -> dict[str, str]:
    """Read a header that extends the next one, and return what it says of that."""
    if info.size > MAX_EXTRA:
        raise Refused(
            "tar: an extended header is too long",
            volume=stream.name,
            at=at,
            expected=f"<= {MAX_EXTRA} bytes",
            found=info.size,
        )
    data = stream.take(info.size)
    stream.take(-info.size % BLOCK)
    if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        name = data.split(b"\0")[0].decode("utf-8", "surrogateescape")
        return {"path": name} if info.type == tarfile.GNUTYPE_LONGNAME else {}
    found = dict(records(data, stream.name, at))
    if info.type == tarfile.XGLTYPE:
        if {"path", "size"} & set(found) or any(key.startswith("GNU.sparse") for key in found):
            raise Unsupported("tar: one header that names every member", volume=stream.name, at=at)
        return {}
    return found


def records(data: bytes, name: str, at: int) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of a pax header: "length key=value", a line each; raises Damaged."""
    done = 0
    while done < len(data) and data[done]:
        match = RECORD.match(data, done)
        end = done + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise Damaged("tar: a record of an extended header", volume=name, at=at)
        key, value = match[2], data[match.end() : end - 1]
        yield key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
        done = end
