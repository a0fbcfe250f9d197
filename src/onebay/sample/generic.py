"""Generic single-disk Linux: Debian as its cloud images and its installer lay it out, by the real tools.

No appliance and no boot disk: one disk with GRUB for both firmwares (`installer-mbr`: for BIOS), a root on
ext4, btrfs, XFS, or on LVM inside LUKS2 whose key is in the initramfs, so that it boots unattended. The same
check of a manifest as in the sample appliance says on the serial console whether every file is there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Unsupported
from onebay.base.event import Began, Ended, silent
from onebay.machine import debian
from onebay.machine.cache import built, recipe_key
from onebay.machine.worker import Disk, run_job
from onebay.machine.worker import recipe as worker_recipe
from onebay.sample.build import script

if TYPE_CHECKING:
    from onebay.base.event import Report

PACKAGES = (
    "linux-image-cloud-amd64 kmod busybox initramfs-tools zstd systemd systemd-sysv udev dbus grub-pc-bin "
    "grub-efi-amd64-bin grub2-common e2fsprogs btrfs-progs xfsprogs dosfstools lvm2 cryptsetup "
    "cryptsetup-initramfs attr iproute2 less nano"
)
KINDS = ("cloud-ext4", "cloud-btrfs", "cloud-xfs", "installer-crypt", "installer-mbr")
SIZE = 4 << 30
SCALE = 60
SETUP, CHECK, SCRIPT, CONTENT = "generic-setup.sh", "manifest.sh", "generic.sh", "content.py"


@dataclass(frozen=True, slots=True)
class Generic:
    """A built disk: a read-only file in the cache; copy it (sparsely) before writing.

    `expect` is the line that the system prints once it has checked its files; `key` opens the LUKS volume of
    `installer-crypt`; `golden` maps the name of a tool's report to its text.
    """

    kind: str
    disk: Path
    key: Path
    expect: str
    golden: dict[str, str]

    @property
    def verdict(self) -> str:
        """What `expect` says of the files, without the volume's size: it holds when the volume has grown."""
        return self.expect.partition(" volume=")[0]


def system(cache: Path, *, report: Report = silent) -> Path:
    """Return the tar of the system, built into `cache` where it is not there yet (two minutes)."""
    sources = debian.host_sources()
    scripts = {name: script(name) for name in (SETUP, CHECK)}
    recipe = {
        "sources": repr(sources),
        "packages": PACKAGES,
        "excluded": " ".join(debian.EXCLUDED),
        **scripts,
    }

    def build(folder: Path) -> None:
        report(Began("system", "a generic Debian from packages"))
        began = time.monotonic()
        for name, text in scripts.items():
            (folder / name).write_text(text, "utf-8")
        hooks = [
            f"upload {folder}/{CHECK} /usr/local/sbin/onebay-manifest",
            f"upload {folder}/{SETUP} /tmp/setup.sh",
            'chroot "$1" sh /tmp/setup.sh',
            'rm "$1/tmp/setup.sh"',
        ]
        debian.bootstrap(folder / "root.tar", PACKAGES.split(), sources, hooks=hooks)
        report(Ended("system", time.monotonic() - began))

    return built(cache, "generic-system", recipe_key(recipe), build) / "root.tar"


def build(kind: str, *, cache: Path, report: Report = silent) -> Generic:
    """Return the disk of a kind, built into `cache` where it is not there yet (a few minutes).

    Raises Unsupported with the kinds there are.
    """
    if kind not in KINDS:
        raise Unsupported("unknown kind of disk", found=kind, hint=f"one of {', '.join(KINDS)}")
    base = system(cache, report=report)
    recipe = {
        "worker": repr(worker_recipe(debian.host_sources())),
        "kind": kind,
        "size": str(SIZE),
        "scale": str(SCALE),
        "system": base.parent.name,
        SCRIPT: script(SCRIPT),
        CONTENT: script(CONTENT),
    }
    folder = built(
        cache,
        f"generic-{kind}",
        recipe_key(recipe),
        lambda part: make_disk(part, kind, base, cache=cache, report=report),
    )
    golden = json.loads((folder / "golden.json").read_text("utf-8"))
    return Generic(kind, folder / "disk.img", folder / "key", golden["expect"].strip(), golden)


def make_disk(folder: Path, kind: str, base: Path, *, cache: Path, report: Report) -> None:
    """Run the worker's job that makes the disk of a kind in `folder`."""
    report(Began("sample", kind))
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        share = Path(name)
        (share / CONTENT).write_text(script(CONTENT), "utf-8")
        text = f"kind={kind} scale={SCALE}\n{script(SCRIPT)}"
        disks = [Disk(disk), Disk(base, readonly=True)]
        job = run_job(text, disks, cache=cache, share=share, timeout=3600, memory_mb=1536)
        golden = {
            path.name: path.read_text("utf-8", "replace") for path in sorted((share / "golden").iterdir())
        }
        if (share / "golden.key").exists():
            shutil.copyfile(share / "golden.key", folder / "key")
    golden["log"] = job.log
    (folder / "golden.json").write_text(json.dumps(golden, indent=1), "utf-8")
    for path in folder.iterdir():
        path.chmod(0o444)
    report(Ended("sample", job.seconds, golden["expect"].strip()))
