"""Write an export: raw and packed files by ourselves, the formats of virtual machines by qemu-img.

A file gets its name when it is whole; what an interruption leaves is removed. qemu-img reads the disk from a
socket (block/serve.py), so that nothing is copied in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import tempfile
import time
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import NOTHING_WRITTEN, Refused, ToolFailed
from onebay.base.event import Began, Ended, Moved, silent
from onebay.base.extent import ExtentSet
from onebay.base.newfile import hidden_name, put_in_place
from onebay.block import create_disk, serving
from onebay.ops.exportsums import file_sum, write_bmap, write_sums
from onebay.ops.run import on_failure
from onebay.ops.target import filled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.ops.export import Export

OP = "export"
CHUNK = 1 << 20
WINDOW = 1 << 30
ZEROS = bytes(CHUNK)
LONGEST = 14 * 24 * 3600.0  # seconds that qemu-img may take
GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952: deflate, no name, no time, any system
TAR_RECORD = 10240


def write_export(
    export: Export,
    out: Path,
    *,
    bmap: bool = False,
    sums: bool = False,
    threads: int = 2,
    report: Report = silent,
) -> list[Path]:
    """Write `out`, and beside it on request OUT.bmap and SHA256SUMS; return what was written.

    Raises Refused where there is no space, ToolFailed, and what reading the disk raises.
    """
    began = time.monotonic()
    written = [out]
    with on_failure(f"{NOTHING_WRITTEN} to the disk; the unfinished export was removed", export.view.name):
        with unfinished(out) as part, contextlib.ExitStack() as stack:
            report(Began(OP, str(out), export.view.size))
            fill_file(export, part, threads, report)
            hashes = {out.name: file_sum(part)} if sums else {}
            if bmap:
                beside = out.with_name(f"{out.name}.bmap")
                map_part = stack.enter_context(unfinished(beside))
                write_bmap(map_part, export.view, export.mapped)
                written.append(beside)
                if sums:
                    hashes[beside.name] = file_sum(map_part)
        if sums:
            listing = out.with_name("SHA256SUMS")
            with unfinished(listing) as part:
                write_sums(listing, part, hashes)
            written.append(listing)
    report(Ended(OP, time.monotonic() - began, str(out)))
    return written


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a file beside `path` that becomes `path`, durably, where the block ends well; else it goes."""
    part = hidden_name(path)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        put_in_place(part, path, replace=True)
    finally:
        part.unlink(missing_ok=True)


def fill_file(export: Export, part: Path, threads: int, report: Report) -> None:
    """Write the export to the file `part`; raises Refused where a program says that there is no space."""
    view, form = export.view, export.form
    try:
        if form.driver:
            convert(export, part, threads, report)
        elif form.name == "raw":
            write_raw(view, part, report)
        elif form.name == "img.xz":
            write_xz(view, part, threads, report)
        else:
            pieces = chunks(view, report)
            with part.open("xb") as file:
                write_gzip(file, as_tar(view, pieces) if form.name == "tar.gz" else pieces, threads)
    except ToolFailed as error:
        if "No space left" in str(error):
            raise Refused("no space left while writing", volume=str(part.parent)) from error
        raise


def chunks(view: Volume, report: Report) -> Iterator[tuple[int, bytes | None]]:
    """Yield the disk in pieces of 1 MiB as (size in bytes, content), None where all of it is zero."""
    for base in range(0, view.size, WINDOW):
        end = min(base + WINDOW, view.size)
        known = ExtentSet.of(view.data(base, end))
        for at in range(base, end, CHUNK):
            size = min(CHUNK, end - at)
            data = view.read(at, size) if known.overlaps(at, at + size) else None
            yield size, None if data is None or data == ZEROS[:size] else data
            report(Moved(OP, at + size))


def write_raw(view: Volume, part: Path, report: Report) -> None:
    """Write a sparse raw file."""
    disk = create_disk(part, view.size, sector_size=view.sector_size)
    try:
        at = 0
        for size, data in chunks(view, report):
            for start, end in filled(memoryview(data)) if data is not None else ():
                disk.write(at + start, memoryview(data or b"")[start:end])
            at += size
        disk.flush()
    finally:
        disk.close()


def write_xz(view: Volume, part: Path, threads: int, report: Report) -> None:
    """Let xz write the file: one stream, in blocks that are compressed side by side."""
    with part.open("xb") as file, tool.feeding(["xz", "-z", "-c", f"-T{threads}"], file) as pipe:
        for size, data in chunks(view, report):
            pipe.write(ZEROS[:size] if data is None else data)


def as_tar(view: Volume, pieces: Iterable[tuple[int, bytes | None]]) -> Iterator[tuple[int, bytes | None]]:
    """Wrap the disk as disk.raw in a tar archive of the old GNU format."""
    entry = tarfile.TarInfo("disk.raw")
    entry.size, entry.mode = view.size, 0o644
    head = entry.tobuf(tarfile.GNU_FORMAT)
    yield len(head), head
    yield from pieces
    total = len(head) + view.size
    end = total + -total % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE
    rest = end + -end % TAR_RECORD - total
    yield rest, bytes(rest)


def write_gzip(file: IO[bytes], pieces: Iterable[tuple[int, bytes | None]], threads: int) -> None:
    """Write one gzip member; pieces are compressed each for itself, side by side, as pigz does."""
    crc = total = 0
    zeros: dict[int, bytes] = {}

    def jobs() -> Iterator[Callable[[], bytes]]:
        nonlocal crc, total
        for size, data in pieces:
            content = bytes(size) if data is None else data
            crc, total = zlib.crc32(content, crc), total + size
            if data is not None:
                yield partial(deflate, data)
                continue
            if size not in zeros:
                zeros[size] = deflate(content)
            yield partial(zeros.__getitem__, size)

    file.write(GZIP_HEAD)
    for out in ordered(jobs(), threads):
        file.write(out)
    file.write(zlib.compressobj(6, zlib.DEFLATED, -15).flush())
    file.write(crc.to_bytes(4, "little") + (total & 0xFFFFFFFF).to_bytes(4, "little"))


def deflate(content: bytes) -> bytes:
    """Compress to raw deflate blocks that end on a byte and are not the last."""
    codec = zlib.compressobj(6, zlib.DEFLATED, -15)
    return codec.compress(content) + codec.flush(zlib.Z_SYNC_FLUSH)


def ordered(jobs: Iterator[Callable[[], bytes]], threads: int) -> Iterator[bytes]:
    """Run jobs side by side and yield their results in order; a few wait at most."""
    pending: deque[Future[bytes]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="deflate")
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            while len(pending) > 4 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def convert(export: Export, part: Path, threads: int, report: Report) -> None:
    """Let qemu-img write the file from the disk that we serve; raises Refused where there is no space."""
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        where = Path(name) / "nbd"
        nbd = {"driver": "nbd", "server": {"type": "unix", "path": str(where)}}
        source = json.dumps({"driver": "raw", "file": nbd})
        argv = ["qemu-img", "convert", "-m", str(min(threads, 16)), "-O", export.form.driver]
        with serving(export.view, where, lambda at: report(Moved(OP, at))):
            tool.run([*argv, *export.form.options, f"json:{source}", part.absolute()], timeout=LONGEST)
