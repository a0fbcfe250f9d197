"""Real firmware and a real kernel take our stick for one: its ids, its bytes, and a boot from it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from onebay.block import FileVolume, Overlay
from onebay.machine import qemu
from onebay.machine.boot import Firmware, firmware_files, overlay
from onebay.machine.scsi import Identity
from onebay.machine.usbstick import stick
from onebay.machine.worker import accel, run_job
from onebay.sample.build import build

pytestmark = pytest.mark.vm

SIZE = 12 << 20
JOB = """set -eu
modprobe xhci_pci; modprobe usb_storage; modprobe sd_mod
for _ in $(seq 600); do [ -b /dev/sda ] && break; sleep 0.1; done
for name in idVendor idProduct serial; do
    cat "$(dirname "$(grep -l 0e0ba7 /sys/bus/usb/devices/*/serial)")/$name"
done
blockdev --getsize64 /dev/sda
cat /sys/block/sda/removable
sha256sum < /dev/sda
yes onebay | head -c 300000 | dd of=/dev/sda bs=1024 seek=3333 conv=fsync status=none
echo 3 > /proc/sys/vm/drop_caches
sha256sum < /dev/sda
! dd if=/dev/zero of=/dev/sda bs=4096 seek=3072 count=1 oflag=direct status=none 2> /dev/null
"""


def test_a_kernel_reads_and_writes_the_stick(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "boot.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    base = FileVolume(path)
    volume = Overlay(base)
    before = base.read(0, SIZE)
    with stick(volume, tmp_path / "u", identity=Identity(serial="0e0ba7123456")) as usb:
        job = run_job(JOB, [], cache=cache, sticks=(usb.plug(),))
    written = (b"onebay\n" * 50000)[:300000]
    at = 3333 * 1024
    after = before[:at] + written + before[at + len(written) :]
    lines = job.log.split()
    assert lines[:5] == ["f400", "f400", "0e0ba7123456", str(SIZE), "1"]
    assert [lines[5], lines[7]] == [hashlib.sha256(data).hexdigest() for data in (before, after)]
    assert volume.read(0, SIZE) == after
    assert base.read(0, SIZE) == before


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_firmware_boots_from_the_stick(cache: Path, tmp_path: Path, firmware: Firmware) -> None:
    """The other disk would boot as well, and says something else."""
    boot, other = build("v8-mbr-btrfs", cache=cache), build("v9-gpt-lvm-ext4", cache=cache)
    with stick(Overlay(FileVolume(boot.boot)), tmp_path / "u") as usb:
        machine = qemu.Machine(
            (overlay(other.boot, tmp_path / "other.qcow2"),),
            accel=accel(cache),
            memory_mb=512,
            firmware=firmware_files(tmp_path) if firmware == "uefi" else None,
            sticks=(usb.plug(boot_index=1),),
        )
        with qemu.running(machine, scratch=tmp_path, serial=tmp_path / "serial.log") as guest:
            ours, others = (f"Loading the system of layout {s.layout.name}" for s in (boot, other))
            assert guest.wait(ours, 300, (others,)), qemu.last_lines(guest.output())
