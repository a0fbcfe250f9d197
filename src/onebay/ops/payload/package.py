"""An appliance's system package (.pat): what it is for, what is in it, whether its own checksums hold.

A package is a tar, plain or in gzip or xz, with a file VERSION at its top that names a system's version;
or it is encrypted, and then only whether it is whole can be said. It is read once, as a stream; nothing is
unpacked to disk. Known from public sources alone, which the modules of this folder name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from onebay import table
from onebay.base.error import BadChecksum, BadMagic, Damaged, Error, Refused
from onebay.base.event import Began, Ended, Moved, silent
from onebay.block import FileVolume
from onebay.block.open import guess_sector_size
from onebay.block.unpack import CODECS, pieces
from onebay.ops.payload import sealed, tar, version
from onebay.ops.payload.stream import Stream, plain, shown
from onebay.ops.payload.sums import READERS, Check, Digest, Known, Verdict, digest, key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import Volume

Packing = Literal["none", "gzip", "xz"]

OP = "read package"
MAX_SIZE = 8 << 30  # bytes of a package, unpacked, unless the user says more
VERSION, GRUB_VERSION = "VERSION", "GRUB_VER"
# what is kept in memory, with the most bytes that it may have
KEPT = MappingProxyType({VERSION: 64 << 10, GRUB_VERSION: 64 << 10, **dict.fromkeys(READERS, 16 << 20)})
SUFFIX = ".pat"
PACKED: tuple[Packing, ...] = ("gzip", "xz")
SIGNATURE = b"\x55\xaa"  # of a boot sector
GPT = b"EFI PART"
START = 4104  # bytes that tell a tar from a disk, with sectors of 512 or 4096 bytes
WHOLE = "the package"
NO_CONTENT = MappingProxyType(
    {"folder": "is a folder", "link": "is a link, which is not followed", "other": "is no file"}
)
WORSE: tuple[Verdict, ...] = ("holds", "unknown", "fails")


@dataclass(frozen=True, slots=True)
class File:
    """A member: its name as it may be shown, `kind` (file, folder, link, other), size in bytes.

    `verdict` is that of all checksums about it together, "" where the package gives none.
    """

    name: str
    kind: str
    size: int
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Payload:
    """What is known of a package; `size` is that of the file in bytes.

    Of an encrypted one `model`, `version`, `build`, `update`, `facts` and `files` are empty; `entries` is
    the number of members, of either. `facts` is all that VERSION says. Text that comes out of the package
    has only printable characters.
    """

    name: str
    size: int
    encrypted: bool
    packing: Packing
    model: str
    version: str
    build: str
    update: str
    facts: dict[str, str]
    entries: int
    files: tuple[File, ...]
    checks: tuple[Check, ...]

    @property
    def bad(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if check.verdict == "fails")


def read_payload(path: Path, *, max_size: int | None = None, report: Report = silent) -> Payload:
    """Read a package; `max_size` limits in bytes what it may unpack to.

    Raises BadMagic where the file is none, and what `find_payload` raises.
    """
    found = find_payload(path, max_size=max_size, report=report)
    if found is None:
        raise BadMagic("no package: neither a tar with a VERSION in it nor encrypted", volume=str(path))
    return found


def find_payload(path: Path, *, max_size: int | None = None, report: Report = silent) -> Payload | None:
    """Read a package, or return None where the file is none (a device, a disk image, another tar).

    Raises Truncated, Damaged, Unsupported, Refused (too large), or what opening the file raises.
    """
    if not path.is_file():
        return None
    file = FileVolume(path)
    try:
        return look(file, max_size=max_size or MAX_SIZE, report=report)
    finally:
        file.close()


def refuse_bad(payload: Payload) -> None:
    """Raise BadChecksum where a checksum that the package gives of itself does not hold."""
    if not payload.bad:
        return
    first = payload.bad[0]
    more = len(payload.bad) - 1
    raise BadChecksum(
        f"{first.source}: {first.name}: {first.why}" + (f" (and {more} more)" if more else ""),
        volume=payload.name,
        hint="get the package again from where it came",
    )


def look(file: Volume, *, max_size: int = MAX_SIZE, report: Report = silent) -> Payload | None:
    """Read a package from a volume, or return None where it is none; raises what `find_payload` raises."""
    head = file.read(0, min(tar.BLOCK, file.size))
    if sealed.is_sealed(head, named=is_named(file)):
        return None if has_table(file) else read_sealed(file, max_size, report)
    if tar.is_tar(head):
        return None if has_table(file) else read_tar(file, "none", plain(file), max_size, report)
    for packing in PACKED:
        codec = CODECS[packing]
        if head.startswith(codec.magic) and (source := packed_tar(pieces(file, codec, packing))):
            return read_tar(file, packing, source, max_size, report)
    return None


def is_named(file: Volume) -> bool:
    """Whether a file is called a package, so that it is told why it is none."""
    return file.name.lower().endswith(SUFFIX)


def has_table(file: Volume) -> bool:
    """Whether there is a partition table, or what claims to be one, or what cannot be read for it."""
    try:
        file.sector_size = guess_sector_size(file)
        return table.probe(file) is not None
    except Error:
        return True


def packed_tar(source: Iterator[bytes]) -> Iterator[bytes] | None:
    """Return what a packed file holds where that begins like a tar and not like a disk, else None."""
    start = b""
    try:
        while len(start) < START and (piece := next(source, b"")):
            start += piece
    except Error:
        return None  # whoever opens it as a disk says what is wrong
    disk = start[510:512] == SIGNATURE or GPT in (start[512:520], start[4096:4104])
    return None if disk or not tar.is_tar(start[: tar.BLOCK]) else chain((start,), source)


def told(source: Iterator[bytes], report: Report) -> Iterator[bytes]:
    """Pass bytes on, and report how many there were."""
    done = 0
    for piece in source:
        yield piece
        done += len(piece)
        report(Moved(OP, done))


def read_sealed(file: Volume, max_size: int, report: Report) -> Payload:
    """Read an encrypted package: only its list of entries, and whether they are whole."""
    report(Began(OP, file.name, file.size))
    entries, start = sealed.read_entries(file)
    stream = Stream(told(plain(file), report), file.name, max_size)
    stream.take(start)
    checks = tuple(sealed.verify(entries, stream, file.size))
    report(Ended(OP, 0.0, f"{len(entries)} entries"))
    return Payload(file.name, file.size, True, "none", "", "", "", "", {}, len(entries), (), checks)


def read_tar(
    file: Volume, packing: Packing, source: Iterator[bytes], max_size: int, report: Report
) -> Payload | None:
    """Read a tar to its end; None where it is no package: other bytes follow, or no VERSION is in it.

    What is called .pat must be one.
    """
    report(Began(OP, file.name, file.size if packing == "none" else 0))
    name = file.name if packing == "none" else f"{file.name}, unpacked"
    stream = Stream(told(source, report), name, max_size)
    contents = Contents(name)
    named = is_named(file)
    try:
        for member in tar.members(stream):
            contents.add(member, stream)
        end = stream.at
        alone = stream.drain()
    except Error:
        if named or contents.is_package():
            raise
        alone = False
    if not named and not (alone and contents.is_package()):
        report(Ended(OP, 0.0, "it is none"))
        return None
    if not contents.is_package():
        what = "a tar, but no package: there is no VERSION in it that names a version"
        raise Damaged(what, volume=file.name)
    if not alone:
        contents.checks.append(Check(WHOLE, "its end", "unknown", f"other bytes follow byte {end:#x}"))
    report(Ended(OP, 0.0, f"{len(contents.members)} members"))
    return contents.payload(file, packing)


class Contents:
    """What a tar turns out to hold while it is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: list[tar.Member] = []
        self.digests: dict[str, Digest | str] = {}  # a text says why there is none
        self.kept: dict[str, bytes] = {}
        self.checks: list[Check] = []

    def add(self, member: tar.Member, stream: Stream) -> None:
        """Take one member and its content."""
        name = key(member.name)
        found = self.content(name, member, stream) if member.kind == "file" else NO_CONTENT[member.kind]
        if name not in self.digests:
            self.digests[name] = found
        elif not found == self.digests[name] == NO_CONTENT["folder"]:
            self.digests[name] = "is in the package more than once"
            self.wrong(member, "is there more than once")
        if name.startswith("/") or ".." in name.split("/"):
            self.wrong(member, "leads out of the package")
        self.members.append(member)

    def content(self, name: str, member: tar.Member, stream: Stream) -> Digest:
        """Take the content of a file, and keep what is needed later."""
        if name not in KEPT:
            return digest(stream.parts(member.size), member.size)
        if member.size > KEPT[name]:
            raise Damaged(
                f"{name}: too large for such a file",
                volume=stream.name,
                at=stream.at,
                expected=f"<= {KEPT[name]} bytes",
                found=member.size,
            )
        data = self.kept[name] = stream.take(member.size)
        return digest([memoryview(data)], member.size)

    def wrong(self, member: tar.Member, why: str) -> None:
        """Note what no sound package does."""
        self.checks.append(Check(WHOLE, member.name, "fails", why))

    def is_package(self) -> bool:
        """Whether a VERSION of the kind that packages have was seen."""
        return version.is_version(version.read_keys(self.kept.get(VERSION, b"")))

    def payload(self, file: Volume, packing: Packing) -> Payload:
        """Return what was found, with the verdict of every checksum."""
        known = Known(self.digests)
        for source, reader in READERS.items():
            try:
                self.checks.extend(reader(source, self.kept.get(source, b""), known))
            except Refused as error:
                error.volume = self.name
                raise
        facts = {name: shown(text) for name, text in version.read_keys(self.kept[VERSION]).items()}
        grub = version.read_keys(self.kept.get(GRUB_VERSION, b""))
        return Payload(
            name=file.name,
            size=file.size,
            encrypted=False,
            packing=packing,
            model=facts.get("unique") or shown(grub.get("MODEL", "")),
            version=version.version_of(facts),
            build=facts.get("buildnumber", ""),
            update=facts.get("smallfixnumber", ""),
            facts=facts,
            entries=len(self.members),
            files=tuple(self.files()),
            checks=tuple(replace(check, name=shown(check.name)) for check in self.checks),
        )

    def files(self) -> Iterator[File]:
        """Yield the members with the worst verdict about each."""
        worst: dict[str, Verdict] = {}
        for check in self.checks:
            name = key(check.name)
            worst[name] = max(worst.get(name, check.verdict), check.verdict, key=WORSE.index)
        for member in self.members:
            yield File(shown(member.name), member.kind, member.size, worst.get(key(member.name), ""))
