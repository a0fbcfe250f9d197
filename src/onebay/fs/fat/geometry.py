"""From the BIOS parameter block to places: where the FATs, the root directory and the clusters lie.

The width is decided as the specification and every driver does: a FAT32 has no 16-bit FAT length, the other
two are told apart by the number of clusters. Deviation, as in linux fs/fat/inode.c and EDK2: a FAT32 with
fewer than 65525 clusters is accepted, because mkfs.fat -F 32 makes small ESPs of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from onebay.fs.fat.record import BOOT_SECTOR, TAIL16, TAIL32, BootSector, Tail16, Tail32

FAT_START_ENT = 2
MAX_FAT12 = 4084
MAX_FAT16 = 65524
MAX_FAT32 = 0x0FFFFFF4
MAX_FATS = 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """Places and sizes in bytes; `clusters` is how many can be allocated, numbered from 2."""

    boot: BootSector
    tail: Tail16 | Tail32
    bits: int
    size: int
    fat_at: int
    fat_size: int
    root_at: int
    data_at: int
    cluster_size: int
    clusters: int
    short_fat: bool

    @property
    def mask(self) -> int:
        """The bits of an entry that count."""
        return (1 << min(self.bits, 28)) - 1

    @property
    def bad(self) -> int:
        """The entry of a cluster that must not be used."""
        return self.mask - 8

    @property
    def active(self) -> list[int]:
        """Numbers of the FATs that are kept up to date, the one to read first."""
        if isinstance(self.tail, Tail32) and self.tail.flags & 0x80:
            return [self.tail.flags & 0x0F]
        return list(range(self.boot.fats))

    def cluster_at(self, number: int) -> int:
        """Byte at which cluster `number` starts."""
        return self.data_at + (number - FAT_START_ENT) * self.cluster_size


def parse_geometry(sector: bytes) -> Geometry | str:
    """Read the first 512 bytes of a volume; a string says which rule of a FAT they break."""
    boot = BOOT_SECTOR.unpack(sector)
    wide = boot.fat_length == 0
    tail = TAIL32.unpack(sector, BOOT_SECTOR.size) if wide else TAIL16.unpack(sector, BOOT_SECTOR.size)
    return common_flaw(boot) or width_flaw(boot, tail) or places(boot, tail)


def common_flaw(boot: BootSector) -> str | None:
    """Name the first rule that the common part breaks."""
    jump, clus = boot.ignored, boot.sec_per_clus
    rules = (
        (jump[0] == 0xE9 or (jump[0] == 0xEB and jump[2] == 0x90), "jump: expected eb..90", jump.hex()),
        (
            boot.sector_size in (512, 1024, 2048, 4096),
            "bytes per sector: expected 512..4096",
            boot.sector_size,
        ),
        (clus.bit_count() == 1, "sectors per cluster: expected a power of two", clus),
        (boot.reserved > 0, "reserved sectors: expected at least 1", boot.reserved),
        (1 <= boot.fats <= MAX_FATS, f"number of FATs: expected 1 to {MAX_FATS}", boot.fats),
        (boot.media == 0xF0 or boot.media >= 0xF8, "media: expected 240 or 248..255", boot.media),
        (boot.sectors or boot.total_sect, "total sectors: expected at least 1", 0),
    )
    return next((f"{what}, found {found}" for holds, what, found in rules if not holds), None)


def width_flaw(boot: BootSector, tail: Tail16 | Tail32) -> str | None:
    """Name the first rule that depends on the width and is broken."""
    if isinstance(tail, Tail16):
        return None if boot.dir_entries else "root directory entries: found 0 on a FAT12 or FAT16"
    if tail.length == 0:
        return "sectors per FAT: found 0"
    if boot.dir_entries:
        return f"root directory entries: expected 0 on FAT32, found {boot.dir_entries}"
    if tail.version:
        return f"FAT32 version: expected 0, found {tail.version:#x}"
    if tail.flags & 0x80 and tail.flags & 0x0F >= boot.fats:
        return f"active FAT: expected less than {boot.fats}, found {tail.flags & 0x0F}"
    return None


def places(boot: BootSector, tail: Tail16 | Tail32) -> Geometry | str:
    """Add up the areas; a string where they do not fit into one another."""
    unit = boot.sector_size
    fat_sectors = tail.length if isinstance(tail, Tail32) else boot.fat_length
    total_sectors = boot.sectors or boot.total_sect
    root_sectors = -(-boot.dir_entries * 32 // unit)
    root_sector = boot.reserved + boot.fats * fat_sectors
    data_sector = root_sector + root_sectors
    if data_sector >= total_sectors:
        return f"no room for data: {data_sector} sectors of metadata, {total_sectors} in all"
    clusters = (total_sectors - data_sector) // boot.sec_per_clus
    if clusters == 0:
        return "no cluster fits"
    bits, most = 32, MAX_FAT32
    if isinstance(tail, Tail16):
        bits, most = (12, MAX_FAT12) if clusters <= MAX_FAT12 else (16, MAX_FAT16)
    if clusters > most:
        return f"clusters of a FAT{bits}: expected at most {most}, found {clusters}"
    holds = fat_sectors * unit * 8 // bits - FAT_START_ENT
    if isinstance(tail, Tail32) and not FAT_START_ENT <= tail.root_cluster < min(clusters, holds) + 2:
        return f"root directory: cluster {tail.root_cluster} of {clusters}"
    return Geometry(
        boot=boot,
        tail=tail,
        bits=bits,
        size=total_sectors * unit,
        fat_at=boot.reserved * unit,
        fat_size=fat_sectors * unit,
        root_at=root_sector * unit,
        data_at=data_sector * unit,
        cluster_size=boot.sec_per_clus * unit,
        clusters=max(0, min(clusters, holds)),
        short_fat=holds < clusters,
    )


def partition_table_in(sector: bytes, size: int) -> bool:
    """Whether the end of `sector` is an MBR's table of partitions inside a volume of `size` bytes.

    GRUB's boot code keeps the parameter block that it found, so an MBR may look like a FAT in every other
    way. The fake table of `mkfs.fat --mbr` has a partition that starts at sector 0; it is not counted.
    """
    if sector[510:512] != b"\x55\xaa":
        return False
    found = False
    for at in range(446, 510, 16):
        entry = sector[at : at + 16]
        if entry[0] & 0x7F:
            return False
        start = int.from_bytes(entry[8:12], "little")
        sectors = int.from_bytes(entry[12:16], "little")
        if entry[4] == 0:
            continue
        if start == 0 or sectors == 0:
            return False
        found = found or start * 512 < size
    return found
