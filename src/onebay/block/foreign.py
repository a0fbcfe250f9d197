"""Disks in files that are no raw disks: those of qemu's formats are served by qemu-nbd, packed ones unpacked.

qemu-nbd gets the format by name and the file alone: no backing file, no data file, no extents elsewhere,
unless the user allows it. It listens on a socket in a folder that is gone as soon as we are connected, and
ends by itself with the connection, so that nothing is left behind even where we are killed.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebay.base import tool
from onebay.base.error import Damaged, Denied, Error, Incomplete, Missing, Refused, ToolFailed, Unsupported
from onebay.base.event import silent
from onebay.block.container import AS_RAW, Container, detect, expected_by_name
from onebay.block.file import FileVolume
from onebay.block.nbd import NbdVolume, connect
from onebay.block.open import guess_sector_size, open_disk
from onebay.block.unpack import CODECS, unpack
from onebay.block.whole import refuse_short

if TYPE_CHECKING:
    import socket
    from subprocess import Popen

    from onebay.base.event import Report
    from onebay.block.volume import Volume

# what the user may call a format -> qemu's name
NAMES = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc", "vhdx": "vhdx", "vmdk": "vmdk", "vdi": "vdi"}
MAX_SIZE = 64 << 40  # bytes of a disk in a container, unless the user says more
# block/file-posix.c, raw_check_lock_bytes
LOCKED = re.compile(r'Failed to get (shared )?("[^"]*" )?lock')
PATIENCE = 60  # seconds until qemu-nbd has read the metadata of a large file


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a file may lead whoever reads it as a disk; `max_size` in bytes, `form` a key of NAMES."""

    scratch: Path
    form: str | None = None
    allow_backing: bool = False
    max_size: int | None = None


class QemuVolume(NbdVolume):
    """The disk in a container, served by a process of qemu-nbd that is ours alone."""

    def __init__(self, name: str, port: socket.socket, process: Popen[bytes]) -> None:
        self.process = process
        super().__init__(name, port)

    def close(self) -> None:
        super().close()
        end(self.process)


def end(process: Popen[bytes]) -> None:
    """Wait until qemu-nbd ended, and end it where it does not."""
    deadline = time.monotonic() + 5
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is None:
        process.kill()
    process.wait()


def open_input(
    path: Path, reading: Reading, *, sector_size: int | None = None, report: Report = silent
) -> Volume:
    """Open a disk for reading, whatever holds it: a block device, a raw image, a container, a packed image.

    Raises what `open_disk` raises, Unsupported for kinds nobody reads, Damaged (Truncated where the file has
    not all of its disk), ToolMissing without qemu, and Refused where the file leads to others or claims to be
    too large.
    """
    if not path.is_file():
        return open_disk(path, sector_size=sector_size)
    file = FileVolume(path)
    try:
        found = chosen(file, reading)
    except Error:
        file.close()
        raise
    if found is None:
        file.close()
        return open_disk(path, sector_size=sector_size, raw=True)
    try:
        refuse_others(file.name, found, reading)
        volume = (
            unpack(file, found.kind, scratch=reading.scratch, max_size=reading.max_size, report=report)
            if found.kind in CODECS
            else serve(path, found, allow_backing=reading.allow_backing)
        )
    finally:
        file.close()
    try:
        settle(volume, found, reading, sector_size)
        if found.kind not in CODECS:  # of a packed file, its own format says where it ends
            refuse_short(path, volume.size)
    except Error:
        volume.close()
        raise
    return volume


def chosen(file: FileVolume, reading: Reading) -> Container | None:
    """Return what the file is, or what the user says that it is; raises Damaged where its name says other."""
    if reading.form is not None:
        found = detect(file) if reading.form != "raw" else None
        if (found.kind if found else "raw") != NAMES[reading.form]:
            raise Damaged("not of that format", volume=file.name, expected=reading.form, found=found)
        return found
    found = detect(file)
    promised = expected_by_name(file.name)
    if promised is not None and (found.kind if found else None) != promised:
        raise Damaged(
            "the file is not what it is called",
            volume=file.name,
            expected=promised,
            found=found.kind if found else "no header or footer of that",
            hint=AS_RAW,
        )
    return found


