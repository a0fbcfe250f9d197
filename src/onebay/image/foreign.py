"""Say what a file is that is no image of ours."""

from __future__ import annotations

from onebay.base.error import Error, Truncated, Unsupported
from onebay.block.open import CONTAINERS

TAR_AT = 257


def kind_of(head: bytes) -> str:
    """Name what begins with these bytes, 512 of them where the file has so many."""
    for magic, kind in CONTAINERS.items():
        if head.startswith(magic):
            return "a plain zstd file" if kind == "zstd" else f"a {kind} file"
    if head[TAR_AT : TAR_AT + 5] == b"ustar":
        return "a tar archive"
    if head[510:512] == b"\x55\xaa":
        return "a raw disk image"
    if head.lstrip()[:1] in (b"<", b"{"):
        return "text (a web page or an error message?)"
    if not any(head):
        return "zeros"
    return "unknown data"


def not_ours(name: str, head: bytes) -> Error:
    """Return the error for a file that begins with `head` and is no image of ours."""
    if not head:
        return Truncated("the image is empty", volume=name)
    kind = kind_of(head)
    hint = None
    if kind == "a plain zstd file":
        hint = "restore it with: zstd -dc IMAGE | dd of=TARGET bs=4M iflag=fullblock conv=fsync"
    elif kind == "a raw disk image":
        hint = "use it as DISK, it needs no restoring"
    return Unsupported(f"not an image of onebay: {kind}", volume=name, hint=hint)
