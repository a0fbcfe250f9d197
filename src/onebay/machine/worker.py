"""A worker: a small Debian in a virtual machine that runs one shell script as root, on real disks.

    job = run_job("mkfs.btrfs /dev/vdb; mount /dev/vdb /media; cp -a /mnt/share/x /media", [Disk(path)],
                  cache=cache, share=folder)
    job.status, job.log

- The disks are /dev/vdb, /dev/vdc ... in the order given (`sector_size` 512 or 4096; written in place unless
  `readonly`). /dev/vda is the worker's own root, read-only under an overlay in RAM: nothing survives a job.
- `share` is a folder of the host at /mnt/share (9p; slow for many files: hand over a tar as a disk instead).
- The script runs under `bash` (write `set -eu` yourself) in /root, with mdadm lvm2 btrfs-progs xfsprogs
  e2fsprogs dosfstools mtools parted gdisk fdisk grub (both platforms) attr zstd rsync busybox cryptsetup; no
  udev, no network. A status other than 0 raises ToolFailed with the last lines, unless `check` is false.
- The first call builds the worker into `cache` (about a minute); later ones start in ten seconds under TCG.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import ToolFailed
from onebay.base.event import Began, Ended, silent
from onebay.machine import cpio, debian, qemu
from onebay.machine.accel import CMDLINE, accelerator
from onebay.machine.cache import built, recipe_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.base.event import Report

PACKAGES = (
    "linux-image-amd64 busybox-static kmod mdadm lvm2 btrfs-progs xfsprogs e2fsprogs dosfstools mtools "
    "parted gdisk fdisk grub-pc-bin grub-efi-amd64-bin grub-common grub2-common attr acl zstd xz-utils "
    "rsync cryptsetup-bin file python3-minimal"
)
MODULES = "virtio_pci virtio_blk ext4 overlay"
SCRIPTS = ("worker-init.sh", "initramfs.sh")
BEGIN = "onebay-job: begin"
END = "onebay-job: end "


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk for a job."""

    path: Path
    format: str = "raw"
    sector_size: int = 512
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended, and what it printed."""

    status: int
    log: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Worker:
    """The files of a built worker."""

    root: Path
    kernel: Path
    initrd: Path


def resource(name: str) -> str:
    """Return a script that lies beside this module."""
    return resources.files("onebay.machine").joinpath(name).read_text("utf-8")


def initramfs_hooks(init: Path, script: Path, modules: str, programs: str, out: Path) -> list[str]:
    """Return the mmdebstrap hooks that make `out`/initrd and `out`/vmlinuz from what is in the new root."""
    return [
        'mkdir -p "$1/onebay"',
        f"upload {init} /onebay/init",
        f"upload {script} /onebay/initramfs.sh",
        f'echo {modules} > "$1/onebay/modules"',
        f'echo {programs} > "$1/onebay/programs"',
        'chroot "$1" sh /onebay/initramfs.sh',
        f"download /boot/onebay.initrd {out}/initrd",
        f"download /boot/onebay.vmlinuz {out}/vmlinuz",
        'rm -rf "$1/onebay" "$1"/boot/*',
    ]


def recipe(sources: debian.Sources) -> dict[str, str]:
    """Return all that the worker's files depend on."""
    scripts = {name: resource(name) for name in SCRIPTS}
    return {
        "sources": repr(sources),
        "packages": PACKAGES,
        "modules": MODULES,
        "excluded": " ".join(debian.EXCLUDED),
        **scripts,
    }


def worker(cache: Path, *, report: Report = silent) -> Worker:
    """Return the worker, built into `cache` where it is not there yet."""
    sources = debian.host_sources()
    parts = recipe(sources)

    def build(folder: Path) -> None:
        report(Began("worker", "a Debian worker from packages"))
        began = time.monotonic()
        for name in SCRIPTS:
            (folder / name).write_text(parts[name], "utf-8")
        hooks = initramfs_hooks(folder / "worker-init.sh", folder / "initramfs.sh", MODULES, "", folder)
        debian.bootstrap(folder / "root.ext2", PACKAGES.split(), sources, hooks=hooks)
        report(Ended("worker", time.monotonic() - began))

    folder = built(cache, "worker", recipe_key(parts), build)
    return Worker(folder / "root.ext2", folder / "vmlinuz", folder / "initrd")


def accel(cache: Path, *, report: Report = silent) -> qemu.Accel:
    """Return the accelerator to use here; builds the worker only where KVM has to be proved with a kernel."""

    def kernel() -> tuple[Path, Path]:
        made = worker(cache, report=report)
        return made.kernel, made.initrd

    return accelerator(cache, kernel)


def run_job(
    script: str,
    disks: Sequence[Disk],
    *,
    cache: Path,
    share: Path | None = None,
    timeout: float = 600,
    memory_mb: int = 1024,
    check: bool = True,
    sticks: tuple[qemu.Stick, ...] = (),
    report: Report = silent,
) -> JobResult:
    """Run `script` in a worker; raises ToolFailed when it fails, or does not end within `timeout` seconds.

    Its modules for `sticks` (xhci_pci, usb_storage, sd_mod) are loaded by the script.
    """
    made = worker(cache, report=report)
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        scratch = Path(name)
        initrd = scratch / "initrd"
        shutil.copyfile(made.initrd, initrd)
        with initrd.open("ab") as file:
            file.write(b"\0" * (-file.tell() % 512))
            files = {"job.sh": script, "worker-run.sh": resource("worker-run.sh")}
            file.write(cpio.archive({name: text.encode() for name, text in files.items()}))
        drives = [qemu.Drive(made.root, readonly=True)]
        drives += [qemu.Drive(d.path, d.format, "virtio", d.sector_size, d.readonly) for d in disks]
        machine = qemu.Machine(
            tuple(drives),
            accel=accel(cache),
            memory_mb=memory_mb,
            kernel=made.kernel,
            initrd=initrd,
            cmdline=CMDLINE + (" onebay.share" if share else ""),
            share=share,
            sticks=sticks,
        )
        with qemu.running(machine, scratch=scratch, serial=scratch / "serial.log") as guest:
            guest.wait(None, timeout)
            return job_result(guest, timeout, check=check)


def job_result(guest: qemu.Running, timeout: float, *, check: bool) -> JobResult:
    """Read the end of a job from the serial log."""
    output = guest.output().replace("\r\n", "\n")
    _, _, log = output.partition(f"{BEGIN}\n")
    log, end, status = log.rpartition(END)
    if not end:
        why = "ended without a result" if guest.ended() else f"did not end within {timeout:.0f} s"
        raise ToolFailed(f"the job {why}: {qemu.last_lines(output)}")
    code = int(status.split()[0])
    if code and check:
        raise ToolFailed(f"the job ended with status {code}: {qemu.last_lines(log)}")
    return JobResult(code, log, guest.seconds())
