"""The machine and the versions that the numbers belong to."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import zstandard

from bench.measure import ROOT
from onebay import __version__
from onebay.base import tool

PACKAGES = (
    "partclone",
    "fsarchiver",
    "bmap-tools",
    "qemu-utils",
    "zstd",
    "casync",
    "e2fsprogs",
    "btrfs-progs",
)


def machine(place: Path) -> dict[str, object]:
    """Describe this machine; `place` is the folder whose file system is measured."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    flags = (
        Path("/proc/cpuinfo").read_text("ascii", "replace").split("flags", 1)[-1].split("\n", 1)[0].split()
    )
    disk = tool.run(["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", place], ok=(0, 1)).text.strip()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in ("sha_ni", "avx2", "avx512f") if flag in flags],
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "file_system": disk,
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of onebay, of what it runs on, and of the peers."""
    found = {
        "onebay": f"{__version__} at {commit()}",
        "python": sys.version.split()[0],
        "zstandard": zstandard.__version__,
        "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
    }
    form = "${Package} ${Version}\n"
    said = tool.run(["dpkg-query", "-W", f"-f={form}", *PACKAGES], ok=(0, 1)).text
    return found | {line.split()[0]: line.split()[1] for line in said.splitlines() if len(line.split()) == 2}


def commit() -> str:
    """Return the commit that is measured, marked where files differ from it."""
    head = tool.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"], ok=(0, 128)).text
    return head.strip() or "unknown"
