"""What is measured: for each verb and each disk the entries, how each is made ready, and how it is judged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import loop
from bench.check import Finding, Place, check, checker
from bench.frame import SIZE, place
from bench.measure import ROOT, Job, measure, one
from bench.peers import PEERS, End, Onebay, Peer, QemuImg, command
from bench.work import number
from onebay.base import tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from bench.work import Work

DECODE, WRITE = "floor-decode", "floor-write"
TIMES = (2, 64)
TIMEOUT = 3600


@dataclass
class Ready:
    """An entry, ready to run: what it reads is made cold; `target` is the file whose blocks are counted.

    `short`: programs and libraries stay in memory, because loading them would be all that is measured.
    """

    job: Job
    reads: list[Path]
    target: Path | None = None
    judge: Callable[[], list[Finding]] = list
    keep: Callable[[], None] = lambda: None
    short: bool = False


@dataclass
class Entry:
    """One contestant of one verb; `lacks` says why it does not take part."""

    name: str
    ready: Callable[[Path], AbstractContextManager[Ready]]
    lacks: str = ""


@dataclass
class Stage:
    """Where a disk's contests take place: `images` is filled by the captures, `url` leads to the same."""

    work: Work
    images: Path
    url: str = ""
    port: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def folder(self, peer: Peer) -> Path:
        """Return where a peer's image is kept between the verbs."""
        return self.images / peer.name

    def no_image(self, peer: Peer, *, device: bool) -> str:
        """Say why there is no image to restore; make one where that is all that is missing."""
        if reason := peer.lacks(self.work, device=device and loop.possible()):
            return reason
        if not self.folder(peer).exists() and peer.name not in self.failed:
            with capturing(self, peer, self.images, device=peer.devices) as ready:
                done = measure(ready.job)
                if done.failure:
                    self.failed[peer.name] = f"no image: {done.failure}"
                else:
                    ready.keep()
        return self.failed.get(peer.name, "")


@contextmanager
def end_of(work: Work, peer: Peer, file: Path, *, device: bool, writable: bool) -> Iterator[End]:
    """Give a disk in a file as the peer takes it: as a device, the partition alone, or as it is."""
    if not device:
        yield End(file, device=False)
        return
    part = peer.level != "disk"
    start, end = (work.start, work.end) if part else (0, None)
    with loop.loop(file, start=start, end=end, writable=writable) as found:
        yield End(found, device=True)


@contextmanager
def capturing(stage: Stage, peer: Peer, scratch: Path, *, device: bool) -> Iterator[Ready]:
    """Make a capture ready; the image stays where it is kept once it is whole."""
    out = scratch / f"{peer.name}.new"
    out.mkdir()

    def keep() -> None:
        final = stage.folder(peer)
        shutil.rmtree(final, ignore_errors=True)
        out.rename(final)

    try:
        with end_of(stage.work, peer, stage.work.disk, device=device, writable=False) as source:
            yield Ready(peer.capture(source, stage.work, out), [stage.work.disk], keep=keep)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def target_in(stage: Stage, scratch: Path, *, device: bool) -> Path:
    """Return a new target: behind a device an empty file of the right size, else a name."""
    target = scratch / "target.img"
    if device:
        with target.open("wb") as file:
            file.truncate(stage.work.size)
    return target


@contextmanager
def restoring(stage: Stage, peer: Peer, scratch: Path, *, device: bool, web: bool = False) -> Iterator[Ready]:
    """Make a restore ready, from the kept image or from the server."""
    target = target_in(stage, scratch, device=device)
    with end_of(stage.work, peer, target, device=device, writable=True) as end:
        folder = stage.folder(peer)
        if web:
            job = peer.fetch(f"{stage.url}/{peer.name}", end, stage.work)
            assert job is not None
        else:
            job = peer.restore(folder, end, stage.work)
        judge = partial(check, stage.work.disk, target, peer.level)
        yield Ready(job, files_in(folder), target, judge)


