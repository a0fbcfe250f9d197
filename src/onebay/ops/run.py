"""Plan, then act: a `Planner` rehearses steps on an overlay, `execute` carries a finished plan out.

Layers speak in their own coordinates; the planner lowers every step to the disk, so that a plan is a list of
writes with absolute offsets that can be printed, replayed and cut at any point.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.base.error import Error, Interrupted, Refused, reason
from onebay.base.event import Began, Ended, Moved, silent
from onebay.base.extent import ExtentSet
from onebay.base.step import Copy, Flush, Step, Write, Zero, apply
from onebay.block import Overlay, Volume, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from onebay.base.event import Report
    from onebay.ops.journal import Journal

__all__ = ["Plan", "Planner", "execute", "on_failure"]

CRITICAL = "critical:"


@dataclass
class Plan:
    """What `verb` would do to `disk`: steps in order, and remarks for the user.

    `after` shows the disk as it is once all steps but those of file systems are carried out.
    """

    verb: str
    disk: Volume
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    after: Volume | None = None

    @property
    def size(self) -> int:
        """Bytes that the plan writes."""
        return sum(step.size for step in self.steps if not isinstance(step, Flush))

    def lines(self) -> Iterator[str]:
        """Yield the plan as text, consecutive steps of one purpose on one line."""
        last, count, start, size = "", 0, 0, 0
        for step in [*self.steps, None]:
            why = step.why if isinstance(step, Write | Zero | Copy) else ""
            if last and (why != last):
                times = f", {count} writes" if count > 1 else ""
                yield f"at {start:#x}: {last} ({size} bytes{times})"
                count = size = 0
            if isinstance(step, Write | Zero | Copy):
                start = step.at if count == 0 else min(start, step.at)
                count, size = count + 1, size + step.size
            last = why


class Planner:
    """Collects steps for `disk`; `view` shows the disk as it will be after them."""

    def __init__(self, verb: str, disk: Volume) -> None:
        self.plan = Plan(verb, disk)
        self.view = Overlay(disk)

    def add(self, steps: Iterable[Step], *, rehearse: bool = True) -> None:
        """Take steps whose volumes stand on `view`, rehearse them there and lower them to the disk."""
        for step in steps:
            if rehearse:
                apply(step)
            self.plan.steps.extend(self.lowered(step))

    def lowered(self, step: Step) -> Iterator[Step]:
        """Yield the step in coordinates of the disk."""
        disk = self.plan.disk
        if isinstance(step, Flush):
            yield Flush(disk)
            return
        assert isinstance(step.volume, Volume), step.volume
        done = 0
        for piece in locate(step.volume, step.at, step.at + step.size):
            if piece.volume is not self.view:
                raise Refused("the step lies on another disk", volume=piece.volume.name, at=piece.at)
            match step:
                case Write():
                    yield Write(disk, piece.at, step.data[done : done + piece.size], step.why)
                case Zero():
                    yield Zero(disk, piece.at, piece.size, step.why)
                case Copy():
                    yield Copy(step.source, step.source_at + done, disk, piece.at, piece.size, step.why)
            done += piece.size


@contextmanager
def on_failure(state: str | Callable[[], str], volume: str) -> Iterator[None]:
    """Let every error of the block, and a wish to stop, say the condition `state` that `volume` is in."""

    def say() -> str:
        return state if isinstance(state, str) else state()

    try:
        yield
    except Error as error:
        error.state = say()
        raise
    except OSError as error:  # the system refuses something that nobody foresaw
        raise Refused(reason(error), volume=str(error.filename or volume), state=say()) from error
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted", volume=volume, state=say()) from error


def execute(plan: Plan, *, journal: Journal | None = None, report: Report = silent) -> None:
    """Carry out a plan; an error afterwards says up to which step the disk was written and how to go on.

    Writes that no order makes safe (their `why` begins with "critical:") go through the `journal`; without
    one they are written as they are, for disks that a run from the beginning would restore anyway.
    """
    total = len(plan.steps)
    if total:
        plan.disk.recheck()  # it may have been plugged anew while somebody was asked; nothing is written yet
    report(Began(plan.verb, plan.disk.name, plan.size))
    done = number = 0

    def state() -> str:
        return f"written up to step {number} of {total}; run the same command again to complete it"

    with on_failure(state, plan.disk.name):  # a step that failed may have written a part, also the first
        for critical, steps in sections(plan.steps):
            writes = [step for step in steps if isinstance(step, Write)]
            if critical and journal is not None:
                journal.commit(writes, same_change(plan.steps[:number], writes[0]))
            for step in steps:
                apply(step)
                number += 1
                if not isinstance(step, Flush):
                    done += step.size
                    report(Moved(plan.verb, done))
            if critical and journal is not None:
                plan.disk.flush()
                journal.erase()
        if total:
            plan.disk.flush()
    report(Ended(plan.verb, 0.0, f"{total} steps"))


def same_change(done: list[Step], critical: Write) -> ExtentSet:
    """Return what was written for the change that `critical` belongs to: what its `why` begins with."""

    def change(step: Write) -> str:
        return step.why.removeprefix(CRITICAL).strip().partition(":")[0]

    ours = [step for step in done if isinstance(step, Write) and change(step) == change(critical)]
    return ExtentSet.of((step.at, step.at + step.size) for step in ours)


def is_critical(step: Step) -> bool:
    """Whether a step must not be cut short."""
    return isinstance(step, Write) and step.why.startswith(CRITICAL)


def sections(steps: list[Step]) -> Iterator[tuple[bool, list[Step]]]:
    """Yield stretches of steps; a critical one reaches from a critical write to the last that follows it
    with nothing but barriers between."""
    start = 0
    while start < len(steps):
        critical = is_critical(steps[start])
        end = at = start
        while at < len(steps) and (is_critical(steps[at]) == critical or isinstance(steps[at], Flush)):
            at += 1
            if not critical or is_critical(steps[at - 1]):
                end = at
        yield critical, steps[start:end]
        start = end
