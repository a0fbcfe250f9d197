"""Packages as input: tars as they are, under right checksums, in gzip; built from texts; encrypted ones."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from hashlib import blake2b, sha256
from zlib import crc32

from fuzz.disk import Disk, Seed, paged
from onebay.base.error import Error
from onebay.ops.payload import Payload, look, refuse_bad

BLOCK = 512
VERSION = b'majorversion="6"\nproductversion="6.2"\nbuildnumber="1"\nunique="synology_x_1+"\n'
KERNEL = b"kernel"
SYNO = b"%d 6 zImage 7 426\n#Synocksum 6 7 426\n" % crc32(KERNEL)
GRUB = b"(hd0,1)/zImage Encrypted: 9d432fe3b2c8f9bc7\n"
SHA = sha256(KERNEL).hexdigest().encode() + b"  zImage\n"
SUMS = ("VERSION", "GRUB_VER", "checksum.syno", "grub_cksum.syno", "SHA256SUMS")
MAX_SIZE = 32 << 20


def packed(members: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT, kinds: bytes = b"") -> bytes:
    """Make a tar, also with members of the types `kinds`; it ends with one block of zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for kind in kinds:
            info = tarfile.TarInfo(f"other-{kind}")
            info.type, info.linkname = bytes([kind]), "zImage"
            archive.addfile(info)
        size = archive.offset
    return out.getvalue()[:size] + bytes(BLOCK)


def sealed(entries: list[bytes]) -> bytes:
    """Make an encrypted package."""
    header = b"\x92\xc4\x02ab" + bytes([0x90 + len(entries)])
    for entry in entries:
        header += (
            b"\x92\xcd"
            + struct.pack(">H", len(entry))
            + b"\xc4\x20"
            + blake2b(entry, digest_size=32).digest()
        )
    return b"\1\xad\xbe\xef" + struct.pack("<I", len(header)) + header + bytes(64) + b"".join(entries)


@cache
def seeds() -> list[bytes]:
    """Return an input of each kind; the first byte says which one it is."""
    small = [("VERSION", VERSION)]
    texts = b"\0".join((VERSION, b'MODEL="DS1"\n', SYNO, GRUB, SHA))
    return [
        b"\0" + packed(small),
        b"\1" + packed([*small, ("a" * 120, b"x")]),
        b"\1" + packed(small, kinds=tarfile.SYMTYPE + tarfile.DIRTYPE + tarfile.FIFOTYPE),
        b"\1" + packed([*small, ("\u00e4" * 60, b"x")], tarfile.PAX_FORMAT),
        b"\2" + texts,
        b"\3" + sealed([b"one", b"two" * 50]),
        b"\4" + packed([*small, ("zImage", KERNEL), ("SHA256SUMS", SHA)]),
    ]


def mended(data: bytes) -> bytes:
    """Make the checksum of every block right that has the magic of a tar header."""
    out = bytearray(data)
    for at in range(0, len(out) - BLOCK + 1, BLOCK):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + BLOCK])
    return bytes(out)


def of_texts(data: bytes) -> bytes:
    """Make a package whose files that are read are the parts of an input, which zeros divide."""
    parts = data.split(b"\0", len(SUMS) - 1)
    return packed([*zip(SUMS, parts, strict=False), ("zImage", KERNEL)])


def content(data: bytes) -> bytes:
    """Return the file of an input."""
    kind, raw = data[0] % 5 if data else 0, data[1:]
    if kind == 1:
        return mended(raw)
    if kind == 2:
        return of_texts(raw)
    if kind == 3:
        return b"\1\xad\xbe\xef" + raw[4:]
    return gzip.compress(mended(raw), 1, mtime=0) if kind == 4 else raw


def package(data: bytes) -> None:
    """Read a file as a package, called one or not."""
    raw = content(data)
    size, pages = paged([raw])
    for name in ("disk", "disk.pat"):
        disk = Disk(Seed(name, (size,), BLOCK, pages))
        disk.name = name
        with suppress(Error):
            found = look(disk, max_size=MAX_SIZE)
            if found is not None:
                believable(found, size)


def believable(found: Payload, size: int) -> None:
    """Raise AssertionError where an answer cannot be true."""
    json.dumps(asdict(found)).encode()
    assert found.size == size, "size of the file"
    if found.packing == "none":
        assert sum(file.size for file in found.files) <= size, "members larger than the file"
    texts = [text for file in found.files for text in (file.name, file.verdict)]
    texts += [text for check in found.checks for text in (check.source, check.name, check.why)]
    texts += [found.model, found.version, found.build, found.update, *found.facts.values()]
    assert all(text.isprintable() for text in texts), "text that a terminal obeys"
    bad = {check.verdict for check in found.checks} >= {"fails"}
    try:
        refuse_bad(found)
    except Error:
        assert bad, "refused without a reason"
    else:
        assert not bad, "not refused"
