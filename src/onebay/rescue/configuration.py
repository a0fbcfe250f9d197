"""Settings that a rescue system is given from outside: built into it, or as an archive beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onebay.base.error import Refused, reason
from onebay.rescue.files import cpio_of, regular
from onebay.rescue.live.layers import merge
from onebay.rescue.live.settings import MOST, Document, parse, parse_document
from onebay.rescue.live.values import ssh_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BUILT_IN = "etc/onebay/built-in.json"  # in the system
ARCHIVED = "onebay/settings.json"  # in the initramfs; init.sh brings it into the system


def read_settings(path: Path | None, keys: Sequence[Path]) -> Document:
    """Return the document of a file with the keys of others added; raises Refused, naming file and key."""
    document: Document = {"version": 1}
    if path is not None:
        try:
            document = parse_document(content(path))
            if "job" in document:
                parse(document)
        except Refused as error:
            raise Refused(error.what, volume=str(path), expected=error.expected, found=error.found) from error
    for place in keys:
        lines = content(place).decode("utf-8", "replace").splitlines()
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise Refused("there is no key in it", volume=str(place))
        for number, line in enumerate(found, 1):
            try:
                document = merge(document, {"ssh": {"authorized_keys": [ssh_key(line, f"line {number}")]}})
            except Refused as error:
                raise Refused(
                    error.what, volume=str(place), expected=error.expected, found=error.found
                ) from error
    return document


def content(path: Path) -> bytes:
    """Return what a file holds; raises Refused."""
    try:
        with path.open("rb") as file:
            return file.read(MOST + 1)
    except OSError as error:
        raise Refused(reason(error), volume=str(path)) from error


def text(document: Document) -> bytes:
    """Return a document as a file, the same for the same settings."""
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def archive(document: Document) -> bytes:
    """Return a document as a cpio archive that the kernel unpacks behind the initramfs."""
    return cpio_of({ARCHIVED: regular(text(document), 0o600)})
