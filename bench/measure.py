"""Run a pipeline of programs and measure it whole: all its processes, and the flush of what it wrote.

Processor seconds and bytes written are those that the kernel adds up for every process of the pipeline and
for the children it waited for (wait4, getrusage(2)); who was left behind by its parent comes to us
(PR_SET_CHILD_SUBREAPER) and is counted as well. Peak memory is VmHWM of /proc, looked at ten times a second,
because the kernel's own ru_maxrss also tells of the process that started a program. Not counted, and the same
for all: what kernel threads do (loop devices, write-back).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.tool import environment, find

if TYPE_CHECKING:
    from typing import IO

PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
SECTOR = 512  # unit of ru_oublock, kernel/sys.c
ROOT = Path(__file__).parents[1]  # where Python finds our own programs
DROP = Path("/proc/sys/vm/drop_caches")
INTERVAL = 0.1  # seconds
LINES = 6
TIMEOUT = 1800  # seconds; who needs longer fails, and the results say so


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Programs of which each reads what the one before it writes; the last one's output goes `to` a file."""

    programs: tuple[tuple[str, ...], ...]
    to: Path | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Pipelines, one after the other, then a flush of `sync` (files and devices; a folder means all)."""

    stages: tuple[Pipeline, ...]
    sync: tuple[Path, ...] = ()
    results: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a job took: seconds, bytes of memory and bytes written; `failure` says why it is none."""

    wall: float
    user: float
    system: float
    largest: int
    together: int
    written: int
    failure: str = ""
    said: str = ""

    @property
    def cpu(self) -> float:
        """Processor seconds."""
        return self.user + self.system


def one(*argv: str | Path, to: Path | None = None) -> Pipeline:
    """Return a pipeline of a single program."""
    return Pipeline((tuple(map(str, argv)),), to)


def adopt() -> None:
    """Become the parent of whoever is left behind by a program that we started."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def cool(paths: list[Path], *, programs: bool = True) -> str:
    """Make what is read next come from the disk, and say how: all caches as root, else those of `paths`.

    Without `programs` only `paths` are made cold, for what is so short that loading Python would hide it.
    """
    os.sync()
    if programs and os.access(DROP, os.W_OK):
        DROP.write_text("3")
        return "drop_caches"
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    return "posix_fadvise"


def flush(paths: tuple[Path, ...]) -> None:
    """Make files and devices durable."""
    for path in paths:
        if path.is_dir():
            os.sync()
        else:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def peak_of(pid: int) -> int:
    """Return the largest size that a process had in memory, in bytes; 0 where it is gone."""
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
        return int(text.split("VmHWM:")[1].split()[0]) << 10
    return 0


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text("ascii").split()]
    return found


@dataclass
class Watch:
    """Looks at the memory of processes and their descendants until it is stopped."""

    pids: list[int]
    largest: int = 0
    together: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look soon, so that short programs are seen, and then ten times a second."""
        pause = INTERVAL / 16
        while not self.stop.wait(pause):
            self.look()
            pause = min(INTERVAL, 2 * pause)

    def look(self) -> None:
        """Take the peaks of all that live."""
        todo, peaks = list(self.pids), []
        while todo:
            pid = todo.pop()
            peaks.append(peak_of(pid))
            todo += children_of(pid)
        self.largest = max(self.largest, *peaks)
        self.together = max(self.together, sum(peaks))


@dataclass
class Totals:
    """Sums over the processes of a job."""

    user: float = 0.0
    system: float = 0.0
    written: int = 0
    largest: int = 0
    together: int = 0

    def add(self, usage: resource.struct_rusage) -> None:
        """Count a process that ended."""
        self.user += usage.ru_utime
        self.system += usage.ru_stime
        self.written += usage.ru_oublock * SECTOR


def plain() -> dict[str, str]:
    """Return the environment without what would make Python another one than its users have."""
    return {key: text for key, text in environment().items() if key == "PYTHONPATH" or key[:6] != "PYTHON"}


def start(pipeline: Pipeline, said: IO[bytes]) -> list[subprocess.Popen[bytes]]:
    """Start the programs of a pipeline in a process group of their own."""
    started: list[subprocess.Popen[bytes]] = []
    out: IO[bytes] | int = pipeline.to.open("wb") if pipeline.to else subprocess.DEVNULL
    before: IO[bytes] | int = subprocess.DEVNULL
    try:
        for number, argv in enumerate(pipeline.programs):
            last = number == len(pipeline.programs) - 1
            process = subprocess.Popen(
                [find(argv[0]) or argv[0], *argv[1:]],
                stdin=before,
                stdout=out if last else subprocess.PIPE,
                stderr=said,
                env=plain(),
                cwd=ROOT,
                process_group=started[0].pid if started else 0,
            )
            if not isinstance(before, int):
                before.close()
            started.append(process)
            before = process.stdout if process.stdout is not None else subprocess.DEVNULL
    except OSError:
        if not isinstance(before, int):
            before.close()
        for process in started:
            process.kill()
            process.wait()
        raise
    finally:
        if not isinstance(out, int):
            out.close()
    return started


def wait(started: list[subprocess.Popen[bytes]], totals: Totals, timeout: float) -> list[str]:
    """Wait for every process of the group, count it, and return what failed."""
    group, failed, late = started[0].pid, [], threading.Event()
    names = {process.pid: str(process.args[0]) for process in started}  # type: ignore[index]

    def end() -> None:
        late.set()
        os.killpg(group, signal.SIGKILL)

    alarm = threading.Timer(timeout, end)
    alarm.start()
    try:
        while True:
            try:
                pid, status, usage = os.wait4(-group, 0)
            except ChildProcessError:
                break
            totals.add(usage)
            code = os.waitstatus_to_exitcode(status)
            if pid in names:
                next(process for process in started if process.pid == pid).returncode = code
                if code:
                    failed.append(f"{Path(names[pid]).name} ended with status {code}")
    finally:
        alarm.cancel()
    if late.is_set():
        failed.insert(0, f"did not end within {timeout:.0f} s")
    return failed


def run_pipeline(pipeline: Pipeline, totals: Totals, said: IO[bytes], timeout: float) -> list[str]:
    """Run one pipeline to its end; return what failed."""
    try:
        started = start(pipeline, said)
    except OSError as error:
        return [f"{error.filename}: {error.strerror}"]
    watch = Watch([process.pid for process in started])
    looker = threading.Thread(target=watch.run)
    looker.start()
    try:
        failed = wait(started, totals, timeout)
    finally:
        watch.stop.set()
        looker.join()
    totals.largest = max(totals.largest, watch.largest)
    totals.together = max(totals.together, watch.together)
    return failed


def measure(job: Job, *, timeout: float = TIMEOUT) -> Measured:
    """Run a job; `timeout` is in seconds, for each pipeline. One that fails tells so, and raises nothing."""
    totals, failed = Totals(), []
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        for pipeline in job.stages:
            failed = run_pipeline(pipeline, totals, said, timeout)
            if failed:
                break
        before = resource.getrusage(resource.RUSAGE_THREAD)
        if not failed:
            flush(job.sync)
        after = resource.getrusage(resource.RUSAGE_THREAD)
        wall = time.monotonic() - began
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    last = " | ".join(line.strip() for line in text.splitlines()[-LINES:] if line.strip())
    return Measured(
        wall=wall,
        user=totals.user + after.ru_utime - before.ru_utime,
        system=totals.system + after.ru_stime - before.ru_stime,
        largest=totals.largest,
        together=totals.together,
        written=totals.written,
        failure="; ".join([*failed, last]) if failed else "",
        said=last,
    )
