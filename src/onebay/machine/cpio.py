"""The cpio "newc" archive, as far as an initramfs needs it: a few small files appended to a made one.

Documentation/driver-api/early-userspace/buffer-format.rst of the kernel: archives may follow one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAILER = "TRAILER!!!"


def archive(files: Mapping[str, bytes], *, mode: int = 0o100755) -> bytes:
    """Return an archive of regular files."""
    parts = [member(number, name, mode, content) for number, (name, content) in enumerate(files.items(), 1)]
    return b"".join([*parts, member(0, TRAILER, 0, b"")])


def member(number: int, name: str, mode: int, content: bytes) -> bytes:
    """Return one file with its header, padded to four bytes."""
    raw = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    return padded(padded(head) + content)


def padded(data: bytes) -> bytes:
    """Pad to a multiple of four bytes."""
    return data + b"\0" * (-len(data) % 4)
