"""FAT12, FAT16 and FAT32 as a layer: identities, allocated bytes, files to look at.

A FAT has no journal. After a crash its table may hold lost or cross-linked chains, but those clusters are
still marked as allocated, so `used` can be trusted with the dirty bit set. Where the copies of the table
differ, what any of them marks is kept. Bad clusters are not kept: nobody can read them.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Refused, Unsupported
from onebay.base.extent import ExtentSet
from onebay.fs.fat.directory import MAX_DIRECTORY, Entry, label_of, parse_directory, text
from onebay.fs.fat.geometry import Geometry, parse_geometry, partition_table_in
from onebay.fs.fat.record import (
    FS_INFO,
    FSINFO_SIGNATURE1,
    FSINFO_SIGNATURE2,
    STATE_DIRTY,
    FsInfo,
    Tail32,
)
from onebay.fs.fat.table import Table
from onebay.layer import Finding, Layer, Suspect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.layer import Value

SECTOR = 512
NO_LABEL = "NO NAME"
# mkfs.fat rounds down to a track, so a volume is seldom filled to its last sector
SLACK = 1 << 20
FILE_LIMIT = 64 << 20


class Fat(Layer):
    """One FAT file system on one volume."""

    kind = "fat"

    def __init__(self, volume: Volume, geometry: Geometry) -> None:
        self.below = (volume,)
        self.volume, self.geometry = volume, geometry
        self.table = Table(volume, geometry)

    @property
    def title(self) -> str:
        return f"FAT{self.geometry.bits}"

    @property
    def uuid(self) -> str:
        """Volume serial number in the form that `blkid` and grub.cfg use."""
        number = self.geometry.tail.vol_id
        return f"{number >> 16:04X}-{number & 0xFFFF:04X}"

    @cached_property
    def label(self) -> str | None:
        """Label in the root directory, else the one in the boot sector, else None."""
        try:
            found = label_of(self.read_root())
        except Damaged:
            found = None
        if found is None and self.geometry.tail.signature == 0x29:
            found = text(self.geometry.tail.vol_label.rstrip(b"\0"))
        return None if found in (None, "", NO_LABEL) else found

    @cached_property
    def fsinfo(self) -> FsInfo | None:
        """FAT32's counters, or None where there are none that can be believed."""
        tail, boot = self.geometry.tail, self.geometry.boot
        if not isinstance(tail, Tail32) or not 0 < tail.info_sector < boot.reserved:
            return None
        info = FS_INFO.unpack(self.volume.read(tail.info_sector * boot.sector_size, SECTOR))
        signed = (info.signature1, info.signature2) == (FSINFO_SIGNATURE1, FSINFO_SIGNATURE2)
        return info if signed else None

    def facts(self) -> Mapping[str, Value]:
        geometry = self.geometry
        return {
            "type": self.title,
            "uuid": self.uuid,
            "label": self.label,
            "size": geometry.size,
            "sector_size": geometry.boot.sector_size,
            "cluster_size": geometry.cluster_size,
            "clusters": geometry.clusters,
            "fats": geometry.boot.fats,
            "hidden_sectors": geometry.boot.hidden,
            "oem_name": geometry.boot.system_id.decode("cp437").rstrip(" \0"),
        }

    def used(self) -> tuple[ExtentSet, ...]:
        """Reserved sectors, all FATs, the root directory, allocated clusters; raises nothing of its own."""
        return (ExtentSet.single(0, self.geometry.data_at) | self.table.allocated(),)

    def used_bytes(self) -> int | None:
        geometry = self.geometry
        if geometry.bits < 32:
            return self.used()[0].size  # at most 128 KiB to read
        if self.fsinfo is None or self.fsinfo.free_clusters > geometry.clusters:
            return None
        return geometry.data_at + (geometry.clusters - self.fsinfo.free_clusters) * geometry.cluster_size

    @property
    def dirty(self) -> bool:
        """Whether the last writer did not finish: Linux's flag in the boot sector, Windows' in entry 1."""
        if self.geometry.tail.state & STATE_DIRTY:
            return True
        bits = self.geometry.bits
        return bits > 12 and not self.table.entry(1) & (0x8000 if bits == 16 else 0x08000000)

    def check(self) -> list[Finding]:
        found: list[Finding] = []

        def note(severity: str, kind: str, words: str, at: int) -> None:
            found.append(Finding(severity, kind, words, self.volume.name, at))

        geometry = self.geometry
        if self.dirty:
            note("warning", "dirty", "the file system was not unmounted; run fsck.fat", 0)
        for copy in self.table.differing():
            at = geometry.fat_at + copy * geometry.fat_size
            note("warning", "fat-copies-differ", f"FAT {copy + 1} differs from the first; run fsck.fat", at)
        if geometry.short_fat:
            note("warning", "fat-too-short", "the FAT has no entries for the last clusters", geometry.fat_at)
        media = self.table.entry(0) & 0xFF
        if media != geometry.boot.media:
            words = f"media byte in the FAT: expected {geometry.boot.media:#x}, found {media:#x}"
            note("note", "media-differs", words, geometry.fat_at)
        if geometry.bits == 32 and self.fsinfo is None:
            note("note", "no-fsinfo", "no valid FSInfo sector", SECTOR)
        if self.backup_differs():
            words = "backup of the boot sector differs"
            note("note", "backup-differs", words, self.backup_at)
        return found

    @property
    def backup_at(self) -> int:
        """Byte at which FAT32 keeps a copy of the boot sector; 0 where it has none."""
        tail, boot = self.geometry.tail, self.geometry.boot
        if isinstance(tail, Tail32) and 0 < tail.backup_boot < boot.reserved:
            return tail.backup_boot * boot.sector_size
        return 0

    def backup_differs(self) -> bool:
        """Compare the parameter blocks; boot code and the dirty flag may differ."""
        if not self.backup_at:
            return False
        mine, copy = (bytearray(self.volume.read(at, 90)) for at in (0, self.backup_at))
        mine[65] = copy[65] = 0
        return mine[3:] != copy[3:]

    def plan_grow(self) -> list[Step]:
        if self.volume.size - self.geometry.size > SLACK:
            raise Unsupported(
                f"{self.title} is not grown: its clusters would have to move",
                volume=self.volume.name,
                expected=self.volume.size,
                found=self.geometry.size,
            )
        return []

    def read_root(self) -> bytes:
        """Return the root directory; raises Inconsistent where its chain is broken."""
        geometry = self.geometry
        if isinstance(geometry.tail, Tail32):
            return self.read_folder(geometry.tail.root_cluster)
        return self.volume.read(geometry.root_at, geometry.boot.dir_entries * 32)

    def read_folder(self, cluster: int) -> bytes:
        """Return a directory that starts at `cluster`; raises Inconsistent beyond 65536 entries."""
        size = self.geometry.cluster_size
        chain = self.table.chain(cluster, -(-MAX_DIRECTORY // size))
        return b"".join(self.volume.read(self.geometry.cluster_at(number), size) for number in chain)

    def listdir(self, path: str = "/") -> list[Entry] | None:
        """List a folder; None where there is no folder `path`. Raises Damaged where a chain is broken.

        Separators are / and \\; names compare without case, as firmware does.
        """
        raw = self.read_root()
        for name in parts(path):
            entry = match(raw, name)
            if entry is None or not entry.is_dir:
                return None
            raw = self.read_folder(entry.cluster) if entry.cluster else self.read_root()
        return list(parse_directory(raw))

    def find(self, path: str) -> Entry | None:
        """Return the file or folder at `path`, or None; raises Damaged where a chain is broken."""
        names = parts(path)
        if not names:
            return None
        folder = self.listdir("/".join(names[:-1]))
        return None if folder is None else pick(folder, names[-1])

    def file_extents(self, entry: Entry) -> list[tuple[int, int]]:
        """Return the byte ranges of the volume that hold a file, in its order, cut at its size.

        Raises Inconsistent where the chain is shorter than the file, broken or a loop.
        """
        size, step = entry.size, self.geometry.cluster_size
        found: list[tuple[int, int]] = []
        if size == 0:
            return found
        wanted = -(-size // step)
        for number in self.table.chain(entry.cluster, min(wanted, self.geometry.clusters) + 1):
            at = self.geometry.cluster_at(number)
            if found and found[-1][1] == at:
                found[-1] = (found[-1][0], at + step)
            else:
                found.append((at, at + step))
            wanted -= 1
            if wanted == 0:
                break
        if wanted:
            raise Damaged("file is longer than its chain", volume=self.volume.name, found=entry.name)
        over = -size % step
        found[-1] = (found[-1][0], found[-1][1] - over)
        return found

    def read_file(self, path: str, *, limit: int = FILE_LIMIT) -> bytes | None:
        """Return the content of a file; None where there is none at `path`.

        Raises Damaged where its chain is broken, Refused where it has more than `limit` bytes.
        """
        entry = self.find(path)
        if entry is None or entry.is_dir:
            return None
        if entry.size > limit:
            raise Refused(
                f"{path} is too large to read", volume=self.volume.name, expected=limit, found=entry.size
            )
        return b"".join(self.volume.read(start, end - start) for start, end in self.file_extents(entry))


def parts(path: str) -> list[str]:
    """Split a path at / and \\."""
    return [name for name in path.replace("\\", "/").split("/") if name]


def pick(entries: list[Entry], name: str) -> Entry | None:
    """Find a name, long or short, without case."""
    wanted = name.casefold()
    return next(
        (e for e in entries if wanted in (e.name.casefold(), e.short_name.casefold())),
        None,
    )


def match(raw: bytes, name: str) -> Entry | None:
    """Find a name in the bytes of a directory."""
    return pick(list(parse_directory(raw)), name)


def probe(volume: Volume) -> Fat | Suspect | None:
    """Recognise a FAT by its parameter block; an MBR that kept one is not a FAT."""
    if volume.size < SECTOR:
        return None
    sector = volume.read(0, SECTOR)
    named = sector[54:57] == b"FAT" or sector[82:87] == b"FAT32"
    signed = sector[510:512] == b"\x55\xaa"
    if not (named or signed) or partition_table_in(sector, volume.size):
        return None
    geometry = parse_geometry(sector)
    if isinstance(geometry, str):
        # boot code alone may look like a parameter block; the type string too makes it a claim
        return Suspect("fat", volume, geometry, 0) if named and signed else None
    if geometry.size > volume.size:
        words = f"file system ends at byte {geometry.size}, the volume at {volume.size}"
        return Suspect("fat", volume, words, 32)
    layer = Fat(volume, geometry)
    first = layer.table.entry(0)
    if first & 0xFF < 0xF0 or first | 0xFF != geometry.mask:
        words = f"first FAT entry: expected a media byte and ones, found {first:#x}"
        return Suspect("fat", volume, words, geometry.fat_at) if named else None
    return layer