def files_in(folder: Path) -> list[Path]:
    """Return the files of an image."""
    return [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def flooring(stage: Stage, what: str, scratch: Path, *, device: bool) -> Iterator[Ready]:
    """Make one half of a restore ready."""
    image = stage.folder(Onebay()) / Onebay.image
    argv: list[str | Path] = [sys.executable, "-m", "bench.floor", what, image]
    if what == "decode":
        yield Ready(Job((one(*argv),)), [image])
        return
    target = target_in(stage, scratch, device=device)
    with end_of(stage.work, Onebay(), target, device=device, writable=True) as end:
        yield Ready(Job((one(*argv, end.disk),), (end.disk,)), [image], target)


@contextmanager
def simple(job: Job, reads: list[Path], scratch: Path, *, short: bool = False) -> Iterator[Ready]:  # noqa: ARG001
    """Make ready what needs no making."""
    yield Ready(job, reads, short=short)


def brief(name: str, *argv: str | Path, reads: list[Path], lacks: str = "") -> Entry:
    """Return an entry for a program that takes a part of a second."""
    return Entry(name, partial(simple, Job((one(*argv),)), reads, short=True), lacks)


def captures(stage: Stage, *, device: bool) -> list[Entry]:
    """Return the entries of capture, from a device or a file."""
    return [
        Entry(
            peer.name, partial(capturing, stage, peer, device=device), peer.lacks(stage.work, device=device)
        )
        for peer in PEERS
        if device or not peer.devices
    ]


def restores(stage: Stage, *, device: bool) -> list[Entry]:
    """Return the entries of restore, to a device or a file, and the two halves of ours."""
    entries = [
        Entry(peer.name, partial(restoring, stage, peer, device=device), stage.no_image(peer, device=device))
        for peer in PEERS
        if device or not peer.devices
    ]
    lacks = stage.no_image(Onebay(), device=False)
    for name in (DECODE, WRITE):
        what = name.removeprefix("floor-")
        entries.append(Entry(name, partial(flooring, stage, what, device=device), lacks))
    return entries


def fetches(stage: Stage, *, device: bool) -> list[Entry]:
    """Return the entries of restore over HTTP."""
    entries = []
    for peer in PEERS:
        if peer.fetch("", End(Path("/"), device=False), stage.work) is None or (peer.devices and not device):
            continue
        ready = partial(restoring, stage, peer, device=device, web=True)
        entries.append(Entry(peer.name, ready, stage.no_image(peer, device=device)))
    return entries


def verifies(stage: Stage) -> list[Entry]:
    """Return the entries of verify."""
    entries = []
    for peer in PEERS:
        job = peer.verify(stage.folder(peer))
        if job is not None:
            lacks = stage.no_image(peer, device=peer.devices)
            entries.append(Entry(peer.name, partial(simple, job, files_in(stage.folder(peer))), lacks))
    return entries


@contextmanager
def growing(stage: Stage, times: int, ours: bool, scratch: Path) -> Iterator[Ready]:  # noqa: FBT001
    """Make ready a copy of the disk that got `times` as large, for us, or for the tools by hand."""
    work, disk = stage.work, scratch / "target.img"
    tool.run(["cp", "--sparse=always", work.disk, disk], timeout=TIMEOUT)
    os.truncate(disk, work.size * times)
    judge = partial(judge_grown, disk, Place("ext", work.start, work.size * times), work.size)
    if ours:
        yield Ready(Job((one(command(), "grow", disk, "--yes"),), (disk,)), [disk], disk, judge)
        return
    # the partition's end as sgdisk makes it: the last aligned one before the backup GPT
    end = (work.size * times - 34 * 512) // (1 << 20) * (1 << 20)
    with loop.loop(disk, start=work.start, end=end, writable=True) as device:
        steps = (
            one("sgdisk", "-e", "-d", "1", "-n", f"1:{work.start // 512}:{end // 512 - 1}", disk),
            one("e2fsck", "-fy", device),
            one("resize2fs", device),
        )
        yield Ready(Job(steps, (device, disk)), [disk], disk, judge)


def judge_grown(disk: Path, where: Place, before: int) -> list[Finding]:
    """Check a grown disk, and that its file system fills nine tenths of it."""
    found = [checker(disk, where)]
    text = tool.run(["dumpe2fs", "-h", f"{disk}?offset={where.start}"]).text
    size = number(text, "Block count") * number(text, "Block size")
    grown = size > disk.stat().st_size * 9 // 10 > before
    return [*found, Finding("size of the file system", good=grown, text=f"{size} bytes")]


def grows(stage: Stage, times: int) -> list[Entry]:
    """Return the entries of grow."""
    kind = "" if stage.work.kind == "ext4" else "only where one ext4 fills the disk"
    lacks = kind or ("" if loop.possible() else "needs a loop device")
    return [
        Entry("onebay", partial(growing, stage, times, True), kind),
        Entry("resize2fs", partial(growing, stage, times, False), lacks),
    ]


def inspects(stage: Stage) -> list[Entry]:
    """Return the entries of inspect: there is none but us; Python alone is what cannot be gained."""
    disk = stage.work.disk
    return [brief("onebay", command(), "inspect", disk, "--json", reads=[disk]), python()]


def python() -> Entry:
    """Return the start and end of Python."""
    return brief("python", sys.executable, "-c", "pass", reads=[])


def helps() -> list[Entry]:
    """Return the entries of `onebay --help`."""
    return [brief("onebay", command(), "--help", reads=[]), python()]


@contextmanager
def exporting(stage: Stage, ours: bool, scratch: Path) -> Iterator[Ready]:  # noqa: FBT001
    """Make an export of the disk as a compressed qcow2 ready."""
    disk, out = stage.work.disk, scratch / "out.qcow2"
    if ours:
        program = one(command(), "export", disk, out, "--format", "qcow2-zstd")
    else:
        options = ("-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd")
        program = QemuImg().argv(*options, disk, out)
    yield Ready(Job((program,), (out,), (out,)), [disk])


def exports(stage: Stage) -> list[Entry]:
    """Return the entries of export."""
    lacks = "" if tool.find("qemu-img") else "not installed: qemu-img"
    return [
        Entry(name, partial(exporting, stage, name == "onebay"), lacks) for name in ("onebay", "qemu-img")
    ]


def reads(stage: Stage) -> list[Entry]:
    """Return the entries of reading 2 MiB in the middle."""
    ours, theirs = Onebay(), QemuImg()
    lacks = stage.no_image(ours, device=False)
    image, qcow2 = stage.folder(ours) / ours.image, stage.folder(theirs) / "d.qcow2"
    at = str(0 if lacks else place(str(image)))
    other = stage.no_image(theirs, device=False) or ("" if tool.find("qemu-io") else "not installed: qemu-io")
    argv = ("qemu-io", "-r", "-f", "qcow2", "-c", f"read {at} {SIZE}", qcow2)
    return [
        brief(ours.name, sys.executable, "-m", "bench.frame", image, at, reads=[image], lacks=lacks),
        brief(theirs.name, *argv, reads=[qcow2], lacks=lacks or other),
    ]


def contests(stage: Stage) -> dict[str, Callable[[], list[Entry]]]:
    """Return the verbs in the order in which they are measured; entries are made when their turn comes."""
    device = loop.possible()
    found: dict[str, Callable[[], list[Entry]]] = {}
    if device:
        found |= {"capture": partial(captures, stage, device=True)}
        found |= {"restore": partial(restores, stage, device=True)}
    found |= {
        "capture-file": partial(captures, stage, device=False),
        "restore-file": partial(restores, stage, device=False),
        "restore-http": partial(fetches, stage, device=device),
        "verify": partial(verifies, stage),
        **{f"grow-x{times}": partial(grows, stage, times) for times in TIMES},
        "inspect": partial(inspects, stage),
        "export": partial(exports, stage),
        "read": partial(reads, stage),
    }
    return found


@contextmanager
def serving(images: Path) -> Iterator[str]:
    """Serve a folder on the loopback interface; gives its URL."""
    argv = [sys.executable, "-m", "bench.serve", str(images)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env=tool.environment(), cwd=ROOT
    ) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()
