"""The unattended job: find the disk, restore to it by the command line itself, tell everybody, end as asked.

Until the first write a failure costs nothing; what follows then is the settings' choice. After it the old
system is gone: the machine stays as it is, tells why, and waits for somebody.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from onebay.base import tool
from onebay.base.error import NOTHING_WRITTEN, Error, Interrupted, Refused, reason
from onebay.base.status import read_status, write_status
from onebay.block import open_disk
from onebay.ops.target import MARK
from onebay.rescue.live.progress import Heard
from onebay.rescue.live.target import against

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import Popen

    from onebay.block.disks import Disk
    from onebay.rescue.live.settings import Job
    from onebay.rescue.live.webhook import Webhook

PATIENCE = 3600  # seconds without a sign of the server
BETWEEN_WRITES, BETWEEN_POSTS = 1.0, 30.0  # seconds
LAST_WORDS = 30.0  # seconds for the webhook before the machine goes down
ENDING = 120.0  # seconds for a child to end in good order
LONGEST_LINE, MOST_OUTPUT = 1 << 14, 1 << 20  # bytes
ACTIONS = ("reboot", "poweroff")


@dataclass(frozen=True, slots=True)
class Around:
    """What a job meets: how a disk is found, where its status goes, who is told, how the machine ends."""

    find: Callable[[str], Disk]
    status: Path
    hook: Webhook
    power: Callable[[str], None]
    say: Callable[[str], None]
    patience: int = PATIENCE


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: the exit code, the last words, and whether anything may have been written."""

    code: int
    text: str
    state: str

    @property
    def wrote(self) -> bool:
        """Whether the target is not surely what it was."""
        return self.state != NOTHING_WRITTEN


