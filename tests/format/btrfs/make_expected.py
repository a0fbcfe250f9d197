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


def expected(images: list[Path]) -> dict[str, object]:
    """Superblock fields as text, profiles by kind, and used ranges, of several devices by devid."""
    text = tool.run(["btrfs", "inspect-internal", "dump-super", images[0]]).text
    fields = {key: match[1] for key in FIELDS if (match := re.search(rf"^{key}\s+(.*)$", text, re.MULTILINE))}
    profiles = {}
    for kinds in re.findall(r"length \d+ owner \d+ stripe_len \d+ type (\S+)", lab.dump("chunk", *images)):
        names = kinds.lower().split("|")
        kind = "+".join(name for name in ("data", "system", "metadata") if name in names)
        profiles[kind] = next(
            (name for name in names if name not in ("data", "system", "metadata", "single")), "single"
        )
    used: dict[int, list[int]] | list[int] | None = None
    if len(images) == int(fields["num_devices"]) and "raid0" not in profiles.values():
        ranges = lab.used_on_devices(*images)
        used = {devid: [*ExtentSet.of(found).bounds] for devid, found in ranges.items()}
        if len(images) == 1:
            (used,) = used.values()
    return {"super": fields, "profiles": profiles, "used": used}


if __name__ == "__main__":
    cases: dict[str, list[Path]] = {}
    for name in sys.argv[1:]:  # "case.img", or the devices of one file system: "case.1.img" and so on
        cases.setdefault(Path(name).name.split(".")[0], []).append(Path(name))
    print(json.dumps({case: expected(images) for case, images in cases.items()}, indent=1))
