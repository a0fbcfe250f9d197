"""Loop devices and mounts, for whoever may have them: that is root, on a kernel that has loop devices."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool

if TYPE_CHECKING:
    from collections.abc import Iterator


def possible() -> bool:
    """Whether this process may make loop devices and mount them."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists() and tool.find("losetup") is not None


@contextmanager
def loop(path: Path, *, start: int = 0, end: int | None = None, writable: bool = False) -> Iterator[Path]:
    """Give bytes `start` to `end` of a file as a block device."""
    argv: list[str | Path] = ["losetup", "--find", "--show", "--offset", str(start)]
    if end is not None:
        argv += ["--sizelimit", str(end - start)]
    if not writable:
        argv.append("--read-only")
    device = Path(tool.run([*argv, path]).text.strip())
    try:
        yield device
    finally:
        tool.run(["losetup", "--detach", device])


@contextmanager
def mounted(device: Path, *options: str) -> Iterator[Path]:
    """Mount a device on a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="onebay-bench-") as folder:
        tool.run(["mount", "-o", ",".join(("noatime", *options)), device, folder])
        try:
            yield Path(folder)
        finally:
            tool.run(["umount", folder])
