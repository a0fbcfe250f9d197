"""Fuzz one target in this process with atheris; every finding is written down, and the run goes on."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

with atheris.instrument_imports(include=["onebay"]):
    from fuzz.targets import everything

from fuzz.watch import TooSlowError, limit_memory, signature, watched

MOST_KEPT = 40


class Finder:
    """Runs inputs and keeps the smallest of each kind of finding in `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.target, self.folder = everything()[name], folder
        self.found: dict[str, int] = {}
        self.target.warm_up()

    def one(self, data: bytes) -> None:
        """Run one input."""
        try:
            with watched():
                self.target.try_input(data)
        except (Exception, TooSlowError) as error:
            self.note(data, error)

    def note(self, data: bytes, error: BaseException) -> None:
        """Write a finding down where it is a new one, or smaller than the one that is there."""
        name = signature(error)
        if name not in self.found:
            if len(self.found) >= MOST_KEPT:
                return
            print(f"FOUND {name}", file=sys.stderr)
            traceback.print_exception(error, limit=-6)
        kept = self.target.keep(data)
        if len(kept) < self.found.get(name, 1 << 60):
            self.found[name] = len(kept)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}{self.target.suffix}").write_bytes(kept)


def escaped(word: str) -> str:
    """Write a word as libFuzzer's dictionaries want it."""
    return "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in word)


def main(name: str, corpus: Path, folder: Path, options: list[str]) -> None:
    """Prepare the target and hand over to libFuzzer, which ends the process."""
    finder = Finder(name, folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(finder.target.starts()):
        (corpus / f"start-{number}").write_bytes(start)
        finder.one(start)
    if words := getattr(finder.target, "words", ()):
        dictionary = corpus.with_suffix(".words")
        dictionary.write_text("".join(f'"{escaped(word)}"\n' for word in words), "ascii")
        options = [*options, f"-dict={dictionary}"]
    limit_memory()
    # recipes are short, and long ones are wanted at once
    options = [*options, "-len_control=0", f"-max_len={200 if finder.target.suffix == '.case' else 4096}"]
    argv = [sys.argv[0], str(corpus), "-timeout=120", "-rss_limit_mb=0", "-print_final_stats=1", *options]
    atheris.Setup(argv, finder.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
