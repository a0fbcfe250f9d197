"""Say in JSON what fsck.fat, blkid and mtools say of all images in a folder; knows nothing of onebay."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path


def said(*argv: str) -> str:
    """Return what a tool printed."""
    return subprocess.run(argv, capture_output=True, check=False).stdout.decode("utf-8", "replace")


def describe(image: str) -> dict[str, object]:
    """Ask all tools about one image."""
    fsck = said("fsck.fat", "-n", "-v", image)
    count = re.search(r"(\d+)/(\d+) clusters", fsck)
    pairs = said("blkid", "-p", "-o", "export", image).splitlines()
    blkid = dict(line.split("=", 1) for line in pairs if "=" in line)
    names = [n.removeprefix("::") for n in said("mdir", "-i", image, "-/", "-b", "-a").splitlines() if n]
    files = {}
    for name in names:
        shown = said("mshowfat", "-i", image, "::" + name.rstrip("/"))
        runs = re.findall(r"<(\d+)(?:-(\d+))?>", shown)
        files[name] = {"clusters": " ".join(f"{first}-{last or first}" for first, last in runs)}
        if not name.endswith("/"):
            raw = subprocess.run(["mcopy", "-i", image, "::" + name, "-"], capture_output=True, check=True)
            files[name]["sha256"] = hashlib.sha256(raw.stdout).hexdigest()
    return {
        "bits": int(re.search(r"(\d+) bit entries", fsck)[1]),
        "cluster_size": int(re.search(r"(\d+) bytes per cluster", fsck)[1]),
        "data_at": int(re.search(r"Data area starts at byte (\d+)", fsck)[1]),
        "used_clusters": int(count[1]) if count else None,
        "clusters": int(re.search(r"(\d+) data clusters", fsck)[1]),
        "uuid": blkid["UUID"],
        "label": blkid.get("LABEL"),
        "type": blkid["VERSION"],
        "dirty": "Dirty bit is set" in fsck,
        "copies_differ": "FATs differ" in fsck,
        "files": files,
    }


folder = Path(sys.argv[1])
print(json.dumps({p.stem: describe(str(p)) for p in sorted(folder.glob("*.img"))}, indent=1, sort_keys=True))
