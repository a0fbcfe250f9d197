"""A file that gets its name when it is whole: it is written under a hidden one beside it."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from onebay.base.error import Refused

if TYPE_CHECKING:
    from pathlib import Path


def hidden_name(path: Path) -> Path:
    """Return a name beside `path` that nobody has, for the file while it is unfinished."""
    # a name has at most 255 bytes, and one character of it up to 4
    return path.parent / f".{path.name[:50]}.{secrets.token_hex(8)}.part"


def put_in_place(part: Path, path: Path, *, replace: bool) -> None:
    """Give the file `part`, which is on the medium already, the name `path`, durably.

    The caller unlinks `part` where it is still there. Without `replace` raises Refused where something has
    the name; raises OSError.
    """
    if replace:
        part.replace(path)
    else:
        link(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the medium; raises OSError."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def link(part: Path, path: Path) -> None:
    """Give a file another name; raises Refused where something has it, OSError."""
    try:
        os.link(part, path)  # unlike a renaming, it never replaces anything
    except FileExistsError as error:
        raise Refused("exists already", volume=str(path)) from error
    except OSError as error:  # a file system without hard links
        if path.exists():
            raise Refused("exists already", volume=str(path)) from error
        part.rename(path)
