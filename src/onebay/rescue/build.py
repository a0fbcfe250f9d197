"""Build the rescue system: kernel, initramfs and ISO, the same bytes from the same lock and onebay.

Nothing needs root. The folder appears under its name when all of it is there.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Refused, reason
from onebay.base.event import Began, Ended, silent
from onebay.machine import debian
from onebay.rescue import configuration, iso, netboot, system, toolbox
from onebay.rescue.archive import Archive, fetch, from_file, of_release
from onebay.rescue.files import Tree, regular, rules, unpack
from onebay.rescue.lock import Lock, Package, parse_lock

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.rescue.live.settings import Document

RELEASE = "trixie"
KERNEL = "linux-image-amd64"  # depends on the kernel of the day
# What is asked for; what these depend on comes along.
SYSTEM = (
    "kmod busybox-static python3 python3-zstandard python3-click mdadm lvm2 btrfs-progs e2fsprogs xfsprogs "
    "dosfstools fdisk util-linux mount kexec-tools efibootmgr iproute2 ndisc6 rdnssd dropbear-bin "
    "ca-certificates openssl python3-starlette python3-uvicorn"
)
BUILD = "grub-common grub-pc-bin grub-efi-amd64-signed shim-signed xorriso squashfs-tools"
# Dependencies that nothing needs which we keep: services, maintainer scripts, other programs' halves.
WITHOUT = (
    "coreutils cpio debconf dmeventd dpkg dracut-install gcc-14-base gettext-base init-system-helpers "
    "initramfs-tools initramfs-tools-bin initramfs-tools-core klibc-utils libklibc libapparmor1 "
    "libaudit-common libdb5.3t64 libdbus-1-3 libglib2.0-0t64 libicu76 liblastlog2-2 libpam0g "
    "libpam-modules libpam-modules-bin libpam-runtime libseccomp2 libsqlite3-0 libstdc++6 "
    "libsystemd-shared linux-base linux-image-amd64 logsave media-types netbase openssl-provider-legacy "
    "perl-base python3-cffi-backend python3-dbus readline-common systemd sysvinit-utils tar tzdata udev "
    "login login.defs passwd grub2-common grub-efi-amd64-bin grub-efi-amd64-unsigned mokutil "
    "shim-unsigned shim-signed-common adduser base-passwd libattr1 libcap2-bin libdebconfclient0 "
    "libgdbm-compat4t64 libgdbm6t64 libgssapi-krb5-2 libk5crypto3 libkrb5-3 libkrb5support0 libperl5.40 "
    "libsemanage-common libsemanage2 libsepol2 libtirpc-common libtirpc3t64 libuv1t64 libxtables12 perl "
    "perl-modules-5.40 python3-uvloop python3-wsproto"
)
LOCK = "packages.lock"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a build may be told: another lock, sources, a time stamp in seconds since 1970, settings."""

    lock: Path | None = None
    sources: Path | None = None
    date: int | None = None
    settings: Document | None = None


@dataclass(frozen=True, slots=True)
class Rescue:
    """A built rescue system."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel, signed by Debian."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initramfs."""
        return self.folder / "initrd"

    @property
    def iso(self) -> Path:
        """The medium for CD drives and disks."""
        return self.folder / "rescue.iso"


def read_lock(choice: Choice) -> tuple[Lock, str]:
    """Return the lock to use and its name; raises Refused where it cannot be read, Damaged."""
    if choice.lock is None:
        return parse_lock(system.text_of(LOCK), LOCK), LOCK
    try:
        text = choice.lock.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("is no lock file", volume=str(choice.lock)) from error
    except OSError as error:
        raise Refused(reason(error), volume=str(choice.lock)) from error
    return parse_lock(text, str(choice.lock)), str(choice.lock)


def archive_of(release: str, choice: Choice, cache: Path) -> Archive:
    """Return the archive that packages of a release come from."""
    if choice.sources:
        return Archive(cache / "archive", from_file(choice.sources, release))
    return Archive(cache / "archive", of_release(debian.host_sources(), release))


