"""Whether KVM works here: only a real kernel that came up under it counts.

There are hosts whose KVM device opens, runs firmware and then hangs any ordinary kernel; so the probe boots
one, with a time-out, once for each boot of the host.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import ToolFailed
from onebay.machine import qemu
from onebay.machine.cache import lock

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# no_timer_check: emulated without KVM on a busy host, ticks come late and the kernel would panic over them
CMDLINE = "console=ttyS0 quiet panic=-1 no_timer_check"
UP = "onebay: the guest is up"
PROBE_SECONDS = 20.0


def accelerator(cache: Path, kernel: Callable[[], tuple[Path, Path]]) -> qemu.Accel:
    """Return "kvm" where proved, else "tcg"; `kernel` gives the kernel and initramfs of the proof."""
    mark = cache / f"accel-{boot_id()}"
    with lock(cache / "accel.lock"):
        if mark.is_file():
            return "kvm" if mark.read_text("ascii") == "kvm" else "tcg"
        found: qemu.Accel = "kvm" if opens() and boots(*kernel()) else "tcg"
        for old in cache.glob("accel-*"):
            old.unlink()
        mark.write_text(found, "ascii")
    return found


def boot_id() -> str:
    """Return what tells one boot of this host from the next."""
    return BOOT_ID.read_text("ascii").strip() if BOOT_ID.exists() else "unknown"


def opens() -> bool:
    """Whether QEMU gets as far as starting its firmware under KVM."""
    return probe(qemu.Machine((), accel="kvm", memory_mb=64), None, 1.0)


def boots(kernel: Path, initrd: Path) -> bool:
    """Whether a kernel comes up under KVM."""
    machine = qemu.Machine(
        (), accel="kvm", memory_mb=512, kernel=kernel, initrd=initrd, cmdline=f"{CMDLINE} onebay.probe"
    )
    return probe(machine, UP, PROBE_SECONDS)


def probe(machine: qemu.Machine, text: str | None, timeout: float) -> bool:
    """Run a machine; true where `text` came, or without `text` where QEMU did not fail."""
    with tempfile.TemporaryDirectory(prefix="onebay-") as name:
        scratch = Path(name)
        try:
            with qemu.running(machine, scratch=scratch, serial=scratch / "serial.log") as guest:
                return guest.wait(text, timeout) or text is None
        except ToolFailed:
            return False
