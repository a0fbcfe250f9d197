"""Jobs: each is the command line itself as a child process, which goes on when every browser has left.

Progress comes from its events (docs/events.md), everything else it prints is the log. Cancelling is the
signal that ends the command line in good order; going on is the same command again.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from onebay.base import tool
from onebay.base.error import Error, Interrupted, Refused, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from subprocess import Popen

State = Literal["waiting", "running", "done", "failed", "cancelled"]
Pipe = Literal["", "upload", "download"]
# -P: no module is taken from the folder that we happen to be in
ONEBAY = (sys.executable, "-P", "-m", "onebay")
OVER = ("done", "failed", "cancelled")
LINES = 400  # of the log that are kept
LONGEST_LINE = 1 << 14
MOST_OUTPUT = 1 << 18  # bytes of an answer that are kept
WINDOW = 10.0  # seconds over which the rate is measured
KEPT = 40  # jobs that are remembered


@dataclass(frozen=True, slots=True)
class Command:
    """What a job runs: `argv` behind "onebay", the `disks` that nobody else may use, secret words of argv."""

    title: str
    argv: tuple[str, ...]
    disks: frozenset[str] = frozenset()
    pipe: Pipe = ""
    secret: tuple[tuple[str, str], ...] = ()
    rehearsal: bool = False  # makes a plan only

    def shown(self) -> str:
        """Return the command as one types it, without what is secret."""
        # cleaned first: quotes would hide a word with a quote in it
        return shlex.join(("onebay", *map(self.clean, self.argv)))

    def clean(self, text: str) -> str:
        """Leave out of a text what is secret."""
        for word, instead in self.secret:
            text = text.replace(word, instead)
        return text


@dataclass
class Progress:
    """Of the work that is under way: bytes done, bytes in total (0: not known), and its latest pace."""

    op: str = ""
    total: int = 0
    done: int = 0
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    def begin(self, op: str, total: int) -> None:
        """Start to count anew."""
        self.op, self.total, self.done = op, total, 0
        self.marks.clear()
        self.marks.append((time.monotonic(), 0))

    def move(self, done: int) -> None:
        """Note how far it is."""
        self.done = done
        now = time.monotonic()
        if not self.marks or now - self.marks[-1][0] > WINDOW / 40:
            self.marks.append((now, done))
        while len(self.marks) > 2 and now - self.marks[0][0] > WINDOW:
            self.marks.popleft()

    def rate(self) -> float:
        """Bytes per second, 0 where that is not known."""
        if len(self.marks) < 2:
            return 0.0
        (first, start), (last, end) = self.marks[0], self.marks[-1]
        return (end - start) / (last - first) if last > first else 0.0

    def share(self) -> float | None:
        """How much is done, 0 to 1, None where that is not known."""
        return min(1.0, self.done / self.total) if self.total else None


class Job:
    """One run of the command line."""

    def __init__(self, command: Command, ended: Callable[[], None]) -> None:
        self.key = secrets.token_hex(8)
        self.command, self.ended = command, ended
        self.state: State = "waiting"
        self.status: int | None = None
        self.progress = Progress()
        self.log: deque[str] = deque(maxlen=LINES)
        self.output = ""
        self.process: Popen[bytes] | None = None
        self.cancelling = False
        self.thread: threading.Thread | None = None

    def start(self) -> Popen[bytes]:
        """Start the child; raises ToolMissing or Refused."""
        argv = [*ONEBAY, *self.command.argv]
        try:
            self.process = tool.piped(argv, feed=self.command.pipe == "upload")
        except OSError as error:
            raise Refused(f"cannot start: {reason(error)}", volume=self.command.title) from error
        self.state = "running"
        self.thread = threading.Thread(target=self.follow, args=(self.process,), daemon=True)
        self.thread.start()
        return self.process

    def follow(self, process: Popen[bytes]) -> None:
        """Read what the child says to its end; in a thread."""
        assert process.stderr is not None
        assert process.stdout is not None
        other = None
        if self.command.pipe != "download":  # there the browser reads it
            other = threading.Thread(target=self.collect, args=(process.stdout,), daemon=True)
            other.start()
        while line := process.stderr.readline(LONGEST_LINE):
            self.hear(line.decode("utf-8", "replace").rstrip())
        process.stderr.close()
        if other is not None:
            other.join()
        self.status = process.wait()
        if self.status < 0:
            self.log.append(f"ended by signal {-self.status}")
        if self.status == 0:
            self.state = "done"
        else:
            stopped = self.status in (Interrupted.code, -signal.SIGTERM)
            self.state = "cancelled" if self.cancelling and stopped else "failed"
        self.ended()

    def collect(self, stream: IO[bytes]) -> None:
        """Keep the answer of the child; in a thread."""
        with stream:
            while piece := stream.readline(LONGEST_LINE):
                if len(self.output) < MOST_OUTPUT:
                    self.output += self.command.clean(piece.decode("utf-8", "replace"))

    def hear(self, line: str) -> None:
        """Take one line of standard error: an event, or text."""
        event: Any = None
        if line.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(line)
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            self.take(event)
        elif line:
            self.log.append(self.command.clean(line))

    def take(self, event: dict[str, Any]) -> None:
        """Take one event; keys of other types than the document says are left alone."""
        match event:
            case {"event": "began", "op": str(op), "what": str(what), "total": int(total)}:
                self.progress.begin(op, total)
                self.log.append(self.command.clean(f"{op}: {what}"))
            case {"event": "moved", "done": int(done)}:
                self.progress.move(done)
            case {"event": "ended", "op": str(op), "result": str(result)}:
                self.log.append(self.command.clean(f"{op}: done {result}".rstrip()))
            case {"event": "noted" | "warned" as kind, "text": str(text), **rest}:
                where = f"{rest['volume']}: " if rest.get("volume") else ""
                mark = "warning: " if kind == "warned" else ""
                self.log.append(self.command.clean(f"{mark}{where}{text}"))

    def cancel(self) -> None:
        """Ask the child to end in good order."""
        if self.state == "waiting":
            self.state = "cancelled"
        elif self.process is not None and self.state == "running":
            self.cancelling = True
            # not SIGINT, which a server started in the background of a script would have its children ignore
            self.process.send_signal(signal.SIGTERM)

    def document(self) -> dict[str, Any]:
        """Return what pages and the status file say of the job."""
        rate, progress = self.progress.rate(), self.progress
        left = (progress.total - progress.done) / rate if rate and progress.total else None
        running = self.state == "running"
        return {
            "title": self.command.title,
            "state": self.state,
            "share": 1.0 if self.state == "done" else progress.share(),
            "rate": round(rate) if running else 0,
            "left": round(max(0.0, left)) if left is not None and running else None,
            "text": progress.op if running else (self.log[-1].strip() if self.log else ""),
            "done": progress.done,
            "total": progress.total,
        }


class Jobs:
    """All jobs: one at a time for each disk, with `single` one at all; `began` and `ended` hear of each."""

    def __init__(
        self,
        *,
        single: bool = False,
        began: Callable[[Job], None] = lambda _: None,
        ended: Callable[[Job], None] = lambda _: None,
    ) -> None:
        self.single, self.began, self.ended = single, began, ended
        self.known: dict[str, Job] = {}
        self.lock = threading.Lock()

    def add(self, command: Command) -> Job:
        """Make a job that waits."""
        with self.lock:
            for key in [key for key, job in self.known.items() if job.state != "running"]:
                if len(self.known) < KEPT:
                    break
                del self.known[key]
            job = Job(command, lambda: self.ended(job))
            self.known[job.key] = job
        return job

    def start(self, job: Job) -> Popen[bytes]:
        """Start a job that waits; raises Refused where it did, or another one has the disk."""
        with self.lock:
            if job.state != "waiting":
                raise Refused("this was started already", volume=job.command.title)
            if other := self.rival(job.command.disks):
                raise Refused("wait for the other job", volume=job.command.title, found=other.command.title)
            self.began(job)
            try:
                process = job.start()
            except Error as error:
                job.log.append(str(error))
                job.state = "failed"
                raise
            if self.single:
                with contextlib.suppress(OSError):  # in a rescue the page is to go first (serve.py)
                    Path(f"/proc/{process.pid}/oom_score_adj").write_text("0", "ascii")
            return process

    def rival(self, disks: frozenset[str]) -> Job | None:
        """Return the running job that keeps others from these disks."""
        for job in self.running():
            if self.single or job.command.disks & disks:
                return job
        return None

    def running(self) -> list[Job]:
        """Return what runs."""
        return [job for job in list(self.known.values()) if job.state == "running"]

    def close(self, patience: float) -> Sequence[Job]:
        """Ask all to end; return those that did not within `patience` seconds."""
        going = self.running()
        for job in going:
            job.cancel()
        end = time.monotonic() + patience
        for job in going:
            if job.thread is not None:
                job.thread.join(max(0.0, end - time.monotonic()))
        return [job for job in going if job.state == "running"]
