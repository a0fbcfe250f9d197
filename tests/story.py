"""The story on one layout: fold, capture, restore to a larger disk full of random bytes, grow.

Each step is the command that a user types. As root it runs without any capability: what needed loop devices,
mounts or device-mapper would fail.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebay.sample.build import Sample

PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
GROWTH = 2 << 30


@dataclass(frozen=True)
class Story:
    """What the commands left behind."""

    sample: Sample
    folder: Path
    folded: Path
    image: Path
    restored: Path


def onebay(*argv: str | Path, stdin: Any = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line without privileges and check its exit code."""
    prefix = PLAIN if os.geteuid() == 0 and shutil.which("setpriv") else []
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "onebay", *(str(arg) for arg in argv)],
        stdin=stdin or subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def inspect(disk: Path, *options: str) -> dict[str, Any]:
    """Return what inspect says of a disk."""
    return dict(json.loads(onebay("inspect", disk, "--json", *options).stdout))


def fill(path: Path, size: int, seed: int) -> None:
    """Make a file of random bytes; the same MiB again and again, turned by its number."""
    block = random.Random(seed).randbytes(1 << 20)
    with path.open("wb") as file:
        for number in range(size >> 20):
            turn = number % 4093
            file.write(block[turn:] + block[:turn])


def tell(sample: Sample, folder: Path, *, filled: bool = True) -> Story:
    """Go through the story; the target is `filled` with random bytes, or a new file."""
    folder.mkdir(parents=True)
    story = Story(sample, folder, folder / "folded.img", folder / "nas.raw.zst", folder / "restored.img")
    onebay("fold", "--boot", sample.boot, "--data", sample.data, "--output", story.folded)
    onebay("capture", story.folded, story.image)
    size = story.folded.stat().st_size + GROWTH
    if filled:
        fill(story.restored, size, 1)
        onebay("restore", story.image, story.restored, "--yes", "--verify")
    else:
        onebay("restore", story.image, story.restored, "--size", str(size))
    return story
