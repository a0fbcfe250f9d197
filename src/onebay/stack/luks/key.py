"""The volume key, by cryptsetup: offline, as an ordinary user, from a copy of the header alone.

What the user has (a passphrase or the content of a key file) goes to the program's standard input, and the
volume key comes back in a file that nobody else may read, in a folder that goes away.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Refused, reason
from onebay.block.crypt import library

if TYPE_CHECKING:
    from onebay.block import Volume
    from onebay.stack.luks.layer import Luks

# LUKS2: two headers of up to 4 MiB, and key slots of up to 128 MiB; LUKS1 has 8 slots of less than 2 MiB.
MAX_AREA = 136 << 20
CHUNK = 1 << 20
NO_KEY = 2  # status of cryptsetup where a passphrase opens nothing
TIMEOUT = 600.0  # seconds: key slots may ask for gigabytes of memory and for patience


def open_luks(layer: Luks, key: bytes) -> Luks:
    """Return the layer with its payload above, opened with a passphrase or the content of a key file.

    Raises Refused where the key opens none of its slots, Unsupported where the payload cannot be read,
    ToolMissing, ToolFailed, and what reading the header raises.
    """
    payload = layer.openable()
    library()  # nobody should wait for the key slots first
    return layer.opened(volume_key(layer.below[0], payload.start, key))


def volume_key(volume: Volume, start: int, key: bytes) -> bytes:
    """Return the key of the payload that starts at byte `start`; raises what `open_luks` raises."""
    try:
        with tempfile.TemporaryDirectory(prefix="onebay-") as folder:  # mode 0700
            header, out = Path(folder, "header"), Path(folder, "volume-key")
            copy_header(volume, min(start, MAX_AREA), header)
            argv = ["cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key"]
            argv += ["--volume-key-file", str(out), "--key-file", "-", str(header)]
            done = tool.run(argv, stdin=key, timeout=TIMEOUT, ok=(0, NO_KEY))
            if done.status == NO_KEY:
                raise Refused("the key opens none of the key slots of LUKS", volume=volume.name)
            return out.read_bytes()
    except OSError as error:
        raise Refused(f"cannot keep a copy of the header: {reason(error)}", volume=volume.name) from error


def copy_header(volume: Volume, size: int, path: Path) -> None:
    """Copy the first bytes of a volume to a new file that nobody else may read, with holes for zeros."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for at in range(0, size, CHUNK):
            part = volume.read(at, min(CHUNK, size - at))
            if any(part):
                file.seek(at)
                file.write(part)
        file.truncate(size)
