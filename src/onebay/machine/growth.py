"""Let the worker's kernel grow a volume on an overlay of the disk, and say which bytes it changed.

The disk itself is only read. A key is handed over in a folder that nobody else may read and that goes away.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.event import Noted, silent
from onebay.machine.boot import overlay
from onebay.machine.worker import Disk, resource, run_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.base.event import Report
    from onebay.ops.inkernel import Kernel, Request

SECTOR = 512
CHUNK = 1 << 20
TIMEOUT = 3600.0


def worker_kernel(cache: Path, *, report: Report = silent) -> Kernel:
    """Return the kernel of the worker, which is built into `cache` where it is not there yet."""

    def grow(request: Request) -> Iterator[tuple[int, bytes]]:
        report(Noted(f"a small virtual machine grows the {request.kind}", request.name))
        with tempfile.TemporaryDirectory(prefix="onebay-") as name:
            scratch = Path(name)
            drive = overlay(Path(request.disk), scratch / "disk.qcow2")
            share = scratch / "share"
            share.mkdir()
            (share / "table").write_text(mapping(request), "ascii")
            (share / "key").write_bytes(request.key)
            script = f"kind={request.kind}\n{resource('grow.sh')}"
            disks = [Disk(drive.path, drive.format, request.sector_size)]
            run_job(script, disks, cache=cache, share=share, timeout=TIMEOUT, report=report)
            yield from changed(drive.path, scratch / "changed.img")

    return grow


def mapping(request: Request) -> str:
    """Return the device-mapper table of a volume, in sectors of 512 bytes."""
    lines, done = [], 0
    for start, end in request.pieces:
        lines.append(f"{done // SECTOR} {(end - start) // SECTOR} linear /dev/vdb {start // SECTOR}\n")
        done += end - start
    return "".join(lines)


def changed(over: Path, scratch: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (byte, content) of every cluster that an overlay holds itself; it loses its backing file."""
    listed = json.loads(tool.run(["qemu-img", "map", "--output=json", over]).text)
    ours = [(int(each["start"]), int(each["length"])) for each in listed if each["depth"] == 0]
    tool.run(["qemu-img", "rebase", "-u", "-b", "", over])
    tool.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", over, scratch], timeout=TIMEOUT)
    with scratch.open("rb") as file:
        for start, length in ours:
            for at in range(start, start + length, CHUNK):
                file.seek(at)
                yield at, file.read(min(CHUNK, start + length - at))
