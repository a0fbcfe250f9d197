"""The disks of the sample appliance as numbers, in sectors of 512 bytes.

The full-size ones are those of Synology DSM: Version8 (5, 6, 7.0), 7.1 and later, and SHR on an MBR. The
miniatures have the same structure with small partitions, so that a test can go through thousands of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from onebay.base.error import Unsupported

MIB = 1 << 20
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition's number, first sector and length."""

    number: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class BootDisk:
    """The appliance's boot disk: how many sectors, and its three partitions."""

    name: str
    table: Literal["mbr", "gpt"]
    sectors: int
    partitions: tuple[Partition, Partition, Partition]
    fat_bits: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A data disk and the boot disk that belongs to it.

    `slots` is the number of RAID1 slots of md0 and md1, of which one is filled; `tail` what stays free after
    the last partition; `extended` where an extended partition starts, whose one logical partition is `data`.
    """

    name: str
    table: Literal["mbr", "gpt"]
    sectors: int
    system: Partition
    swap: Partition
    data_number: int
    data_start: int
    tail: int
    slots: int
    group: str
    filesystem: Literal["btrfs", "ext4"]
    boot: BootDisk
    extended: int = 0
    subvolume: bool = False
    scale: int = 100
    dirt_mib: int = 128

    @property
    def data(self) -> Partition:
        """The partition that carries md2."""
        return Partition(self.data_number, self.data_start, self.sectors - self.tail - self.data_start)

    @property
    def size(self) -> int:
        """Size of the data disk in bytes."""
        return self.sectors * SECTOR


MBR_BOOT = BootDisk(
    "mbr",
    "mbr",
    262144,
    (Partition(1, 2048, 98304), Partition(2, 100352, 153600), Partition(3, 253952, 8192)),
    32,
)
JUN_BOOT = BootDisk(
    "gpt-jun",
    "gpt",
    102400,
    (Partition(1, 2048, 30720), Partition(2, 32768, 61440), Partition(3, 94208, 8159)),
    16,
)
MINI_MBR_BOOT = BootDisk(
    "mbr", "mbr", 36864, (Partition(1, 2048, 24576), Partition(2, 26624, 8192), Partition(3, 34816, 2048)), 16
)
MINI_JUN_BOOT = BootDisk(
    "gpt-jun",
    "gpt",
    36864,
    (Partition(1, 2048, 24576), Partition(2, 26624, 8192), Partition(3, 34816, 2015)),
    16,
)

V8 = Layout(
    "v8-mbr-btrfs",
    "mbr",
    12 << 21,
    Partition(1, 2048, 4980480),
    Partition(2, 4982528, 4194304),
    3,
    9437184,
    204800,
    12,
    "",
    "btrfs",
    MBR_BOOT,
)
V9 = Layout(
    "v9-gpt-lvm-ext4",
    "gpt",
    16 << 21,
    Partition(1, 8192, 16777216),
    Partition(2, 16785408, 4194304),
    3,
    21241856,
    204800,
    16,
    "vg1",
    "ext4",
    JUN_BOOT,
)
SHR = replace(
    V8,
    name="shr-mbr-lvm-btrfs",
    data_number=5,
    data_start=9453280,
    extended=9437184,
    group="vg1000",
    subvolume=True,
)
LAYOUTS = (V8, V9, SHR)


def mini(layout: Layout) -> Layout:
    """Return the miniature of a layout: 32 MiB of system, 16 MiB of swap, a gap of 32 MiB, a small volume."""
    first = layout.system.start
    system, swap = Partition(1, first, 65536), Partition(2, first + 65536, 32768)
    third = swap.start + swap.size + 65536
    shift = layout.data_start - layout.extended if layout.extended else 0
    size = (136 if layout.filesystem == "btrfs" else 80) << 11
    return replace(
        layout,
        sectors=-(-(third + shift + size + 8192) // 2048) * 2048,
        system=system,
        swap=swap,
        data_start=third + shift,
        extended=third if layout.extended else 0,
        tail=8192,
        boot=MINI_JUN_BOOT if layout.boot.table == "gpt" else MINI_MBR_BOOT,
        scale=2,
        dirt_mib=8,
    )


def find(name: str) -> Layout:
    """Return a layout by its name; raises Unsupported with the names there are."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise Unsupported("unknown layout", found=name, hint=f"one of {', '.join(each.name for each in LAYOUTS)}")
