"""Which disk an unattended job means: in doubt none, and all of them are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.block import disks
from onebay.block.disks import Disk, machine_disks
from onebay.rescue.iso import LABEL
from onebay.rescue.live.target import NoneMeant, bounds, choose, settled

GIB = 1 << 30


def disk(name: str, gib: int = 256, **more: str) -> Disk:
    identity = {"serial": more.pop("serial", f"S-{name}"), "model": "GOOD DISK"}
    return Disk(Path(f"/dev/{name}"), gib * GIB, identity, **more)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("256G", 256 * 10**9, 256 * GIB),
        ("200g-300g", 200 * 10**9, 300 * GIB),
        ("1T", 10**12, 1 << 40),
        ("512000-512000", 512000, 512000),
        ("100GiB-1TB", 100 * 10**9, 1 << 40),
    ],
)
def test_sizes(text: str, low: int, high: int) -> None:
    assert bounds(text) == (low, high)


@pytest.mark.parametrize("text", ["", "-", "G", "-5", "0", "300G-200G", "5X", "1-2-3", "1e9", "٣G", "9" * 40])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Refused, match="size of the target"):
        bounds(text)


@pytest.mark.parametrize("size", [256_060_514_304, 256 * GIB])
def test_a_disk_of_256_g_as_makers_and_as_clouds_count(size: int) -> None:
    found = Disk(Path("/dev/sda"), size)
    assert choose("size:256G", [found, disk("sdb", 512), disk("sdc", 200)]) == found


def test_the_only_one() -> None:
    others = [
        disk("sdb", loose="removable"),
        disk("sdc", loose="on USB"),
        disk("sdd", label=LABEL),
    ]
    assert choose("only", [*others, disk("sda")]).path == Path("/dev/sda")
    with pytest.raises(NoneMeant) as caught:
        choose("only", others)
    text = str(caught.value)
    for each in others:
        assert str(each) in text
    for why in ("removable", "on USB", "a medium of the rescue system"):
        assert why in text
    assert caught.value.state == "nothing was written"


@pytest.mark.parametrize("use", ["sdb1 is mounted on /mnt", "the device is read-only"])
@pytest.mark.parametrize("target", ["only", "size:256G"])
def test_a_disk_in_use_makes_no_other_one_the_only_one(target: str, use: str) -> None:
    with pytest.raises(Refused, match="more than one disk could be meant") as caught:
        choose(target, [disk("sda"), disk("sdb", use=use)])
    assert "/dev/sda" in str(caught.value)
    assert "/dev/sdb" in str(caught.value)
    with pytest.raises(Refused, match=use):
        choose(target, [disk("sdb", use=use), disk("sdc", loose="on USB")])


@pytest.mark.parametrize("target", ["only", "size:256G", "size:1G-1T"])
def test_two_candidates_are_named_and_none_is_taken(target: str) -> None:
    with pytest.raises(Refused, match="more than one disk") as caught:
        choose(target, [disk("sda"), disk("sdb"), disk("sdc", loose="on USB")])
    assert not isinstance(caught.value, NoneMeant)
    assert "/dev/sda (274877906944 bytes, serial S-sda, model GOOD DISK); /dev/sdb" in str(caught.value)
    assert "sdc" not in str(caught.value)


def test_no_disk_at_all() -> None:
    for target in ("only", "size:256G", "serial:S-sda"):
        with pytest.raises(NoneMeant, match="found none"):
            choose(target, [])


def test_by_serial_number() -> None:
    both = [disk("sda"), disk("sdb", loose="on USB"), disk("sdc", use="sdc is used as swap")]
    assert choose("serial:S-sda", both).path == Path("/dev/sda")
    assert choose("serial:S-sdb", both).path == Path("/dev/sdb")  # named is named
    with pytest.raises(Refused, match="used as swap") as caught:
        choose("serial:S-sdc", both)
    assert not isinstance(caught.value, NoneMeant)
    for part in ("S-sd", "s-sda", "", " "):
        with pytest.raises(NoneMeant):
            choose(f"serial:{part}", [*both, disk("sdd", serial="")])
    with pytest.raises(Refused, match="more than one"):
        choose("serial:SAME", [disk("sda", serial="SAME"), disk("sdb", serial="SAME")])


@pytest.mark.parametrize("target", ["", "any", "/dev/sda", "ONLY", "size"])
def test_what_is_no_target(target: str) -> None:
    with pytest.raises(Refused, match="target"):
        choose(target, [disk("sda")])


class Coming:
    """Disks that appear one after the other, as buses are slow."""

    def __init__(self, *states: Sequence[Disk]) -> None:
        self.states = list(states)

    def __call__(self) -> Sequence[Disk]:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def test_a_second_disk_that_comes_late_is_not_missed() -> None:
    coming = Coming([], [disk("sda")], [disk("sda")], [disk("sda"), disk("sdb")])
    with pytest.raises(Refused, match="more than one"):
        settled("only", coming, quiet=3, longest=60)


def test_the_first_disk_may_come_late() -> None:
    coming = Coming([], [], [], [disk("sda")])
    assert settled("only", coming, quiet=0.6, longest=30).path == Path("/dev/sda")
    assert settled("serial:S-sda", Coming([], [disk("sda")]), quiet=100, longest=30).path == Path("/dev/sda")


def test_waiting_ends() -> None:
    with pytest.raises(NoneMeant):
        settled("only", Coming([]), quiet=0.1, longest=0.6)


def test_how_a_disk_can_be_taken_out(tmp_path: Path) -> None:
    """Folders as sysfs has them (Documentation/ABI/stable/sysfs-block)."""
    built_in = tmp_path / "pci0000:00/ata1/host0/block/sda"
    stick = tmp_path / "pci0000:00/usb2/2-1/host6/block/sdb"
    card = tmp_path / "pci0000:00/mmc_host/mmc0/block/mmcblk0"
    emmc = tmp_path / "pci0000:00/mmc_host/mmc1/block/mmcblk1"
    for node, removable in ((built_in, "0"), (stick, "0"), (card, "0"), (emmc, "0")):
        (node / "device").mkdir(parents=True)
        (node / "removable").write_text(f"{removable}\n")
    (card / "device/type").write_text("SD\n")
    (emmc / "device/type").write_text("MMC\n")
    assert [disks.loose(node) for node in (built_in, stick, card, emmc)] == [
        "",
        "on USB",
        "a memory card",
        "",
    ]
    (built_in / "removable").write_text("1\n")
    assert disks.loose(built_in) == "removable"


def test_the_disks_of_this_machine_are_hardware() -> None:
    for each in machine_disks():
        assert each.size > 0
        assert not each.path.name.startswith(("loop", "ram", "zram", "dm-", "md", "sr"))
