"""Build the sample appliance: its system from packages once, then the two disks of a layout in a worker.

Nothing here is written by onebay's own writers: partition tables come from sfdisk and sgdisk, arrays from
mdadm, volumes from lvm2, file systems from mkfs, boot loaders from grub-install. What those tools say of the
result (`Sample.golden`) is the second source for the tests of onebay's readers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Unsupported
from onebay.base.event import Began, Ended, silent
from onebay.machine import debian
from onebay.machine.cache import built, recipe_key
from onebay.machine.worker import Disk, initramfs_hooks, resource, run_job
from onebay.machine.worker import recipe as worker_recipe
from onebay.sample import layout as layouts

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.sample.layout import Layout

PACKAGES = (
    "linux-image-amd64 kmod busybox-static systemd systemd-sysv udev dbus openssh-server samba mdadm lvm2 "
    "btrfs-progs e2fsprogs fdisk attr iproute2 less nano"
)
# of the ramdisk: the buses of disks, arrays, the root, the installer's network; other modules are in the root
MODULES = (
    "virtio_pci virtio_blk virtio_scsi ahci nvme xhci_pci ehci_pci usb_storage uas sd_mod raid1 ext4 "
    "crc32c_generic virtio_net e1000 e1000e"
)
# gtar is tar by a name that busybox does not have
PROGRAMS = "mdadm sfdisk mkfs.ext4 gtar nas-installer nas-dhcp"
SYSTEM_SCRIPTS = ("nas-init.sh", "nas-setup.sh")
# script -> program of the appliance
COMMANDS = {"manifest.sh": "onebay-manifest", "nas-storage.sh": "nas-storage", "nas-page.sh": "nas-page"}
# script -> program of its ramdisk
INSTALLER = {"nas-installer.sh": "nas-installer", "nas-dhcp.sh": "nas-dhcp"}
DISK_SCRIPTS = ("disk.sh", "content.py")


@dataclass(frozen=True, slots=True)
class Sample:
    """A built sample: read-only files in the cache; copy them (sparsely) before writing.

    `expect` is the line that the appliance prints once it has checked its data; `golden` maps the name of a
    tool's report to its text.
    """

    layout: Layout
    sector_size: int
    data: Path
    boot: Path
    expect: str
    golden: dict[str, str]

    @property
    def verdict(self) -> str:
        """What `expect` says of the data, without the volume's size: it holds when the volume has grown."""
        return self.expect.partition(" volume=")[0]


@dataclass(frozen=True, slots=True)
class System:
    """The appliance's system: a tar of its root, a kernel and an initramfs."""

    root: Path
    kernel: Path
    initrd: Path


def script(name: str) -> str:
    """Return a script that lies beside this module."""
    return resources.files("onebay.sample").joinpath(name).read_text("utf-8")


def system(cache: Path, *, report: Report = silent) -> System:
    """Return the appliance's system, built into `cache` where it is not there yet."""
    sources = debian.host_sources()
    scripts = {name: script(name) for name in SYSTEM_SCRIPTS} | {"initramfs.sh": resource("initramfs.sh")}
    scripts |= {name: script(name) for name in COMMANDS | INSTALLER}
    recipe = {
        "sources": repr(sources),
        "packages": PACKAGES,
        "modules": MODULES,
        "programs": PROGRAMS,
        **scripts,
    }
    recipe["excluded"] = " ".join(debian.EXCLUDED)

    def build(folder: Path) -> None:
        report(Began("system", "the sample appliance's system from packages"))
        began = time.monotonic()
        for name, text in scripts.items():
            (folder / name).write_text(text, "utf-8")
        hooks = [
            *(f"upload {folder}/{name} /usr/local/sbin/{program}" for name, program in COMMANDS.items()),
            f"upload {folder}/nas-setup.sh /tmp/nas-setup.sh",
            'chroot "$1" sh /tmp/nas-setup.sh',
            'rm "$1/tmp/nas-setup.sh"',
            *(f"upload {folder}/{name} /usr/local/bin/{program}" for name, program in INSTALLER.items()),
            'chmod 755 "$1"/usr/local/bin/nas-*; ln -s /bin/tar "$1/usr/local/bin/gtar"',
            *initramfs_hooks(folder / "nas-init.sh", folder / "initramfs.sh", MODULES, PROGRAMS, folder),
            'rm "$1"/usr/local/bin/*',
        ]
        debian.bootstrap(folder / "root.tar", PACKAGES.split(), sources, hooks=hooks)
        report(Ended("system", time.monotonic() - began))

    folder = built(cache, "system", recipe_key(recipe), build)
    return System(folder / "root.tar", folder / "vmlinuz", folder / "initrd")


