"""`python -m bench`: measure, guard, and write the page."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import ROOT, machine, versions
from bench.measure import adopt
from bench.run import run
from bench.work import NAMES, SIZES

RESULTS = ROOT / "bench" / "results"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench", description="measure onebay beside its peers")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", default="", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--verb", default="", help="only these, with commas")
    parser.add_argument("--place", type=Path, default=ROOT / "build" / "bench", help="targets and images")
    parser.add_argument(
        "--check", choices=["first", "every"], default="first", help="rounds that are checked"
    )
    parser.add_argument("--out", type=Path, help="file of the results")
    return parser.parse_args()


def split(text: str) -> list[str]:
    """Return the parts of a list with commas."""
    return [part for part in text.split(",") if part]


def cache() -> Path:
    """Return where disks are kept between runs."""
    path = Path(os.environ.get("ONEBAY_CACHE") or Path.home() / ".cache" / "onebay")
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    """Print progress."""
    print(text, flush=True)


def main() -> int:
    """Measure and write the results; 1 where onebay itself failed anywhere."""
    args = arguments()
    adopt()
    started = datetime.now(UTC)
    result: dict[str, object] = {
        "started": started.isoformat(timespec="seconds"),
        "size": args.size,
        "rounds": args.rounds,
        "machine": machine(cache()),
        "versions": versions(),
    }
    works = run(
        split(args.work) or NAMES,
        split(args.verb),
        size=args.size,
        rounds=args.rounds,
        cache=cache(),
        place=args.place,
        say=say,
        always=args.check == "every",
    )
    result["works"] = works
    out = args.out or RESULTS / f"{started:%Y-%m-%d-%H%M}-{args.size}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    say(f"results: {out}")
    entries = [
        own
        for each in works.values()
        for verb in each.get("verbs", {}).values()
        for own in [verb.get("onebay")]
    ]
    return int(any(own and own["failure"] for own in entries))


if __name__ == "__main__":
    sys.exit(main())
