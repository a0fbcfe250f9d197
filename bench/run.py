"""The runner: rounds of all entries, interleaved, each cold, with a new target; what fails is told."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contest import Entry, Stage, contests, helps, serving
from bench.measure import cool, measure
from bench.stats import interleaved, spread
from bench.work import describe, stored, work
from onebay.base.error import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

Say = Callable[[str], None]
SHORT = ("help", "inspect", "read")  # take no time: more rounds for the same money
MORE = 3


def contest(
    entries: Sequence[Entry], rounds: int, place: Path, say: Say, *, always: bool = False
) -> dict[str, Any]:
    """Measure entries in turns; `always` judges every round, else the first.

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
            go(entry, own, place, judged=always or turn == 0)
        except (Error, OSError) as error:
            own["failure"] = str(error)
        if own["failure"]:
            own["rounds"] = []
            say(f"    {name}: failed, {own['failure']}")
        else:
            say(f"    {name}: {own['rounds'][-1]['wall']:.2f} s")
    return found


def go(entry: Entry, own: dict[str, Any], place: Path, *, judged: bool) -> None:
    """Measure one entry once and add what was found to `own`."""
    with tempfile.TemporaryDirectory(dir=place, prefix="round-") as scratch:
        with entry.ready(Path(scratch)) as ready:
            own["cold"] = cool(ready.reads, programs=not ready.short)
            done = measure(ready.job)
            if done.failure:
                own["failure"] = done.failure
                return
            size = sum(size_of(path) for path in ready.job.results)
            taken = stored(ready.target) if ready.target else 0
            own["rounds"].append({**asdict(done), "size": size, "taken": taken})
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


def run(
    names: Sequence[str],
    verbs: Sequence[str],
    *,
    size: str,
    rounds: int,
    cache: Path,
    place: Path,
    say: Say,
    always: bool = False,
) -> dict[str, Any]:
    """Measure `verbs` (all where empty) on the disks `names`; returns what belongs under "works"."""
    place.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    if not verbs or "help" in verbs:
        say("onebay --help")
        found["none"] = {"verbs": {"help": contest(helps(), rounds * MORE, place, say)}}
    for name in names:
        say(f"{name}: making the disk, where it is not there yet")
        try:
            disk = work(name, size, cache)
        except (Error, OSError) as error:
            found[name] = {"skipped": str(error)}
            say(f"  {name}: skipped, {error}")
            continue
        found[name] = {**describe(disk), "verbs": {}}
        with tempfile.TemporaryDirectory(dir=place, prefix="images-") as folder:
            images = Path(folder)
            with serving(images) as url:
                stage = Stage(disk, images, url)
                for verb, entries in contests(stage).items():
                    if verbs and verb not in verbs:
                        continue
                    began = time.monotonic()
                    say(f"  {name}: {verb}")
                    turns = rounds * MORE if verb in SHORT else rounds
                    numbers = contest(entries(), turns, place, say, always=always)
                    found[name]["verbs"][verb] = numbers
                    say(f"  {name}: {verb} took {time.monotonic() - began:.0f} s: {line(numbers)}")
    return found


def line(entries: dict[str, Any]) -> str:
    """Return medians in one line."""
    parts = []
    for name, own in entries.items():
        with suppress(ValueError):
            middle = spread([each["wall"] for each in own["rounds"]])
            parts.append(f"{name} {middle.median:.2f}")
    return ", ".join(parts)
