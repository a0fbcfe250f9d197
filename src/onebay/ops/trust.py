"""Is an image the one that was meant: by its root digest, or by a signature over that digest.

The root digest covers every byte of an image (docs/image-format.md). What is signed is one line of text that
says so, and the signature is OpenSSL's, raw: `openssl pkeyutl -sign -rawin`, of a key that it signs whole
messages with, ed25519 for one (RFC 8032). A signature says who made an image, not that there is no newer one.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Refused, SourceError, reason
from onebay.image import Image, Stream

if TYPE_CHECKING:
    from onebay.source import Source

__all__ = ["Trust", "check_key", "parse_digest", "read_signature", "signed_text"]

MOST = 64 << 10  # bytes of a signature; the longest of OpenSSL's have some thousands
GOOD = "Signature Verified Successfully"
WRONG = "Signature Verification Failure"


@dataclass(frozen=True, slots=True)
class Trust:
    """What an image must be: its root `digest`, 32 bytes, or signed by the owner of `public_key`, a PEM file.

    Without either every image will do.
    """

    digest: bytes | None = None
    public_key: Path | None = None
    signature: bytes = b""

    def check(self, image: Image | Stream) -> None:
        """Raise Refused where the image is another one or not signed so, ToolFailed without OpenSSL.

        Of a pipe nothing is known before its end: what is not known yet is not refused.
        """
        root = image.root.digest if isinstance(image, Image) else image.root
        if root is None:
            return
        if self.digest is not None and root != self.digest:
            raise Refused(
                "is not the image that was asked for",
                volume=image.name,
                expected=f"sha256:{self.digest.hex()}",
                found=f"sha256:{root.hex()}",
            )
        if self.public_key is not None and not signed(root, self.public_key, self.signature):
            raise Refused(
                f"the signature is not one over this image by the owner of {self.public_key}",
                volume=image.name,
                found=f"sha256:{root.hex()}",
            )


def parse_digest(text: str) -> bytes:
    """Return the 32 bytes of "sha256:HEX"; raises ValueError."""
    match = re.fullmatch(r"sha256:([0-9a-f]{64})", text.strip().lower(), re.ASCII)
    if not match:
        raise ValueError(f"{text!r} is no digest; write sha256: and 64 hexadecimal digits")
    return bytes.fromhex(match[1])


def signed_text(root: bytes) -> bytes:
    """Return what is signed: a line that no other use of a key would sign by chance."""
    return f"onebay image sha256:{root.hex()}\n".encode()


def signed(root: bytes, public_key: Path, signature: bytes) -> bool:
    """Whether OpenSSL takes the signature for one by that key; raises Refused where it cannot use the key."""
    with tempfile.TemporaryDirectory(prefix="onebay-") as scratch:
        text, sig = Path(scratch) / "text", Path(scratch) / "sig"
        text.write_bytes(signed_text(root))
        sig.write_bytes(signature)
        argv: list[str | Path] = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin"]
        argv += ["-inkey", public_key.absolute(), "-in", text, "-sigfile", sig]
        done = tool.run(argv, timeout=60, ok=(0, 1))
    said = done.text.splitlines()
    if done.status == 0 and GOOD in said:
        return True
    if WRONG in said:
        return False
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    raise Refused(f"openssl cannot check a signature with this key: {' '.join(last)}", volume=str(public_key))


def read_signature(source: Source) -> bytes:
    """Return the signature that a source holds; raises SourceError where it is too long for one, or empty."""
    parts: list[bytes] = []
    size = 0
    for piece in source.stream():
        parts.append(piece[: MOST + 1])
        size += len(piece)
        if size > MOST:
            break
    if not 0 < size <= MOST:
        found = f"more than {MOST} bytes" if size else "nothing"
        raise SourceError("is no signature", volume=source.name, expected="some bytes", found=found)
    return b"".join(parts)


def check_key(public_key: Path) -> None:
    """Raise Refused where the key cannot be read, ToolFailed where OpenSSL is not installed."""
    tool.require("openssl")
    try:
        public_key.read_bytes()
    except OSError as error:
        raise Refused(reason(error), volume=str(public_key)) from error
