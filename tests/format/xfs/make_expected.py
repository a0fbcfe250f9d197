"""Say in JSON what xfs_db, xfs_repair and blkid say of all images in a folder; knows nothing of onebay."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path


def said(*argv: str) -> str:
    """Return what a tool printed."""
    done = subprocess.run(argv, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def db(image: str, *commands: str) -> str:
    """Run commands of xfs_db, read-only."""
    return said("xfs_db", "-r", "-f", *(part for line in commands for part in ("-c", line)), image)


def fields(text: str) -> dict[str, int]:
    """Read `name = number` lines."""
    return {name: int(value) for name, value in re.findall(r"^(\w+) = (\d+)$", text, re.M)}


def held(image: str, group: int) -> set[int]:
    """Blocks that a group holds for its btrees; `freesp` counts them as free, one by one."""
    agf = fields(db(image, f"agf {group}", "print flfirst flcount"))
    shown = db(image, f"agfl {group}", "print bno")
    blocks: dict[int, int] = {}
    for first, last, block in re.findall(r"(\d+)(?:-(\d+))?:(\d+)", shown[shown.index("=") :]):
        blocks.update(dict.fromkeys(range(int(first), int(last or first) + 1), int(block)))
    length = int(re.search(r"bno\[0-(\d+)\]", shown)[1]) + 1
    return {blocks[(agf["flfirst"] + n) % length] for n in range(agf["flcount"])}


def free_runs(image: str, groups: int) -> list[list[int]]:
    """Free runs as [group, block, length], as the by-block btrees have them."""
    runs = []
    for group in range(groups):
        mine = held(image, group)
        for line in db(image, f"freesp -d -a {group}").splitlines():
            words = line.split()
            if len(words) != 3 or not all(word.isdigit() for word in words):
                continue
            block, length = int(words[1]), int(words[2])
            if not (length == 1 and block in mine):
                runs.append([group, block, length])
    return sorted(runs)


def describe(image: str) -> dict[str, object]:
    """Ask all tools about one image."""
    sb = fields(db(image, "sb 0", "print"))
    levels = [fields(db(image, f"agf {n}", "print bnolevel"))["bnolevel"] for n in range(sb["agcount"])]
    repair = said("xfs_repair", "-n", "-f", image)
    pairs = said("blkid", "-p", "-o", "export", image).splitlines()
    blkid = dict(line.split("=", 1) for line in pairs if "=" in line)
    dirty = "valuable metadata changes in a log" in repair
    return {
        "uuid": blkid["UUID"],
        "label": blkid.get("LABEL"),
        **{
            name: sb[name]
            for name in ("blocksize", "dblocks", "agblocks", "agcount", "sectsize", "logblocks")
        },
        "dirty": dirty,
        "levels": max(levels),
        "free": [] if dirty else [" ".join(map(str, run)) for run in free_runs(image, sb["agcount"])],
    }


folder = Path(sys.argv[1])
print(json.dumps({p.stem: describe(str(p)) for p in sorted(folder.glob("*.img"))}, indent=1, sort_keys=True))
