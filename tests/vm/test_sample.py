"""The sample appliance: its disks are what the real tools say, and it boots from two disks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onebay.machine.boot import boot
from onebay.machine.qemu import Bus
from onebay.machine.worker import accel
from onebay.sample import build, layout

pytestmark = pytest.mark.vm

NAMES = [each.name for each in layout.LAYOUTS]
QUICK = {("v9-gpt-lvm-ext4", "bios", "virtio", 512), ("v9-gpt-lvm-ext4", "uefi", "virtio", 512)}
MATRIX = [
    *(
        (name, firmware, bus, 512)
        for name in NAMES
        for firmware in ("bios", "uefi")
        for bus in ("virtio", "sata", "nvme")
    ),
    ("v8-mbr-btrfs", "bios", "usb", 512),
    ("v8-mbr-btrfs", "uefi", "usb", 512),
    ("v9-gpt-lvm-ext4", "bios", "virtio", 4096),
    ("v9-gpt-lvm-ext4", "uefi", "virtio", 4096),
]


@pytest.mark.parametrize(("name", "firmware", "bus", "sector_size"), MATRIX)
def test_two_disks_boot(
    name: str,
    firmware: str,
    bus: Bus,
    sector_size: int,
    cache: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if (name, firmware, bus, sector_size) not in QUICK and not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix")
    sample = build.build(name, cache=cache, sector_size=sector_size)
    before = sample.data.stat().st_mtime_ns
    result = boot(
        sample.data,
        boot=sample.boot,
        firmware="uefi" if firmware == "uefi" else "bios",
        bus=bus,
        sector_size=sector_size,
        expect=sample.expect,
        timeout=600,
        accel=accel(cache),
        log=tmp_path / "serial.log",
    )
    assert result.found
    assert sample.data.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", NAMES)
def test_miniatures_have_their_numbers(name: str, cache: Path) -> None:
    sample = build.build_mini(name, cache=cache)
    numbers = sample.layout
    table = json.loads(sample.golden["data.sfdisk.json"])["partitiontable"]
    found = {
        int(each["node"].removeprefix("/dev/vdb")): (each["start"], each["size"])
        for each in table["partitions"]
    }
    assert found[1] == (numbers.system.start, numbers.system.size)
    assert found[2] == (numbers.swap.start, numbers.swap.size)
    assert found[numbers.data.number] == (numbers.data.start, numbers.data.size)
    assert "Version : 0.90.00" in sample.golden["md0.examine"]
    assert f"Raid Devices : {numbers.slots}" in sample.golden["md1.examine"]
    assert "Name : NAS:2" in sample.golden["md2.examine"]
    assert not sample.data.stat().st_mode & 0o222


def test_miniature_with_sectors_of_4096_bytes(cache: Path) -> None:
    sample = build.build_mini("v9-gpt-lvm-ext4", cache=cache, sector_size=4096)
    table = json.loads(sample.golden["data.sfdisk.json"])["partitiontable"]
    assert table["sectorsize"] == 4096
    assert table["partitions"][0]["start"] * 8 == sample.layout.system.start
    assert sample.data.read_bytes()[4096:4104] == b"EFI PART"
