"""The runner: rounds of all entries, interleaved, each cold, with a new target; what fails is told."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contest import Entry, Stage, contests, helps, serving
from bench.measure import cool, measure
from bench.stats import interleaved, spread
from bench.work import describe, stored, work
from onebay.base.error import Error

if TYPE_CHECKING:
    from bench.work import Work

Say = Callable[[str], None]
FEW = 2
SHORT = ("help", "inspect", "read")  # take no time: more rounds for the same money
MORE = 3


def contest(
    entries: Sequence[Entry],
    rounds: int,
    place: Path,
    say: Say,
    *,
    always: bool = False,
    warm: bool = False,
) -> dict[str, Any]:
    """Measure entries in turns; `always` judges every round, else the first; `warm` drops no cache.

    An entry that fails, or whose result is judged wrong, leaves the contest: it has no numbers then.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        found[entry.name] = {"rounds": [], "checks": [], "failure": "", "skipped": entry.lacks}
        if entry.lacks:
            say(f"    {entry.name}: skipped, {entry.lacks}")
    running = [entry for entry in entries if not entry.lacks]
    for turn, name in interleaved([entry.name for entry in running], rounds):
        own = found[name]
        if own["failure"]:
            continue
        entry = next(entry for entry in running if entry.name == name)
        try:
            go(entry, own, place, judged=always or turn == 0, warm=warm)
        except (Error, OSError) as error:
            own["failure"] = str(error)
        if own["failure"]:
            own["failure"] = own["failure"].replace(str(place), "PLACE")
            own["rounds"] = []
            say(f"    {name}: failed, {own['failure']}")
        else:
            say(f"    {name}: {own['rounds'][-1]['wall']:.2f} s")
    return found


def go(entry: Entry, own: dict[str, Any], place: Path, *, judged: bool, warm: bool = False) -> None:
    """Measure one entry once and add what was found to `own`."""
    with tempfile.TemporaryDirectory(dir=place, prefix="round-") as scratch:
        with entry.ready(Path(scratch)) as ready:
            own["cold"] = "" if warm else cool(ready.reads, programs=not ready.short)
            done = measure(ready.job)
            if done.failure:
                own["failure"] = done.failure
                return
            size = sum(size_of(path) for path in ready.job.results)
            taken = stored(ready.target) if ready.target else 0
            own["rounds"].append({**asdict(done), "size": size, "taken": taken})
            del own["rounds"][-1]["said"]  # where files are on this machine is nobody's business
            ready.keep()
        if judged:
            findings = ready.judge()
            own["checks"] += [asdict(finding) for finding in findings]
            bad = next((finding for finding in findings if finding.good is False), None)
            if bad:
                own["failure"] = f"what it made is wrong: {bad.what}: {bad.text}"


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.stat().st_size


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured: `verbs` (all where empty), on disks of a `size`, in so many `rounds`.

    Disks come from `cache`; images and targets are in `place`. The huge disks get `FEW` rounds at most.
    """

    size: str
    rounds: int
    cache: Path
    place: Path
    verbs: Sequence[str] = ()
    always: bool = False

    def wants(self, verb: str) -> bool:
        """Whether a verb is to be measured."""
        return not self.verbs or verb in self.verbs

    def turns(self, verb: str, disk: Work | None = None) -> int:
        """Return the rounds of a verb."""
        if verb in SHORT:
            return self.rounds * MORE
        return self.rounds if disk is None or disk.whole else min(self.rounds, FEW)


def run(names: Sequence[str], plan: Plan, say: Say, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure on the disks `names`; returns what belongs under "works", and gives it to `save` after each."""
    plan.place.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    if plan.wants("help"):
        say("onebay --help")
        found["none"] = {"verbs": {"help": contest(helps(), plan.turns("help"), plan.place, say)}}
    for name in names:
        say(f"{name}: making the disk, where it is not there yet")
        try:
            disk = work(name, plan.size, plan.cache)
            found[name] = {**describe(disk), "verbs": verbs_on(disk, plan, say)}
        except (Error, OSError) as error:
            found[name] = {"skipped": str(error)}
            say(f"  {name}: skipped, {error}")
        save(found)
    return found


def verbs_on(disk: Work, plan: Plan, say: Say) -> dict[str, Any]:
    """Measure the verbs on one disk; the images that restores need are kept as long."""
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(dir=plan.place, prefix="images-") as folder,
        serving(Path(folder)) as url,
    ):
        stage = Stage(disk, Path(folder), url)
        for verb, entries in contests(stage).items():
            if plan.wants(verb):
                began = time.monotonic()
                say(f"  {disk.name}: {verb}")
                turns = plan.turns(verb, disk)
                found[verb] = contest(entries(), turns, plan.place, say, always=plan.always)
                say(f"  {disk.name}: {verb} took {time.monotonic() - began:.0f} s: {line(found[verb])}")
    return found


def line(entries: dict[str, Any]) -> str:
    """Return medians in one line."""
    parts = []
    for name, own in entries.items():
        with suppress(ValueError):
            middle = spread([each["wall"] for each in own["rounds"]])
            parts.append(f"{name} {middle.median:.2f}")
    return ", ".join(parts)