def build(name: str, *, cache: Path, sector_size: int = 512, report: Report = silent) -> Sample:
    """Return the sample of layout `name`, built into `cache` where it is not there yet (a few minutes)."""
    return make(layouts.find(name), cache=cache, sector_size=sector_size, report=report, miniature=False)


def build_mini(name: str, *, cache: Path, sector_size: int = 512, report: Report = silent) -> Sample:
    """Return a miniature of layout `name`: the same structure, a few files, no system; it does not boot."""
    return make(
        layouts.mini(layouts.find(name)), cache=cache, sector_size=sector_size, report=report, miniature=True
    )


def make(layout: Layout, *, cache: Path, sector_size: int, report: Report, miniature: bool) -> Sample:
    """Build one sample or find it in the cache."""
    if sector_size != 512 and layout.table != "gpt":
        raise Unsupported("only the GPT layout is made with other sectors", found=sector_size)
    base = None if miniature else system(cache, report=report)
    scripts = {name: script(name) for name in DISK_SCRIPTS}
    recipe = {
        "worker": repr(worker_recipe(debian.host_sources())),
        "layout": repr(layout),
        "sector_size": str(sector_size),
        **scripts,
    }
    recipe["system"] = base.root.parent.name if base else ""
    kind = f"{'mini' if miniature else 'sample'}-{layout.name}"
    folder = built(
        cache,
        f"{kind}-4k" if sector_size == 4096 else kind,
        recipe_key(recipe),
        lambda part: make_disks(part, layout, base, cache=cache, sector_size=sector_size, report=report),
    )
    golden = json.loads((folder / "golden.json").read_text("utf-8"))
    return Sample(
        layout, sector_size, folder / "data.img", folder / "boot.img", golden["expect"].strip(), golden
    )


def make_disks(
    folder: Path, layout: Layout, base: System | None, *, cache: Path, sector_size: int, report: Report
) -> None:
    """Run the worker's job that makes both disks of a layout in `folder`."""
    report(Began("sample", layout.name))
    data, boot = folder / "data.img", folder / "boot.img"
    for path, size in ((data, layout.size), (boot, layout.boot.sectors * layouts.SECTOR)):
        with path.open("wb") as file:
            file.truncate(size)
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        share = Path(name)
        (share / "content.py").write_text(script("content.py"), "utf-8")
        if base:
            shutil.copyfile(base.kernel, share / "vmlinuz")
            shutil.copyfile(base.initrd, share / "rd.gz")
        else:
            (share / "vmlinuz").write_bytes(b"a kernel of no weight\n" * 20000)
            (share / "rd.gz").write_bytes(b"a ramdisk of no weight\n" * 20000)
        disks = [Disk(data, sector_size=sector_size), Disk(boot)]
        disks += [Disk(base.root, readonly=True)] if base else []
        text = f"{variables(layout, sector_size)}\n{script('disk.sh')}"
        job = run_job(text, disks, cache=cache, share=share, timeout=1800, memory_mb=1536)
        golden = {
            path.name: path.read_text("utf-8", "replace") for path in sorted((share / "golden").iterdir())
        }
    golden["log"] = job.log
    (folder / "golden.json").write_text(json.dumps(golden, indent=1), "utf-8")
    for path in folder.iterdir():
        path.chmod(0o444)
    report(Ended("sample", job.seconds, golden["expect"].strip()))


def variables(layout: Layout, sector_size: int) -> str:
    """Return the shell assignments that disk.sh starts from."""
    first, second, third = layout.boot.partitions
    values = {
        "layout": layout.name,
        "table": layout.table,
        "sector_size": sector_size,
        "p1_start": layout.system.start,
        "p1_size": layout.system.size,
        "p2_start": layout.swap.start,
        "p2_size": layout.swap.size,
        "data_number": layout.data.number,
        "data_start": layout.data.start,
        "data_size": layout.data.size,
        "extended": layout.extended,
        "slots": layout.slots,
        "group": layout.group,
        "filesystem": layout.filesystem,
        "subvolume": int(layout.subvolume),
        "scale": layout.scale,
        "dirt_mib": layout.dirt_mib,
        "boot_table": layout.boot.table,
        "fat_bits": layout.boot.fat_bits,
    }
    for number, partition in enumerate((first, second, third), 1):
        values |= {f"b{number}_start": partition.start, f"b{number}_size": partition.size}
    return "\n".join(f"{name}='{value}'" for name, value in values.items())
