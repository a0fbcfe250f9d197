"""From a volume to the one md superblock that describes it: places, checks, and the traps of each.

A superblock at the end of the last partition may stand at the end of the whole disk as well. Two checks keep
a disk from being taken for a member: a 1.x superblock records its own place; a 0.90 one does not, so a
hit that a partition of the volume's own table explains is that partition's (as util-linux, linux_raid.c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.layer import Member, Suspect
from onebay.stack.md.record import (
    DISK0,
    FEATURES_KNOWN,
    MAX_DEVS_0,
    MAX_DEVS_1,
    MAX_SECTOR,
    RESERVED_BYTES,
    RESHAPING,
    ROLE_FAULTY,
    ROLE_JOURNAL,
    ROLE_MAX,
    SB_BYTES,
    SB_MAGIC,
    SUPER0,
    SUPER1,
    DiskState,
    Feature,
    Super0,
    Super1,
    checksum0,
    checksum1,
)

if TYPE_CHECKING:
    from onebay.block.volume import Volume

SECTOR = 512
MAX_ENTRIES = 1024  # partitions looked at to tell a member from the disk around it


@dataclass(frozen=True)
class Superblock:
    """What one member says, in bytes and in the words of both versions.

    `slot` is the role, -1 for a spare or a journal, -2 for a faulty device; `size` is the used part of the
    member, `data_size` what the superblock allows; `roles` maps device numbers to roles as this member knows.
    """

    volume: Volume
    version: str
    at: int
    uuid: str
    name: str
    level: int
    raid_disks: int
    events: int
    number: int
    slot: int
    in_sync: bool
    size: int
    data_offset: int
    data_size: int
    chunk_size: int
    layout: int
    clean: bool
    created: int
    roles: dict[int, int]
    device: str
    odd: str | None
    record: Super0 | Super1
    raw: bytes

    @property
    def data_end(self) -> int:
        """Byte behind the last one that the superblock claims for data."""
        return self.data_offset + max(self.size, self.data_size)

    @property
    def fits(self) -> bool:
        """Whether everything that the superblock claims lies inside the volume."""
        return self.data_end <= self.volume.size


def probe(volume: Volume) -> Member | Suspect | None:
    """Return the membership that the superblock on `volume` states; two that contradict are a Suspect."""
    answers = [read_0(volume), *(read_1(volume, minor) for minor in (2, 1, 0))]
    found = [answer for answer in answers if isinstance(answer, Superblock)]
    fitting = [sb for sb in found if sb.fits]
    chosen = fitting or found
    if len(chosen) > 1:
        places = " and ".join(f"{sb.version} at {sb.at:#x}" for sb in chosen)
        return Suspect("md", volume, f"ambiguous: valid superblocks {places}", chosen[0].at)
    if chosen:
        sb = chosen[0]
        if sb.version == "0.90" and not sb.fits:
            evidence = f"superblock 0.90 describes {sb.size} bytes, larger than the volume ({volume.size})"
            return Suspect("md", volume, evidence, sb.at)
        return Member("md", volume, sb.uuid, sb.slot, sb.raid_disks, sb)
    return next((answer for answer in answers if isinstance(answer, Suspect)), None)


def place_0(size: int) -> int:
    """Byte at which a 0.90 superblock stands on a volume of `size` bytes; negative where there is no room."""
    return size // RESERVED_BYTES * RESERVED_BYTES - RESERVED_BYTES


def place_1(minor: int, size: int) -> int:
    """Byte at which a 1.`minor` superblock stands on a volume of `size` bytes (md.c, super_1_load)."""
    if minor:
        return (minor - 1) * 4096
    return (size // SECTOR - 16) // 8 * 8 * SECTOR


def read_0(volume: Volume) -> Superblock | Suspect | None:
    """Read a 0.90 superblock; big-endian ones are named in a Suspect."""
    at = place_0(volume.size)
    if at < 0:
        return None
    raw = volume.read(at, SB_BYTES)
    record = SUPER0.unpack(raw)
    swapped = raw[:4] == SB_MAGIC.to_bytes(4, "big")
    if not swapped and (record.md_magic != SB_MAGIC or record.major_version != 0):
        return None
    if foreign(volume, at, record):
        return None
    expected = checksum0(raw)
    if swapped:
        evidence = "superblock 0.90 of a big-endian host is not supported"
    elif record.sb_csum != expected:
        evidence = f"superblock 0.90 checksum: expected {expected:#010x}, found {record.sb_csum:#010x}"
    elif record.raid_disks > MAX_DEVS_0:
        evidence = f"superblock 0.90 claims {record.raid_disks} devices, at most {MAX_DEVS_0}"
    else:
        return from_0(volume, at, record, raw)
    return Suspect("md", volume, evidence, at)


def from_0(volume: Volume, at: int, record: Super0, raw: bytes) -> Superblock:
    """Translate a 0.90 superblock whose checksum is right."""
    mine = DISK0.unpack(record.this_disk)
    disks = DISK0.unpack_all(record.disks)
    states = {disk.number: disk for disk in disks if disk.state & DiskState.ACTIVE}
    here = states.get(mine.number, mine)
    in_sync = bool(here.state & DiskState.SYNC) and not here.state & (DiskState.FAULTY | DiskState.REMOVED)
    slot = here.raid_disk if in_sync and here.raid_disk < record.raid_disks else -1
    words = (record.set_uuid0, record.set_uuid1, record.set_uuid2, record.set_uuid3)
    odd = f"minor version {record.minor_version} (reshape)" if record.minor_version != 90 else None
    return Superblock(
        volume=volume,
        version="0.90",
        at=at,
        uuid=":".join(f"{word:08x}" for word in words),
        name="",
        level=record.level,
        raid_disks=record.raid_disks,
        events=record.events_hi << 32 | record.events_lo,
        number=mine.number,
        slot=-2 if here.state & DiskState.FAULTY else slot,
        in_sync=in_sync and slot >= 0,
        size=record.size * 1024,
        data_offset=0,
        data_size=record.size * 1024,
        chunk_size=record.chunk_size,
        layout=record.layout,
        clean=bool(record.state & 1),
        created=record.ctime,
        roles={n: disk.raid_disk for n, disk in states.items() if disk.state & DiskState.SYNC},
        device=f"number {mine.number}",
        odd=odd,
        record=record,
        raw=raw,
    )


def read_1(volume: Volume, minor: int) -> Superblock | Suspect | None:
    """Read a 1.`minor` superblock at the place that its minor version says."""
    at = place_1(minor, volume.size)
    if at < 0 or at + SB_BYTES > volume.size:
        return None
    raw = volume.read(at, SB_BYTES)
    record = SUPER1.unpack(raw)
    if record.magic != SB_MAGIC or record.major_version != 1:
        return None
    if record.super_offset * SECTOR != at:
        if minor == 0 or checksum_wrong(record, raw):
            return None
        evidence = f"superblock 1.{minor} says it stands in sector {record.super_offset}"
        return Suspect("md", volume, evidence, at)
    if wrong := checksum_wrong(record, raw):
        return Suspect("md", volume, f"superblock 1.{minor} {wrong}", at)
    return from_1(volume, minor, at, record, raw)


def checksum_wrong(record: Super1, raw: bytes) -> str | None:
    """Say what is wrong with the checksum of a 1.x superblock, or None."""
    if record.max_dev > MAX_DEVS_1:
        return f"lists {record.max_dev} devices, at most {MAX_DEVS_1}"
    expected = checksum1(raw, record.max_dev)
    if record.sb_csum != expected:
        return f"checksum: expected {expected:#010x}, found {record.sb_csum:#010x}"
    return None


def from_1(volume: Volume, minor: int, at: int, record: Super1, raw: bytes) -> Superblock:
    """Translate a 1.x superblock whose checksum is right."""
    table = struct.unpack_from(f"<{record.max_dev}H", raw, SUPER1.size)
    roles = {number: role for number, role in enumerate(table) if role <= ROLE_MAX}
    role = table[record.dev_number] if record.dev_number < record.max_dev else ROLE_FAULTY
    features = record.feature_map
    return Superblock(
        volume=volume,
        version=f"1.{minor}",
        at=at,
        uuid=colons(record.set_uuid),
        name=record.set_name.split(b"\0")[0].decode("utf-8", "replace"),
        level=record.level,
        raid_disks=record.raid_disks,
        events=record.events,
        number=record.dev_number,
        slot=role if role <= ROLE_MAX else -2 if role == ROLE_FAULTY else -1,
        in_sync=role <= ROLE_MAX and not features & (Feature.RECOVERY_OFFSET | Feature.REPLACEMENT),
        size=record.size * SECTOR,
        data_offset=record.data_offset * SECTOR,
        data_size=record.data_size * SECTOR,
        chunk_size=record.chunksize * SECTOR,
        layout=record.layout,
        clean=record.resync_offset == MAX_SECTOR,
        created=record.ctime & ((1 << 40) - 1),
        roles=roles,
        device=colons(record.device_uuid),
        odd=strange(record, role),
        record=record,
        raw=raw,
    )


def strange(record: Super1, role: int) -> str | None:
    """Name the first feature that keeps us from reading the array's data, or None."""
    if unknown := record.feature_map & ~FEATURES_KNOWN:
        return f"unknown feature bits {unknown:#x}"
    if record.feature_map & RESHAPING:
        return "a reshape is in progress"
    if record.feature_map & (Feature.JOURNAL | Feature.PPL | Feature.MULTIPLE_PPLS) or role == ROLE_JOURNAL:
        return "a write journal"
    return None