def public(url: str) -> str:
    """Return a URL without what nobody else should see: credentials, and a query, which may hold some."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Run:
    """One run of a job."""

    def __init__(self, job: Job, around: Around, *, host: str = "") -> None:
        self.job, self.around, self.host = job, around, host
        self.heard = Heard()
        self.state, self.text, self.error = "waiting", "looks for the disk", ""
        self.disk: Disk | None = None
        self.written = self.posted = float("-inf")

    def document(self) -> dict[str, Any]:
        """Return what the status file says."""
        image = public(self.job.restore)
        disk = self.disk
        where = disk.path if disk else self.job.target
        return {
            "title": f"restore {image.rpartition('/')[2] or image} to {where}",
            "state": self.state,
            **self.heard.figures(),
            **({} if self.state == "running" else {"rate": 0, "left": None}),
            **({"share": 1.0} if self.state == "done" else {}),
            "text": self.text,
            "plan": f"{image} to {disk or self.job.target}, then {self.job.then}",
            "error": self.error or None,
            "job": {
                "restore": image,
                "target": self.job.target,
                "disk": str(disk.path) if disk else None,
                "serial": disk.identity.get("serial") if disk else None,
                "digest": self.job.digest,
                "then": self.job.then,
            },
        }

    def show(self, *, force: bool = True) -> None:
        """Write the status file, at most once a second unless `force`; a full memory is no reason to stop."""
        now = time.monotonic()
        if not force and now - self.written < BETWEEN_WRITES:
            return
        self.written = now
        with contextlib.suppress(OSError):
            write_status(self.around.status, self.document())

    def tell(self, phase: str, **more: object) -> None:
        """Tell the webhook; of progress, every 30 seconds at most."""
        now = time.monotonic()
        often = phase == "progress"
        if often and now - self.posted < BETWEEN_POSTS:
            return
        self.posted = now
        document = {"version": 1, "phase": phase, "host": self.host, **self.document(), **more}
        self.around.hook.tell(document, often=often)

    def whole(self) -> int:
        """Do all of it; returns the exit code. The machine goes down at its end where the job says so."""
        self.show()
        try:
            self.disk = self.around.find(self.job.target)
            why = against(self.disk)
            self.text = f"begins with {self.disk}{f', which is {why}' if why else ''}"
            self.state = "running"
            self.around.say(f"{public(self.job.restore)} goes to {self.disk}, then {self.job.then}")
            self.show()
            self.tell("started")
            outcome = self.restore(self.disk)
        except Error as error:  # of ours: the child has its own words
            outcome = Outcome(error.code, str(error), error.state)
        except KeyboardInterrupt:
            outcome = Outcome(Interrupted.code, "interrupted", NOTHING_WRITTEN)
        if outcome.code and self.disk is not None and not outcome.wrote and incomplete(self.disk):
            state = f"nothing was written this time; {self.disk.path} was incomplete before and cannot boot"
            outcome = Outcome(outcome.code, outcome.text, state)
        if outcome.code == 0:
            self.finish("done", outcome, self.job.then)
        else:
            stay = outcome.wrote or outcome.code == Interrupted.code  # somebody is there
            self.finish("failed", outcome, "stay" if stay else self.job.before_write)
        return outcome.code

    def finish(self, phase: str, outcome: Outcome, then: str) -> None:
        """Say how it ended, wait a moment for that to arrive, and take the machine down where wanted."""
        self.state = phase
        after = {"reboot": "the machine restarts", "poweroff": "the machine goes off"}.get(then, "")
        self.text = ", ".join(part for part in (outcome.text, outcome.state, after) if part)
        self.error = f"{outcome.text}; {outcome.state}" if phase == "failed" else ""
        self.show()
        self.tell(phase, code=outcome.code, wrote=outcome.wrote, next=then)
        self.around.say(self.text)
        self.around.hook.close(LAST_WORDS)
        if self.around.hook.failure:
            self.around.say(f"the webhook was not told: {self.around.hook.failure}")
        if then in ACTIONS:
            self.wait_for_page()
            self.around.power(then)

    def wait_for_page(self) -> None:
        """Wait for what somebody has begun on the page: the machine must not go down in the middle of it."""
        said = False
        while begun(read_status(self.around.status.with_name("web.json"))):
            if not said:
                said = True
                self.text += ", when the page's work is done"
                self.show()
                self.around.say("waits for the work of the page to end")
            time.sleep(BETWEEN_WRITES)

    def argv(self, disk: Disk) -> list[str]:
        """Return the command line of the restore."""
        argv = [sys.executable, "-m", "onebay", "restore", self.job.restore, str(disk.path)]
        argv += ["--yes", "--json", "--events", "--patience", str(self.around.patience)]
        if self.job.again != "yes":
            argv.append("--once")  # a machine that starts from here again must not lose what it wrote since
        if serial := disk.identity.get("serial"):
            argv += ["--expect-serial", serial]
        if self.job.digest:
            argv += ["--digest", self.job.digest]
        if self.job.public_key:
            argv += ["--public-key", str(self.key_file(self.job.public_key))]
        return argv

    def key_file(self, key: str) -> Path:
        """Return a PEM file with the key, beside the files of status; raises Refused."""
        path = self.around.status.parent.with_name("image.pub")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n", "ascii")
        except OSError as error:
            raise Refused(reason(error), volume=str(path)) from error
        return path

    def restore(self, disk: Disk) -> Outcome:
        """Run the restore to its end; raises Interrupted where we are asked to stop, after it has ended."""
        with tool.piped(self.argv(disk)) as process:
            try:
                return self.follow(disk, process)
            except KeyboardInterrupt as error:
                impatient = threading.Timer(ENDING, process.kill)
                impatient.start()
                process.send_signal(signal.SIGTERM)
                outcome = self.follow(disk, process)
                impatient.cancel()
                raise Interrupted("interrupted", state=outcome.state) from error

    def follow(self, disk: Disk, process: Popen[bytes]) -> Outcome:
        """Hear a child to its end."""
        assert process.stderr is not None
        assert process.stdout is not None
        while line := process.stderr.readline(LONGEST_LINE):
            self.take(line.decode("utf-8", "replace").rstrip())
        answer = process.stdout.read(MOST_OUTPUT)
        return self.outcome(disk, process.wait(), answer)

    def take(self, line: str) -> None:
        """Take one line of the child."""
        important = self.heard.hear(line)
        heard = self.heard
        self.text = f"{heard.op}: {heard.note}" if heard.note else heard.op
        self.show(force=important)
        self.tell("progress")

    def outcome(self, disk: Disk, status: int, answer: bytes) -> Outcome:
        """Return how the child ended; one that was killed may have written."""
        if status == 0:
            return Outcome(0, f"{disk.path}: restored", notes_of(answer))
        lines = list(self.heard.lines) or ["it said nothing"]
        if status < 0:
            state = f"{disk.path} may be incomplete; the same job again goes on"
            return Outcome(1, f"the restore was ended by signal {-status}", state)
        start = max((n for n, line in enumerate(lines) if line.startswith("onebay: ")), default=0)
        said = ", ".join(lines[start:-1]) or lines[0]
        return Outcome(status, said.removeprefix("onebay: "), lines[-1])


def begun(page: dict[str, Any]) -> bool:
    """Whether the page's status tells of a job that runs."""
    jobs = page.get("jobs")
    listed = jobs if isinstance(jobs, list) else []
    return any(isinstance(job, dict) and job.get("state") == "running" for job in listed)


def incomplete(disk: Disk) -> bool:
    """Whether an earlier restore to a disk was not completed, or nobody can tell."""
    try:
        with closing(open_disk(disk.path)) as volume:
            return volume.read(0, len(MARK)) == MARK
    except (Error, OSError):
        return True


def notes_of(answer: bytes) -> str:
    """Return what the restore's answer remarks, as one text."""
    try:
        document = json.loads(answer)
        return "; ".join(str(note) for note in document["notes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
