"""Print expected.json for the images named on the command line: everything in it is what btrfs-progs says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import btrfs_lab as lab

from onebay.base import tool
from onebay.base.extent import ExtentSet

FIELDS = (
    "fsid",
    "metadata_uuid",
    "label",
    "generation",
    "bytes_used",
    "sectorsize",
    "nodesize",
    "num_devices",
    "log_root",
    "incompat_flags",
    "compat_ro_flags",
    "csum_type",
    "dev_item.uuid",
    "dev_item.devid",
    "dev_item.total_bytes",
)


def expected(image: Path) -> dict[str, object]:
    """Superblock fields as text, profiles by kind, and used ranges by the extent and chunk trees."""
    text = tool.run(["btrfs", "inspect-internal", "dump-super", image]).text
    fields = {key: match[1] for key in FIELDS if (match := re.search(rf"^{key}\s+(.*)$", text, re.MULTILINE))}
    profiles = {}
    for kinds in re.findall(r"length \d+ owner \d+ stripe_len \d+ type (\S+)", lab.dump(image, "chunk")):
        names = kinds.lower().split("|")
        kind = "+".join(name for name in ("data", "system", "metadata") if name in names)
        profiles[kind] = next(
            (name for name in names if name not in ("data", "system", "metadata", "single")), "single"
        )
    used = None if "raid1" in image.name else [*ExtentSet.of(lab.used_by_progs(image)).bounds]
    return {"super": fields, "profiles": profiles, "used": used}


if __name__ == "__main__":
    print(json.dumps({Path(name).stem: expected(Path(name)) for name in sys.argv[1:]}, indent=1))