def colons(uuid: bytes) -> str:
    """Format 16 bytes as mdadm does."""
    return ":".join(uuid[at : at + 4].hex() for at in range(0, 16, 4))


def foreign(volume: Volume, at: int, record: Super0) -> bool:
    """Whether a 0.90 superblock at byte `at` belongs to a partition, or to nobody, rather than to `volume`.

    With a partition table at the start of the volume either the array holds that table, and all partitions
    lie in the array (what they hold of other levels than RAID1 cannot be told), or the table holds the array.
    """
    ends = record.size * 1024 if record.md_magic == SB_MAGIC and record.level == 1 else volume.size
    return any(start <= at < end or end > ends for start, end in partitions(volume))


def partitions(volume: Volume) -> list[tuple[int, int]]:
    """Byte ranges of the partitions of a table at the start of `volume`; empty where there is none."""
    sector = volume.sector_size
    if volume.size < 3 * sector:
        return []
    head = volume.read(0, 2 * sector)
    if head[510:512] != b"\x55\xaa":
        return []
    if head[sector : sector + 8] == b"EFI PART":
        return gpt_ranges(volume, head[sector:])
    return mbr_ranges(head, sector)


def mbr_ranges(head: bytes, sector: int) -> list[tuple[int, int]]:
    """Byte ranges of the primary and extended partitions in an MBR; nonsense entries make no range."""
    found = []
    for entry in range(446, 510, 16):
        start = int.from_bytes(head[entry + 8 : entry + 12], "little") * sector
        size = int.from_bytes(head[entry + 12 : entry + 16], "little") * sector
        if head[entry] in (0, 0x80) and head[entry + 4] not in (0, 0xEE) and start:
            found.append((start, start + size))
    return found


def gpt_ranges(volume: Volume, header: bytes) -> list[tuple[int, int]]:
    """Byte ranges of the partitions in a primary GPT, whose checksums are the table's business."""
    table = int.from_bytes(header[72:80], "little") * volume.sector_size
    count = min(int.from_bytes(header[80:84], "little"), MAX_ENTRIES)
    size = int.from_bytes(header[84:88], "little")
    if not 128 <= size <= 4096 or table + count * size > volume.size:
        return []
    raw = volume.read(table, count * size)
    found = []
    for at in range(0, len(raw), size):
        first = int.from_bytes(raw[at + 32 : at + 40], "little")
        last = int.from_bytes(raw[at + 40 : at + 48], "little")
        if first and any(raw[at : at + 16]):
            found.append((first * volume.sector_size, (last + 1) * volume.sector_size))
    return found
