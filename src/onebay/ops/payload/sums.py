"""The checksums that a package gives of its own members, and whether they hold.

checksum.syno: a line a file, "CRC SIZE NAME X Y": CRC-32 as gzip and zip have it, in decimal digits; X is
SIZE plus an offset, 1804289383 (the first random() of the C library) modulo SIZE; Y is the sum of the four
bytes at that offset. At the end "#Synocksum SIZES XS YS", the sums of the columns. Known from
synochecksum.c 1.7 (2008, flipflip and Emmanuel), whose packages the appliances took; X and Y also from two
lines of DSM_DS918+_25556 in RedPill-TTG/dsm-research. Where the offset is 0 or the four bytes are not all
there, the two ways that the program offers differ, and X and Y are not judged. The total is not known from
any package, and can only hold.

grub_cksum.syno: "(hd0,1)/NAME Encrypted: DIGITS", read by the appliance's GRUB. DIGITS are from the MD5:
of each byte the first digit as printf("%x") writes it, of the last byte both. Known from two files and
their MD5 in jxcn.org/2022/04/vdsm-rd. Other numbers of digits (their u-boot has a sum of 32 bits) are not
judged.

SHA256SUMS: what sha256sum writes, also with --tag, also with escaped names.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from onebay.base.error import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

RANDOM = 1804289383
SAMPLE = 4
MASK = 0xFFFFFFFF
MAX_LINES = 1 << 17
MAX_LINE = 8192  # bytes; what is longer is cut, and names nothing then
MD5_DIGITS = 17
SYNO = re.compile(rb"(\d{1,10}) (\d{1,20}) (.+) (-?\d{1,20}) (-?\d{1,20})")
SYNO_TOTAL = re.compile(rb"#Synocksum (\d{1,20}) (-?\d{1,20}) (-?\d{1,20})")
GRUB = re.compile(rb"\(hd\d+,(?:msdos|gpt)?\d+\)/(.+) Encrypted: ([0-9a-fA-F]+)")
SHA256 = re.compile(rb"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
SHA256_TAG = re.compile(rb"(\\?)SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
ESCAPES = {b"\\n": b"\n", b"\\r": b"\r", b"\\\\": b"\\"}

Verdict = Literal["holds", "fails", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """One statement of `source` about the member `name`; `why` says what is wrong or not known."""

    source: str
    name: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Digest:
    """What is computed of a member in passing; `sample` is the sum of the bytes at `sample_at(size)`."""

    size: int
    crc: int
    md5: bytes
    sha256: bytes
    sample: int | None


def sample_at(size: int) -> int | None:
    """Return where the four bytes of X and Y lie in a file of `size` bytes, None where that is not sure."""
    at = RANDOM % size if size else 0
    return at if 0 < at <= size - SAMPLE else None


def digest(parts: Iterable[memoryview], size: int) -> Digest:
    """Compute everything of a member in one pass."""
    crc, md5, sha256 = 0, hashlib.md5(usedforsecurity=False), hashlib.sha256()
    start = sample_at(size)
    sample = b""
    at = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
        md5.update(part)
        sha256.update(part)
        if start is not None:
            sample += part[max(0, start - at) : max(0, start + SAMPLE - at)]
        at += len(part)
    return Digest(size, crc, md5.digest(), sha256.digest(), None if start is None else sum(sample))


def key(name: str) -> str:
    """Return a member's name without what means nothing in it: "./" before, "/" behind."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name.rstrip("/")


class Known:
    """What is known of the members that checksums speak of: a digest, or why there is none."""

    def __init__(self, digests: Mapping[str, Digest | str]) -> None:
        self.digests = digests

    def judge(self, source: str, name: bytes, differs: Callable[[Digest], str]) -> Check:
        """Return the verdict about one member; `differs` says what is wrong with it, "" for nothing."""
        text = name.decode("utf-8", "surrogateescape")
        found = self.digests.get(key(text), "is not in the package")
        why = found if isinstance(found, str) else differs(found)
        return Check(source, text, "fails" if why else "holds", why)


def differs(what: str, expected: object, found: object) -> str:
    """Say that two values are not the same, or nothing."""
    return "" if expected == found else f"{what}: expected {expected}, found {found}"


