"""Where the boot disk goes on the data disk: which strategy, which gap, which partition numbers, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.boot import fatimage, loader
from onebay.fs.fat import Fat
from onebay.fs.fat import probe as probe_fat
from onebay.ops.foldimage import HOME_SIZE, MIB, RECORD_SIZE, Image
from onebay.table import Gap, GptTable, Table, dsm

if TYPE_CHECKING:
    from onebay.ops.foldsource import BootDisk, Part
    from onebay.tree import Tree

CORE_ROOM = 1 * MIB  # of a BIOS boot partition
PAGE = 4096
WHOLE_GAP = 512 * MIB  # a gap up to this size between partitions is taken whole: nobody else can use it
# GPT numbers: 4 is free in every known layout; 5 to 10 are left to the appliance's storage manager
FIRST_NUMBER = 4
NEXT_NUMBER = 11
MBR_SLOTS = 4
GPT_RESERVE = 34 * 512  # LBA 0, header and entries: where BIOS boot partitions may begin


@dataclass
class Layout:
    """A decision: `images` with their places, `why` in words.

    `core_at` is the byte where GRUB's core goes (None where BIOS cannot boot the disk), with `core_room`
    bytes; `bios_boot` is (start, size, number) of a new BIOS boot partition, on GPT.
    """

    strategy: str
    gpt: bool
    images: list[Image]
    why: list[str] = field(default_factory=list)
    core_at: int | None = None
    core_room: int = 0
    bios_boot: tuple[int, int, int] | None = None
    bios_boot_uuid: str | None = None


class Space:
    """Free space of the data disk, taken from in order: the reserved gap first, the tail last."""

    def __init__(self, gaps: list[Gap]) -> None:
        self.gaps = list(gaps)

    def take(self, size: int) -> int | None:
        """Return the start of `size` bytes on a MiB, or None."""
        for index, gap in enumerate(self.gaps):
            free = gap.aligned()
            if size <= free.size:
                self.gaps[index] = Gap(free.start + size, free.end, gap.kind)
                return free.start
        return None

    @property
    def largest(self) -> int:
        """Largest size that `take` would give."""
        return max((gap.aligned().size for gap in self.gaps), default=0)


def data_table(tree: Tree) -> Table:
    """Return the table of the data disk; raises Refused where there is none or it must not be written."""
    disk = tree.disks[0]
    for suspect in tree.suspects:
        if suspect.volume is disk:
            raise Refused(f"{suspect.kind} is damaged: {suspect.evidence}", volume=disk.name)
    table = tree.on(disk)
    if not isinstance(table, Table):
        raise Refused("the data disk has no partition table", volume=disk.name)
    for finding in table.check():
        if finding.severity == "damage":
            raise Refused(finding.text, volume=disk.name, at=finding.at, hint="onebay repair")
    return table


def free_gaps(table: Table) -> list[Gap]:
    """Return the gaps that partitions may be put into, the best first: reserved, between, tail."""
    gaps = [gap for gap in table.gaps() if gap.inside is None and gap.kind != "before-first"]
    reserved = dsm.reserved_gap(table)

    def rank(gap: Gap) -> tuple[bool, bool]:
        return (reserved is None or gap.start != reserved.start, gap.kind != "between")

    if reserved is not None:
        gaps = [reserved if gap.start == reserved.start else gap for gap in gaps]
    return sorted(gaps, key=rank)


def lay_out(table: Table, disk: BootDisk, *, convert: bool) -> Layout:
    """Choose strategy and places; raises Refused with the sizes where nothing fits."""
    gpt = isinstance(table, GptTable)
    if gpt or convert:
        layout = copied(table, disk) or merged(table, disk, gpt=True)
        if not gpt:
            layout.why.insert(0, "the MBR is converted to GPT in place, as asked")
    else:
        layout = merged(table, disk, gpt=False)
    return layout


def blocked(disk: BootDisk, sector_size: int) -> str | None:
    """Say why the partitions cannot be copied whole, or None where they can."""
    for part in disk.parts:
        if part.kind == "ext" and part.block_size < sector_size:
            return f"p{part.number} has blocks of {part.block_size} bytes, smaller than a sector"
        if part.kind == "raw" and sector_size != part.volume.sector_size:
            return f"p{part.number} ({part.title}) is made for sectors of {part.volume.sector_size} bytes"
    return None


def copied(table: Table, disk: BootDisk) -> Layout | None:
    """Place every partition of the boot disk by itself, on a GPT; None where they do not fit."""
    sector = table.volume.sector_size
    if blocked(disk, sector):
        return None
    ours = own_files()
    images: list[Image] = []
    for part in disk.parts:
        images.append(Image([part], part.volume.size, "", f"onebay_{len(images) + 1}", fresh=False))
    home = next((image for image in images if image.kind == "fat"), None)
    if home is None:
        home = Image([], HOME_SIZE, "", f"onebay_{len(images) + 1}", fresh=True)
        images.append(home)
    home.home = True
    for image in images:
        image.sector_size = sector
        if image.parts and image.kind == "fat":
            fit_fat(image, ours if image.home else {}, sector)
    layout = Layout("copied", True, images)
    space = Space(usable_gaps(table))
    for image in images:
        image.size = -(-image.size // sector) * sector
        start = space.take(image.size)
        if start is None:
            return None
        image.start = start
    layout.why.append(f"the table has room for all {len(images)} partitions: they are copied whole")
    remade = [image for image in images if image.fresh and image.parts]
    layout.why += [f"p{image.parts[0].number} becomes a new FAT of {image.size} bytes" for image in remade]
    give_numbers(table, images)
    place_core_gpt(table, layout, space)
    return layout


def fit_fat(image: Image, extra: dict[str, int], sector: int) -> None:
    """Decide whether a FAT can be copied as it is, or must be made anew with more room or other sectors."""
    part = image.parts[0]
    fat = probe_fat(part.volume)
    assert isinstance(fat, Fat), part
    cluster = fat.geometry.cluster_size
    free = fat.geometry.size - part.used
    same = fat.geometry.boot.sector_size == sector and fat.geometry.bits >= 16
    if same and fatimage.room_needed(extra, cluster) + RECORD_SIZE <= free:
        return
    image.fresh = True
    image.size = max(part.volume.size, needed({**part.files, **extra}, sector, part.volume.size))
    image.size = -(-image.size // MIB) * MIB


def needed(files: dict[str, int], sector: int, least: int) -> int:
    """Return the size of a FAT for `files`, in bytes, with a little to spare for the appliance's updates."""
    size = max(least, 4 * MIB if sector == 512 else 20 * MIB)
    while True:
        cluster = fatimage.cluster_size(size, sector)
        used = fatimage.room_needed(files, cluster) + RECORD_SIZE + fatimage.overhead(size, sector)
        if used <= size:
            return size
        size = -(-used // MIB) * MIB


def own_files() -> dict[str, int]:
    """Return the sizes of what we put on the folded FAT; the UEFI program's is an upper bound."""
    files = loader.modules(loader.BIOS) | loader.modules(loader.UEFI)
    sizes = {path: len(content) for path, content in files.items()}
    return {**sizes, loader.EFI_FILE: sum(sizes.values()) // 2, f"{loader.HOME}/grub.cfg": PAGE}


def usable_gaps(table: Table) -> list[Gap]:
    """Return the gaps, without what a GPT's backup will need where the table is an MBR still."""
    if isinstance(table, GptTable):
        return free_gaps(table)
    sector = table.volume.sector_size
    limit = table.volume.size - (1 + -(-128 * 128 // sector)) * sector
    return [Gap(gap.start, min(gap.end, limit), gap.kind) for gap in free_gaps(table) if gap.start < limit]


def merged(table: Table, disk: BootDisk, *, gpt: bool) -> Layout:
    """Place one FAT with all files; raises Refused with the sizes where it does not fit."""
    sector = table.volume.sector_size
    files: dict[str, int] = {}
    for part in disk.parts:
        files |= part.files
    size = needed({**files, **own_files()}, sector, 0)
    space = Space(usable_gaps(table) if gpt else free_gaps(table))
    gap = next((gap for gap in (gap.aligned() for gap in space.gaps) if gap.size >= size), None)
    if gap is None:
        raise too_large(disk, files, size, space.largest)
    whole = gap.kind == "between" and gap.size <= WHOLE_GAP
    image = Image(
        list(disk.parts),
        gap.size if whole else min(gap.size, -(-size * 5 // 4 // MIB) * MIB + 16 * MIB),
        "",
        "onebay_1",
        fresh=True,
        home=True,
        sector_size=sector,
    )
    if gpt and whole and image.size > size + CORE_ROOM:
        image.size -= CORE_ROOM  # for the BIOS boot partition, where there is no room before the first one
    image.start = space.take(image.size) or 0
    layout = Layout("merged", gpt, [image])
    if gpt:
        why = blocked(disk, sector) or "the partitions do not fit one by one"
        layout.why.append(f"{why}: their files are merged into one FAT")
        give_numbers(table, [image])
        place_core_gpt(table, layout, space)
    else:
        layout.why.append("an MBR has only four slots: the files are merged into one FAT")
        image.number = free_slot(table)
        place_core_mbr(table, layout)
    return layout


def too_large(disk: BootDisk, files: dict[str, int], size: int, room: int) -> Refused:
    """Return the refusal that tells needed, available, and what takes most."""
    largest: Part = max(disk.parts, key=lambda part: sum(part.files.values()))
    path = max(files, key=lambda name: files[name])
    return Refused(
        f"the boot disk does not fit: most is in p{largest.number} ({largest.title}), its largest file is "
        f"{path} with {files[path]} bytes",
        volume=disk.volume.name,
        expected=f"at most {room} bytes",
        found=f"{size} bytes with our loaders",
    )


def free_slot(table: Table) -> int:
    """Return the primary slot to use; 4 where it is free. Raises Refused where all are taken."""
    taken = {part.number for part in table.partitions}
    free = [number for number in range(1, MBR_SLOTS + 1) if number not in taken]
    if not free:
        raise Refused(
            "all four slots of the MBR are taken",
            volume=table.volume.name,
            hint="use --table gpt to convert it",
        )
    return free[-1]


def give_numbers(table: Table, images: list[Image]) -> None:
    """Give GPT entries: 4 to the first where it is free, then those from 11 on."""
    taken = {part.number for part in table.partitions}
    for image in images:
        image.number = next_number(taken, first=FIRST_NUMBER if image.home else NEXT_NUMBER)
        taken.add(image.number)


def next_number(taken: set[int], *, first: int) -> int:
    """Return `first` where it is free, else the lowest free number from 11."""
    if first not in taken:
        return first
    number = NEXT_NUMBER
    while number in taken:
        number += 1
    return number


def place_core_mbr(table: Table, layout: Layout) -> None:
    """Put GRUB's core into the sectors between LBA 0 and the first partition."""
    if table.volume.sector_size != loader.SECTOR:
        layout.why.append("BIOS cannot boot from sectors of 4096 bytes: only the UEFI path is installed")
        return
    first = min([part.start for part in table.partitions] + [image.start for image in layout.images])
    layout.core_at = loader.SECTOR
    layout.core_room = first - loader.SECTOR
    layout.why.append(
        f"GRUB's core has {layout.core_room // loader.SECTOR} sectors before the first partition"
    )


def place_core_gpt(table: Table, layout: Layout, space: Space) -> None:
    """Find a BIOS boot partition for GRUB's core: before the first partition, else in a gap.

    Raises Refused where there is none.
    """
    if table.volume.sector_size != loader.SECTOR:
        layout.why.append("BIOS cannot boot from sectors of 4096 bytes: only the UEFI path is installed")
        return
    taken = {part.number for part in table.partitions} | {image.number for image in layout.images}
    number = next_number(taken, first=NEXT_NUMBER)
    first = min((part.start for part in table.partitions), default=0)
    start = -(-GPT_RESERVE // PAGE) * PAGE
    if isinstance(table, GptTable):
        before = [gap for gap in table.gaps() if gap.kind == "before-first"]
        start = -(-before[0].start // PAGE) * PAGE if before else first
    size = min(CORE_ROOM, first - start)
    if size >= 16 * PAGE:
        layout.why.append(f"GRUB's core has a BIOS boot partition of {size} bytes before the first partition")
    else:
        found = space.take(CORE_ROOM)
        if found is None:
            raise Refused("no room for a BIOS boot partition", volume=table.volume.name, expected=CORE_ROOM)
        start, size = found, CORE_ROOM
        layout.why.append("GRUB's core has a BIOS boot partition in the gap")
    layout.core_at, layout.core_room, layout.bios_boot = start, size, (start, size, number)
