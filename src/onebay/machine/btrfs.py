"""Shrink a btrfs, which only a kernel can: ours where it may, else that of the worker.

Ours works on a loop device in a mount namespace of its own: whatever happens to the program, mount and loop
device go with it. It is asked only as root; where it cannot mount the file (no btrfs, no loop devices, a file
system of the same UUID that is mounted already), the worker does it.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from typing import TYPE_CHECKING

from onebay.base.error import ToolFailed
from onebay.base.event import Noted, silent
from onebay.base.tool import find, run
from onebay.machine.worker import Disk, resource, run_job

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report

SCRIPT = "btrfs-shrink.sh"
TIMEOUT = 12 * 3600.0
NOT_HERE = 77
OWN = ("unshare", "--mount", "--propagation", "private", "--pid", "--kill-child")


def shrink_btrfs(path: Path, want: int, *, cache: Path, here: bool = True, report: Report = silent) -> int:
    """Shrink the btrfs that fills the file at `path`, and return its bytes; the file keeps its length.

    `want` is in bytes; 0 means as small as it gets. The result may be larger: what could be done is done.
    `here` allows the use of this machine's own kernel. The file is checked afterwards. Raises ToolFailed,
    ToolMissing.
    """
    if here and os.geteuid() == 0 and all(map(find, ("unshare", "losetup", "mount"))):
        text = in_this_kernel(path, want)
        if text is not None:
            return size_in(text)
    report(Noted("a small virtual machine shrinks the btrfs", str(path)))
    script = f"{variables('/dev/vdb', '/media', want, loop=False)}\n{resource(SCRIPT)}"
    return size_in(run_job(script, [Disk(path)], cache=cache, timeout=TIMEOUT, report=report).log)


def in_this_kernel(path: Path, want: int) -> str | None:
    """Return what the script printed, or None where this machine cannot mount the file."""
    with tempfile.TemporaryDirectory(prefix="onebay-") as folder:
        script = f"{variables(str(path.resolve()), folder, want, loop=True)}\n{resource(SCRIPT)}"
        done = run([*OWN, "bash", "-c", script], timeout=TIMEOUT, ok=(0, 1, NOT_HERE))
    if done.status == 1 and b"unshare" in done.stderr:
        return None
    if done.status == 1:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-6:]
        raise ToolFailed(f"the btrfs cannot be shrunk: {' | '.join(last)}", volume=str(path))
    return done.text if done.status == 0 else None


def variables(store: str, folder: str, want: int, *, loop: bool) -> str:
    """Return the assignments that the script begins with."""
    return f"store={shlex.quote(store)} folder={shlex.quote(folder)} want={want} loop={int(loop)}"


def size_in(text: str) -> int:
    """Return the size that the script printed last; raises ToolFailed."""
    last = text.strip().splitlines()[-1:]
    words = last[0].split() if last else []
    if len(words) != 2 or words[0] != "size" or not words[1].isdigit():
        raise ToolFailed("the btrfs was shrunk, but to no size", found=" ".join(words))
    return int(words[1])
