"""The guard: processor seconds of the verbs, in proportion to a fixed piece of work measured in between.

Times tell little on a busy machine; processor seconds tell more, and their proportion to work that never
changes tells most. Of the rounds the least counts, because noise only adds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contest import (
    Entry,
    Stage,
    brief,
    capturing,
    exporting,
    growing,
    helps,
    inspects,
    restoring,
    simple,
)
from bench.machine import machine, versions
from bench.measure import ROOT
from bench.peers import Onebay
from bench.run import contest
from bench.work import work

if TYPE_CHECKING:
    from collections.abc import Callable

BASELINE = ROOT / "bench" / "baseline.json"
ROUNDS = 5
# Half a tenth is noise on an idle machine; on a busy one the same commit was seen a sixth apart.
LIMIT = 1.25
CALIBRATIONS = ("data", "python")
BY = {"help": "python", "inspect": "python"}  # the others by "data"


def entries(stage: Stage) -> list[Entry]:
    """Return the verbs and the calibrations."""
    ours = Onebay()
    check = ours.verify(stage.folder(ours))
    assert check is not None
    first = {"help": helps()[0], "inspect": inspects(stage)[0]}
    found = [Entry(name, entry.ready) for name, entry in first.items()]
    found += [
        Entry("capture", partial(capturing, stage, ours, device=False)),
        Entry("restore", partial(restoring, stage, ours, device=False)),
        Entry("verify", partial(simple, check, [])),
        Entry("grow", partial(growing, stage, 2, True)),
        Entry("export", partial(exporting, stage, True)),
    ]
    argv = (sys.executable, "-m", "bench.calibrate")
    return [*(brief(name, *argv, name, reads=[]) for name in CALIBRATIONS), *found]


def measured(cache: Path, place: Path, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the rounds of all verbs and calibrations."""
    disk = work("fresh", "quick", cache)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="quick-") as folder:
        return contest(entries(Stage(disk, Path(folder))), rounds, place, say, warm=True)


def relative(found: dict[str, Any]) -> dict[str, float]:
    """Return each verb's processor seconds in units of its calibration; ValueError where one failed."""
    least: dict[str, float] = {}
    for name, own in found.items():
        if own["failure"]:
            raise ValueError(f"{name} failed: {own['failure']}")
        least[name] = min(each["user"] + each["system"] for each in own["rounds"])
    return {
        name: round(seconds / least[BY.get(name, "data")], 3)
        for name, seconds in least.items()
        if name not in CALIBRATIONS
    }


def compare(now: dict[str, float], before: dict[str, float], say: Callable[[str], None]) -> list[str]:
    """Print verbs beside the baseline; return those that take more than the limit allows."""
    worse = []
    say(f"{'verb':<10}{'now':>8}{'baseline':>10}{'ratio':>8}")
    for name, value in now.items():
        if name not in before:
            say(f"{name:<10}{value:>8.2f}{'new':>10}")
            continue
        change = value / before[name]
        late = change > LIMIT
        say(f"{name:<10}{value:>8.2f}{before[name]:>10.2f}{change:>8.2f}{'  slower' if late else ''}")
        if late:
            worse.append(name)
    return worse


def quick(cache: Path, place: Path, say: Callable[[str], None], *, update: bool, rounds: int = ROUNDS) -> int:
    """Measure, and compare or renew the baseline; 1 where a verb became slower."""
    now = relative(measured(cache, place, rounds, lambda text: None))  # noqa: ARG005
    if update or not BASELINE.exists():
        content = {"verbs": now, "machine": machine(cache), "versions": versions()}
        BASELINE.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        say(f"baseline written: {BASELINE}")
        return 0
    worse = compare(now, json.loads(BASELINE.read_text("utf-8"))["verbs"], say)
    if worse:
        say(f"more processor time than {LIMIT:g} times the baseline: {', '.join(worse)}")
        say("run it again, profile it, or, where that is the price of something: make bench-quick UPDATE=1")
    return int(bool(worse))