def lines(source: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) for those that are not empty; raises Refused where there are too many."""
    if data.count(b"\n") > MAX_LINES:
        raise Refused(f"{source}: too many lines", expected=f"<= {MAX_LINES}", found=data.count(b"\n"))
    for number, line in enumerate(data.split(b"\n"), 1):
        if text := line[:MAX_LINE].rstrip(b"\r \t"):
            yield number, text


def odd(source: str, number: int) -> Check:
    """Return the verdict about a line that is none."""
    return Check(source, f"line {number}", "fails", "is not of the form that this file has")


def syno(source: str, data: bytes, known: Known) -> Iterator[Check]:
    """Yield the verdicts of a checksum.syno."""
    columns = [0, 0, 0]
    for number, line in lines(source, data):
        if total := SYNO_TOTAL.fullmatch(line):
            fits = all(
                (int(value) - own) & MASK == 0 for value, own in zip(total.groups(), columns, strict=True)
            )
            why = "" if fits else "differs from the sums of the lines as far as their rule is known"
            yield Check(source, "its own total", "holds" if fits else "unknown", why)
        elif line.startswith(b"#"):
            continue
        elif found := SYNO.fullmatch(line):
            crc, size, name, x, y = found.groups()
            columns = [own + int(value) for own, value in zip(columns, (size, x, y), strict=True)]
            wanted = (int(crc), int(size), int(x), int(y))
            yield known.judge(source, name, partial(syno_differs, wanted))
        else:
            yield odd(source, number)


def syno_differs(wanted: tuple[int, int, int, int], member: Digest) -> str:
    """Say which column of a line of checksum.syno is wrong; X and Y are of 32 bits in the known programs."""
    crc, size, x, y = wanted
    why = differs("size in bytes", size, member.size) or differs("crc-32", crc, member.crc)
    start = sample_at(member.size)
    if why or start is None:
        return why
    return differs("offset of its sample", x & MASK, (start + member.size) & MASK) or differs(
        "sum of its sample", y, member.sample
    )


def grub(source: str, data: bytes, known: Known) -> Iterator[Check]:
    """Yield the verdicts of a grub_cksum.syno."""
    for number, line in lines(source, data):
        found = GRUB.fullmatch(line)
        if found is None:
            yield Check(source, f"line {number}", "unknown", "is not of the form that is known")
        elif not MD5_DIGITS - 1 <= len(found[2]) <= MD5_DIGITS:
            name = found[1].decode("utf-8", "surrogateescape")
            yield Check(source, name, "unknown", f"a sum of {len(found[2])} digits, which is not known")
        else:
            yield known.judge(source, found[1], partial(grub_differs, found[2].decode("ascii").lower()))


def grub_differs(digits: str, member: Digest) -> str:
    """Say whether the digits differ; those of the last byte count where both of them are written."""
    own = "".join(f"{byte:x}"[0] for byte in member.md5[:-1]) + f"{member.md5[-1]:x}"
    count = MD5_DIGITS if len(own) == MD5_DIGITS else MD5_DIGITS - 2
    return differs("digits of the md5", digits[:count], own[:count])


def sha256sums(source: str, data: bytes, known: Known) -> Iterator[Check]:
    """Yield the verdicts of a SHA256SUMS."""
    for number, line in lines(source, data):
        if line.startswith(b"#"):
            continue
        if found := SHA256.fullmatch(line):
            escaped, wanted, name = found.groups()
        elif found := SHA256_TAG.fullmatch(line):
            escaped, name, wanted = found.groups()
        else:
            yield odd(source, number)
            continue
        if escaped:
            name = re.sub(rb"\\[nr\\]", lambda pair: ESCAPES[pair[0]], name)
        yield known.judge(source, name, partial(sha256_differs, wanted.decode("ascii").lower()))


def sha256_differs(wanted: str, member: Digest) -> str:
    """Say whether the digest differs."""
    return differs("sha-256", wanted, member.sha256.hex())


READERS = MappingProxyType({"checksum.syno": syno, "grub_cksum.syno": grub, "SHA256SUMS": sha256sums})
