"""Print as JSON what dumpe2fs says about ext images; make.sh calls it, no code of onebay takes part."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

FIELDS = {
    "uuid": "Filesystem UUID",
    "label": "Filesystem volume name",
    "features": "Filesystem features",
    "state": "Filesystem state",
    "last_mounted": "Last mounted on",
    "blocks": "Block count",
    "free_blocks": "Free blocks",
    "inodes": "Inode count",
    "free_inodes": "Free inodes",
    "first_block": "First block",
    "block_size": "Block size",
    "cluster_size": "Cluster size",
    "inode_size": "Inode size",
    "mount_count": "Mount count",
}


def describe(image: Path) -> dict[str, object]:
    """Fields of the superblock as dumpe2fs prints them, and all runs of free blocks."""
    done = subprocess.run(["dumpe2fs", str(image)], capture_output=True, text=True, check=False)
    found: dict[str, object] = {"blkid": blkid(image), "read": done.returncode == 0}
    for key, name in FIELDS.items():
        match = re.search(rf"^{name}: *(.*)$", done.stdout, re.MULTILINE)
        if match:
            value = match[1].strip()
            found[key] = int(value) if value.isdigit() else value
    found["free"] = [
        part
        for line in re.findall(r"^  Free blocks: (.*)$", done.stdout, re.MULTILINE)
        for part in line.replace(" ", "").split(",")
        if part
    ]
    return found


def blkid(image: Path) -> str:
    """The type that libblkid probes."""
    argv = ["blkid", "-p", "-o", "value", "-s", "TYPE", str(image)]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    images = [Path(name) for name in sys.argv[1:]]
    print(json.dumps({image.stem: describe(image) for image in images}, indent=1, sort_keys=True))