def refuse_others(name: str, found: Container, reading: Reading) -> None:
    """Raise Refused where a container needs files that the user did not name."""
    if found.others and not reading.allow_backing:
        raise Refused(
            f"the {found.kind} is not whole, it leads to other files",
            volume=name,
            expected="one file",
            found=", ".join(found.others[:4]),
            hint="--allow-backing follows them, where you trust the file",
        )


def settle(volume: Volume, found: Container, reading: Reading, sector_size: int | None) -> None:
    """Check the size of what was opened, and find its sector size; raises Refused or Unsupported."""
    limit = reading.max_size or MAX_SIZE
    if volume.size > limit:
        raise Refused(
            f"the {found.kind} claims to be larger than is allowed",
            volume=volume.name,
            expected=f"<= {limit} bytes",
            found=volume.size,
            hint="--max-size",
        )
    if volume.size == 0:
        raise Refused("the disk is empty", volume=volume.name)
    if found.kind in CODECS and (inner := detect(volume)) is not None:
        raise Unsupported(
            f"a {inner.kind} in a {found.kind} file", volume=volume.name, hint="unpack it first"
        )
    volume.sector_size = sector_size or guess_sector_size(volume)


def description(path: Path, found: Container, *, allow_backing: bool) -> str:
    """Return what qemu is told to open: this file, in this format; raises Refused for odd names."""
    node: dict[str, Any] = {
        "driver": found.kind,
        "read-only": True,
        "file": {"driver": "file", "filename": str(path.absolute()), "read-only": True},
    }
    if found.kind in ("qcow2", "vmdk") and not allow_backing:
        node["backing"] = None
    if found.kind == "vpc":
        node["force_size_calc"] = "current_size"  # else qemu trusts the geometry, which is often less
    try:
        text = json.dumps(node, ensure_ascii=False)
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("the name of the file is no text, which qemu needs", volume=str(path)) from error
    return f"json:{text}"


def serve(path: Path, found: Container, *, allow_backing: bool) -> QemuVolume:
    """Let qemu-nbd serve a container and connect to it; raises what qemu says of the file."""
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        folder = Path(name)
        where, log = folder / "nbd", folder / "log"
        argv = ["qemu-nbd", "--read-only", f"--socket={where}", "--cache=writeback", "--aio=threads"]
        process = tool.spawn([*argv, description(path, found, allow_backing=allow_backing)], log=log)
        volume: QemuVolume | None = None
        port: socket.socket | None = None
        try:
            port = reach(str(where), process, path)
            volume = QemuVolume(str(path), port, process)
        except ToolFailed as error:  # it listens first and looks at the file then
            end(process)
            raise told(log.read_text("utf-8", "replace"), found, path) from error
        finally:
            if volume is None:
                process.kill()
                process.wait()
                if port is not None:
                    port.close()
    return volume


def reach(where: str, process: Popen[bytes], path: Path) -> socket.socket:
    """Connect as soon as qemu-nbd listens; raises ToolFailed where it ends instead."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        try:
            return connect(where)
        except OSError:
            if ended:
                raise ToolFailed("qemu-nbd ended at once", volume=str(path)) from None
        time.sleep(0.01)
    raise ToolFailed(f"qemu-nbd did not answer within {PATIENCE} s", volume=str(path))


def told(text: str, found: Container, path: Path) -> Error:
    """Turn what qemu says of a file that it cannot open into an error of ours."""
    lines = [line for line in text.strip().splitlines() if line] or ["no reason given"]
    last = next((line for line in lines if LOCKED.search(line)), lines[-1])  # a question follows that one
    _, mark, why = last.rpartition("}': ")
    why = why if mark else last.removeprefix("qemu-nbd: ")
    what = f"qemu cannot read it as {found.kind}: {why[:1].lower()}{why[1:]}"
    if LOCKED.search(why):
        return Refused(what, volume=str(path), hint="a running machine uses it")
    if "No such file" in why:
        return Incomplete(what, volume=str(path)) if found.others else Missing(what, volume=str(path))
    if "Permission denied" in why:
        return Denied(what, volume=str(path))
    return Damaged(what, volume=str(path), hint=f"qemu-img check -f {found.kind} {path}")
