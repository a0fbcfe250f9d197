"""Run each target in turn in a process of its own, and print what came of it.

python -m fuzz [--minutes 30] [--target NAME]... [--out build/fuzz] [--found tests/fuzz]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from fuzz.targets import everything

ROOT = Path(__file__).parents[1]
COVERED = re.compile(rb"#\d+\s+\w+\s+cov: (\d+) ft: (\d+)")
EXECUTED = re.compile(rb"stat::number_of_executed_units:\s*(\d+)")


class Count(NamedTuple):
    """What came of one target."""

    target: str
    executions: int
    edges: int
    features: int
    findings: list[str]
    status: int


def fuzz(name: str, minutes: float, out: Path, found: Path) -> Count:
    """Run one target for so many minutes; its log and corpus stay under `out`."""
    log = out / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={max(1, round(60 * minutes))}", f"-artifact_prefix={out}/{name}-crash-"]
    argv = [sys.executable, "-m", "fuzz.run", name, str(out / "corpus" / name), str(found / name), *options]
    env = {**os.environ, "MALLOC_ARENA_MAX": "2", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as sink:
        status = subprocess.run(argv, stderr=sink, stdout=sink, cwd=ROOT, env=env, check=False).returncode
    text = log.read_bytes()
    covered = COVERED.findall(text)
    executed = EXECUTED.search(text)
    edges, features = (int(value) for value in covered[-1]) if covered else (0, 0)
    names = sorted({line[6:].decode() for line in text.splitlines() if line.startswith(b"FOUND ")})
    return Count(name, int(executed[1]) if executed else 0, edges, features, names, status)


def main() -> int:
    """Return 1 where anything was found, or a run ended before its time."""
    parser = argparse.ArgumentParser(prog="fuzz", description="fuzz every parser")
    parser.add_argument("--minutes", type=float, default=30, help="for each target")
    parser.add_argument("--target", action="append", choices=list(everything()), help="only this one")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="logs and corpus")
    parser.add_argument("--found", type=Path, default=ROOT / "tests" / "fuzz", help="where findings are kept")
    args = parser.parse_args()
    bad = False
    print(f"{'target':<12}{'executions':>12}{'edges':>8}{'features':>10}{'findings':>10}", flush=True)
    for name in args.target or everything():
        count = fuzz(name, args.minutes, args.out, args.found)
        print(
            f"{name:<12}{count.executions:>12}{count.edges:>8}{count.features:>10}{len(count.findings):>10}"
            + ("" if count.status == 0 else f"  ended with status {count.status}, see {args.out}/{name}.log"),
            flush=True,
        )
        for finding in count.findings:
            print(f"    {finding}", flush=True)
        bad |= bool(count.findings) or count.status != 0
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