def renew(choice: Choice, *, cache: Path) -> Lock:
    """Return a lock of what the archive has now; raises Transient, ToolFailed, Refused."""
    archive = archive_of(RELEASE, choice, cache)
    archive.update()
    kernels = [name for name in archive.closure([KERNEL]) if name.startswith("linux-image-6")]
    wanted = sorted({*archive.closure(SYSTEM.split()), *kernels} - set(WITHOUT.split()))
    tools = sorted({*archive.closure(BUILD.split())} - set(WITHOUT.split()) - set(wanted))
    packages: list[Package] = [*archive.packages(wanted, "system"), *archive.packages(tools, "build")]
    date = choice.date if choice.date is not None else int(time.time()) // 86400 * 86400
    return Lock(RELEASE, date, tuple(sorted(packages)))


def build(target: Path, choice: Choice, *, cache: Path, report: Report = silent) -> Rescue:
    """Build the rescue system into the folder `target`, which must not be there.

    Raises Refused where it is, Missing for packages that the archive no longer has, Corrupt, Transient,
    Damaged for a lock that breaks its rules, ToolFailed.
    """
    if target.exists():
        raise Refused("exists already", volume=str(target))
    lock, name = read_lock(choice)
    cache = cache / "rescue"
    cache.mkdir(parents=True, exist_ok=True)
    report(Began("packages", f"{len(lock.packages)} packages of {lock.release}"))
    began = time.monotonic()
    debs = fetch(lock, name, archive_of(lock.release, choice, cache), cache)
    report(Ended("packages", time.monotonic() - began))
    date = lock.date if choice.date is None else choice.date
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.absolute().parent) as scratch:
        out = Path(scratch) / "out"
        out.mkdir()
        make(Rescue(out), debs, date, Path(scratch), report, settings=choice.settings)
        out.rename(target)
    return Rescue(target)


def make(
    rescue: Rescue,
    debs: dict[Package, Path],
    date: int,
    scratch: Path,
    report: Report,
    *,
    settings: Document | None = None,
) -> None:
    """Make the three files from the packages."""
    began = time.monotonic()
    report(Began("system", "the rescue system from its packages"))
    of_system = [path for package, path in sorted(debs.items()) if package.role == "system"]
    parts = system.from_packages(of_system)
    tools = build_tree([path for package, path in sorted(debs.items()) if package.role == "build"])
    (scratch / "tools").mkdir()
    box = toolbox.make({**parts.tree, **tools}, scratch / "tools", date)
    toolbox.refuse_lacking(parts.tree, box)
    if settings is not None:
        parts.tree[configuration.BUILT_IN] = regular(configuration.text(settings), 0o600)
    tree = system.system(parts, box)
    report(Ended("system", time.monotonic() - began))
    began = time.monotonic()
    report(Began("initramfs", "squashfs and initramfs"))
    squash = scratch / "root.squashfs"
    system.squashed(tree, box, squash)
    rescue.kernel.write_bytes(parts.kernel)
    rescue.initrd.write_bytes(system.initramfs(tree, squash.read_bytes()))
    report(Ended("initramfs", time.monotonic() - began))
    began = time.monotonic()
    report(Began("iso", rescue.iso.name))
    (scratch / "iso").mkdir()
    loaders = (rescue.kernel, rescue.initrd)
    iso.make_iso(
        rescue.iso, kernel=loaders[0], initrd=loaders[1], build=tools, box=box, scratch=scratch / "iso"
    )
    netboot.write(rescue.folder, tools)
    for path in rescue.folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(scratch / "iso")
    report(Ended("iso", time.monotonic() - began))


def build_tree(debs: list[Path]) -> Tree:
    """Return the files of the packages that only building needs."""
    kept = rules("drop usr/share/doc/*\ndrop usr/share/locale/*\ndrop usr/share/man/*\n")
    tree: Tree = {}
    for deb in debs:
        tree.update(unpack(deb, kept))
    return tree
