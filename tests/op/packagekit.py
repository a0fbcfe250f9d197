"""What the tests of packages share: packages made by tar, gzip, md5sum, sha256sum, b2sum and od.

CRC-32 and size come from the last eight bytes that gzip writes (RFC 1952, 2.3.1), MD5 and SHA-256 from
coreutils, BLAKE2b from b2sum: none of it from our own code.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

ENV = {**os.environ, "LC_ALL": "C.UTF-8"}
VERSION = """majorversion="6"
minorversion="2"
productversion="6.2.4"
buildphase="GM"
buildnumber="25556"
smallfixnumber="2"
builddate="2021/03/18"
unique="synology_apollolake_918+"
"""
FILES = ("VERSION", "zImage", "rd.gz", "hda1.tgz", "packages/notes-1.0.spk")
# The columns of checksum.syno as its public description has them, for files whose sample is in the middle.
SYNO = r"""
files=0 xs=0 ys=0
for name do
    set -- $(gzip -c1 "$name" | tail -c 8 | od -An -v -tu4 --endian=little)
    at=$((1804289383 % $2))
    y=0
    for byte in $(od -An -v -tu1 -j "$at" -N 4 "$name"); do y=$((y + byte)); done
    echo "$1 $2 $name $((at + $2)) $y"
    files=$((files + $2)) xs=$((xs + at + $2)) ys=$((ys + y))
done
echo "#Synocksum $files $xs $ys"
"""
# The first digit of each byte of the MD5 as printf writes it, and both of the last.
GRUB = r"""
for name do
    digits= last=
    for byte in $(md5sum "$name" | cut -c1-32 | sed 's/../& /g'); do
        last=$(printf %x "0x$byte")
        digits=$digits$(echo "$last" | cut -c1)
    done
    echo "(hd0,1)/$name Encrypted: ${digits%?}$last"
done
"""


def shell(script: str, folder: Path, *args: str) -> str:
    argv = ["sh", "-euc", script, "sh", *args]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True, env=ENV)
    return done.stdout


def make_files(folder: Path, seed: int = 1) -> Path:
    """Make the members of a package with all three kinds of checksums."""
    folder.mkdir(parents=True)
    (folder / "packages").mkdir()
    (folder / "VERSION").write_text(VERSION)
    for number, name in enumerate(FILES[1:]):
        size = 70_001 + 1_300_007 * number
        block = b"".join(
            struct.pack("<I", (seed + number + i * 2654435761) & 0xFFFFFFFF) for i in range(4096)
        )
        (folder / name).write_bytes((block * (size // len(block) + 1))[:size])
    (folder / "checksum.syno").write_text(shell(SYNO, folder, *FILES))
    (folder / "grub_cksum.syno").write_text(shell(GRUB, folder, "zImage", "rd.gz"))
    (folder / "SHA256SUMS").write_text(shell('sha256sum -- "$@"', folder, *FILES))
    return folder


def pack(folder: Path, target: Path, *options: str, names: tuple[str, ...] = ()) -> Path:
    """Make a tar of a folder by GNU tar."""
    everything = (*FILES, "checksum.syno", "grub_cksum.syno", "SHA256SUMS")
    argv = ["tar", *options, "-cf", str(target), "-C", str(folder), "--", *(names or everything)]
    subprocess.run(argv, check=True, capture_output=True, env=ENV)
    return target


def blake2b(data: bytes) -> bytes:
    done = subprocess.run(["b2sum", "-l", "256"], input=data, capture_output=True, check=True)
    return bytes.fromhex(done.stdout.split()[0].decode())


def seal(entries: list[bytes], *, bin_hash: bool = True) -> bytes:
    """Make an encrypted package after its public description; what is in the entries matters to nobody."""
    header = b"\x92" + b"\xc4\x20" + bytes(range(32)) + b"\xdc" + struct.pack(">H", len(entries))
    for entry in entries:
        kind = b"\xc4\x20" if bin_hash else b"\xda\x00\x20"
        header += b"\x92\xce" + struct.pack(">I", len(entry)) + kind + blake2b(entry)
    return b"\x02\xad\xbe\xef" + struct.pack("<I", len(header)) + header + b"S" * 64 + b"".join(entries)
