"""`python -m bench`: measure, guard, and write the page."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import page
from bench.machine import machine, versions
from bench.measure import ROOT, adopt
from bench.quick import quick
from bench.run import Plan, run
from bench.work import NAMES, SIZES

RESULTS = ROOT / "bench" / "results"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench", description="measure onebay beside its peers")
    parser.add_argument("--place", type=Path, default=ROOT / "build" / "bench", help="targets and images")
    todo = parser.add_subparsers(dest="todo", required=True)
    runs = todo.add_parser("run", help="measure, and write the results and the page")
    runs.add_argument("--size", choices=SIZES, default="full")
    runs.add_argument("--rounds", type=int, default=5)
    runs.add_argument("--work", default="", help=f"only these, with commas, of {', '.join(NAMES)}")
    runs.add_argument("--verb", default="", help="only these, with commas")
    runs.add_argument("--check", choices=["first", "every"], default="first", help="rounds that are judged")
    runs.add_argument("--out", type=Path, help="file of the results; the page is left alone then")
    guard = todo.add_parser("quick", help="compare processor seconds with the baseline")
    guard.add_argument("--update", action="store_true", help="renew the baseline")
    pages = todo.add_parser("page", help="write results into docs/bench.md")
    pages.add_argument(
        "result", type=Path, nargs="?", help="default: the newest, of a full run if there is one"
    )
    return parser.parse_args()


def split(text: str) -> list[str]:
    """Return the parts of a list with commas."""
    return [part for part in text.split(",") if part]


def cache() -> Path:
    """Return where disks are kept between runs."""
    path = Path(os.environ.get("ONEBAY_CACHE") or Path.home() / ".cache" / "onebay").resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    """Print progress."""
    print(text, flush=True)


def main() -> int:
    """Do what is asked for."""
    args = arguments()
    args.place = args.place.resolve()
    compileall.compile_dir(ROOT / "src", quiet=1)  # as an installation does
    adopt()
    if args.todo == "quick":
        return quick(cache(), args.place, say, update=args.update)
    if args.todo == "page":
        page.write(args.result or page.newest(RESULTS))
        return 0
    return measure_all(args)


def measure_all(args: argparse.Namespace) -> int:
    """Measure and write the results; 1 where onebay itself failed anywhere."""
    started = datetime.now(UTC)
    head = {
        "started": started.isoformat(timespec="seconds"),
        "size": args.size,
        "rounds": args.rounds,
        "machine": machine(cache()),
        "versions": versions(),
    }
    full = args.size == "full" and not args.work and not args.verb
    usual = (RESULTS if full else args.place) / f"{started:%Y-%m-%d-%H%M}-{args.size}.json"
    out = (args.out or usual).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)

    def save(works: dict[str, Any]) -> None:
        out.write_text(json.dumps({**head, "works": works}, indent=1) + "\n", "utf-8")

    plan = Plan(args.size, args.rounds, cache(), args.place, split(args.verb), always=args.check == "every")
    works = run(split(args.work) or NAMES, plan, say, save)
    save(works)
    say(f"results: {out}")
    if full and not args.out:
        page.write(out)
    contests = [verb for each in works.values() for verb in each.get("verbs", {}).values()]
    return int(any(verb["onebay"]["failure"] for verb in contests))


if __name__ == "__main__":
    sys.exit(main())
