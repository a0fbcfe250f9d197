"""Keep few inputs that reach what the whole corpus of a target reaches: `python -m fuzz.distill`.

They are kept as lines of hexadecimal digits in tests/fuzz/<target>/reached.txt, replayed as tests, and where
the next fuzzing begins.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzz.targets import FOUND, everything
from fuzz.watch import TooSlowError, watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from fuzz.targets import Target

    Edge = tuple[str, int, int]

ROOT = Path(__file__).parents[1]
SOURCE = str(ROOT / "src" / "onebay")
MOST_INPUTS = 80  # a target
MOST_BYTES = 1500  # an input
SECONDS = 60.0  # a target may take for everything that is kept; traced runs take ten times as long


def edges(run: Callable[[], None]) -> set[Edge]:
    """Run something and return the pairs of lines of onebay that came one after the other."""
    found: set[Edge] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:  # noqa: ARG001
        name = frame.f_code.co_filename
        if not name.startswith(SOURCE):
            return None
        last = frame.f_lineno

        def line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:  # noqa: ARG001
            nonlocal last
            if event == "line":
                found.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        run()
    finally:
        sys.settrace(None)
    return found


def reached(target: Target, data: bytes) -> set[Edge]:
    """Return what an input reaches, nothing where it is a finding."""
    try:
        with watched(SECONDS):
            return edges(lambda: target.try_input(data))
    except (Exception, TooSlowError):
        return set()


def choose(target: Target, inputs: list[bytes]) -> list[bytes]:
    """Return inputs, small ones first, each of which reaches something that those before do not."""
    kept: list[bytes] = []
    seen: set[Edge] = set()
    for start in target.own_starts():
        seen |= reached(target, start)
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        if len(kept) < MOST_INPUTS and (new := reached(target, data) - seen):
            kept.append(data)
            seen |= new
    return kept


def main() -> None:
    """Distill the corpus of every target, or of those that are named."""
    parser = argparse.ArgumentParser(prog="fuzz.distill", description="keep the inputs that reach most")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="where the corpus is")
    parser.add_argument("targets", nargs="*")
    args = parser.parse_args()
    for name, target in everything().items():
        if args.targets and name not in args.targets:
            continue
        files = sorted((args.out / "corpus" / name).glob("*"))
        inputs = [data for path in files if len(data := path.read_bytes()) <= MOST_BYTES]
        kept = choose(target, [*inputs, *target.kept_starts()])
        if kept:
            (FOUND / name).mkdir(parents=True, exist_ok=True)
            (FOUND / name / "reached.txt").write_text("".join(f"{data.hex()}\n" for data in kept), "ascii")
        print(
            f"{name:<12}{len(inputs):>7} inputs{len(kept):>5} kept{sum(map(len, kept)):>8} bytes", flush=True
        )


if __name__ == "__main__":
    main()
