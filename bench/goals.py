"""The goals, and whether a run reached them. Ratios of medians, ours to theirs, of the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.contest import DECODE, TIMES, WRITE
from bench.stats import ratio, spread

US = "onebay"
NOT_PEERS = (US, DECODE, WRITE, "python")
MEMORY = 300 * 1000 * 1000


@dataclass(frozen=True, slots=True)
class Goal:
    """At most `limit` times what `theirs` takes of `metric` at `verb`; without them at most `limit` of it."""

    verb: str
    limit: float
    theirs: tuple[str, ...] = ()
    metric: str = "wall"

    @property
    def text(self) -> str:
        """What is asked for, in words."""
        what = {"wall": "time", "size": "image size"}[self.metric]
        if not self.theirs:
            return f"{self.verb}: at most {self.limit:g} s"
        return f"{self.verb}: {what} at most {self.limit:g} of {' or '.join(self.theirs)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal on one disk: what was found, and whether that is good enough."""

    goal: str
    work: str
    found: float
    limit: float

    @property
    def reached(self) -> bool:
        """Whether the goal was reached."""
        return self.found <= self.limit


GOALS = (
    Goal("capture", 0.67, ("partclone-a0",)),
    Goal("capture", 1.0, ("partclone-a0",), "size"),
    Goal("restore", 0.9, ("qemu-img",)),
    Goal("restore", 0.5, ("partclone-a0",)),
    Goal("restore", 0.25, ("zstd-dd",)),
    # 0.8 of the speed of the slower half
    Goal("restore", 1.25, (DECODE, WRITE)),
    Goal("restore-file", 0.9, ("qemu-img",)),
    Goal("restore-file", 0.25, ("zstd-dd",)),
    Goal("restore-file", 1.25, (DECODE, WRITE)),
    Goal("inspect", 0.3),
    Goal("help", 0.15),
)


def values(entries: dict[str, Any], name: str, metric: str) -> list[float]:
    """Return a metric of all rounds of an entry; none where it did not take part, or failed."""
    own = entries.get(name)
    if not own or own["failure"]:
        return []
    if metric == "cpu":
        return [each["user"] + each["system"] for each in own["rounds"]]
    return [float(each[metric]) for each in own["rounds"]]


def judge(goal: Goal, work: str, entries: dict[str, Any]) -> Verdict | None:
    """Compare with a goal; None where the run has nothing to say about it."""
    ours = values(entries, US, goal.metric)
    if not ours:
        return None
    if not goal.theirs:
        return Verdict(goal.text, work, spread(ours).median, goal.limit)
    theirs = [found for name in goal.theirs if (found := values(entries, name, goal.metric))]
    if len(theirs) < len(goal.theirs):
        return None
    return Verdict(goal.text, work, min(ratio(ours, found) for found in theirs), goal.limit)


def best(entries: dict[str, Any], metric: str = "wall") -> tuple[str, float] | None:
    """Return the best peer and the ratio of ours to it; None where there is no peer, or are no numbers."""
    ours = values(entries, US, metric)
    found = {name: values(entries, name, metric) for name in entries if name not in NOT_PEERS}
    there = {name: spread(rounds).median for name, rounds in found.items() if rounds}
    there = {name: middle for name, middle in there.items() if middle > 0}
    if not ours or not there:
        return None
    name = min(there, key=lambda each: there[each])
    return name, ratio(ours, found[name])


def verdicts(result: dict[str, Any]) -> list[Verdict]:
    """Return every goal on every disk that the run says something about."""
    found: list[Verdict] = []
    peak: tuple[float, str] = (0.0, "")
    for work, own in result["works"].items():
        verbs = own.get("verbs", {})
        judged = [judge(goal, work, verbs[goal.verb]) for goal in GOALS if goal.verb in verbs]
        found += [verdict for verdict in judged if verdict]
        for verb, entries in verbs.items():
            for value in values(entries, US, "largest"):
                peak = max(peak, (value, f"{work}, {verb}"))
        found += growth(work, verbs)
    if peak[1]:
        found.append(Verdict("memory: at most 300 MB anywhere", peak[1], peak[0] / 1e6, MEMORY / 1e6))
    return found


def growth(work: str, verbs: dict[str, Any]) -> list[Verdict]:
    """Compare what a larger disk adds to growing, ours to that of resize2fs by hand; 0.2 s are noise."""
    few, many = (verbs.get(f"grow-x{times}", {}) for times in TIMES)
    rounds = [values(entries, name, "wall") for name in (US, "resize2fs") for entries in (few, many)]
    if not all(rounds):
        return []
    ours, theirs = (spread(rounds[at + 1]).median - spread(rounds[at]).median for at in (0, 2))
    text = f"grow: seconds that x{TIMES[1]} takes longer than x{TIMES[0]}, at most those of resize2fs"
    return [Verdict(text, work, ours, max(0.0, theirs) + 0.2)]
