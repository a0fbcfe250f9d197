"""Boot kits: gathered from a disk, found again in its tail, loaded from a file, an image or a URL.

What belongs to the kit: the boot code of LBA 0, what stands between it and the first partition, and the boot
partitions, entry and content: those that a fold made (by its record), ESPs and BIOS boot partitions. Entries
of other partitions are told to people only.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from onebay.base.error import Damaged, Error, Refused, Unsupported
from onebay.base.event import Noted, silent
from onebay.base.extent import Extent, ExtentSet
from onebay.base.step import Flush, Step, Write
from onebay.block import Span
from onebay.boot.paths import CODE_SIZE, ESP_TYPES
from onebay.image import Image, ImageVolume, Stream
from onebay.ops.foldrecord import Record, read_record
from onebay.ops.journal import ROOM, Journal
from onebay.ops.kitformat import (
    HEAD,
    MAGIC,
    MAX_KIT,
    Kit,
    KitFacts,
    KitPart,
    Region,
    kit_size,
    pack_kit,
    parse_kit,
)
from onebay.ops.need import needed
from onebay.table import Table
from onebay.table.kinds import BIOS_BOOT
from onebay.tree import Tree, discover

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.source import Source
    from onebay.table import Partition

__all__ = [
    "MIB",
    "RESERVE",
    "Copy",
    "each_copy",
    "find_copies",
    "kit_of_image",
    "layer_uuids",
    "load_kit",
    "make_kit",
    "plan_carry",
    "same_disk",
    "tail_room",
]

MIB = 1 << 20
SCAN = 4096  # MiB of each gap in which a copy is looked for
RESERVE = ROOM  # of the tail, before the journal's head, that copies leave to the journal's body
FIRST = 16 * MIB  # bytes at the start of the disk in which boot loaders are looked for
PAGE = 4096
BLOB = "kit"
MAX_BLOB = 32 * MIB  # manifests are kept in memory, several times
ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Copy:
    """What was found at a kit's magic in unpartitioned space: a kit, or what is wrong with it."""

    at: int
    kit: Kit | None
    why: str = ""


@dataclass(frozen=True)
class Content:
    """A partition as it is, or as it will be: `layer` stands on `volume`."""

    volume: Volume
    tree: Tree
    layer: object

    @property
    def fs(self) -> str:
        """Kind of what is there: fat, ext or raw."""
        kind = getattr(self.layer, "kind", "raw")
        return kind if kind in ("fat", "ext") else "raw"

    @property
    def uuid(self) -> str:
        """UUID of the file system, or ""."""
        return uuid_of(self.layer)


def uuid_of(layer: Any) -> str:
    """Return the UUID that a layer states, or ""."""
    return str(layer.facts().get("uuid") or "") if layer is not None else ""


def make_kit(tree: Tree, out: IO[bytes], *, contents: Mapping[int, Volume] | None = None) -> int:
    """Write the kit of the tree's disk to `out` and return its size in bytes.

    `contents` are partitions (by number) whose content is not on the disk yet. Raises Refused where nothing
    makes the disk boot, Unsupported where that is too large, and what reading raises.
    """
    disk = tree.disks[0]
    table = tree.on(disk)
    if not isinstance(table, Table):
        raise Refused("no partition table, so there is no boot kit", volume=disk.name)
    parts = {
        part.number: content_of(tree, part, (contents or {}).get(part.number))
        for part in table.partitions
        if not part.is_extended
    }
    records = [(number, record) for number in parts if (record := read_record(parts[number].layer))]
    home, record = records[0] if records else (0, None)
    chosen = [kit_part(part, parts[part.number], home) for part in boot_partitions(table, home, record)]
    facts = facts_of(table, tree, chosen, record)
    regions: list[tuple[Region, Volume]] = first_regions(disk, table)
    for part in chosen:
        content = parts[part.number]
        # what has no file system that says better is kept whole
        extents = needed(content.tree) if part.fs in ("fat", "ext") else ExtentSet.single(0, part.size)
        clipped = tuple(extents.clip(0, part.size))
        region = Region(f"p{part.number}", part.start, part.size, clipped)
        if region.content_size > MAX_KIT:
            raise Unsupported(f"p{part.number} holds too much for a boot kit", volume=disk.name)
        regions.append((region, content.volume))
    if not regions:
        raise Refused("nothing on the disk makes it boot, so there is no boot kit", volume=disk.name)
    return pack_kit(facts, regions, out)


def content_of(tree: Tree, part: Partition, other: Volume | None) -> Content:
    """Return what is on a partition, or on the volume that will be copied there."""
    volume = part.volume if other is None else other
    inner = discover([volume])
    return Content(volume, inner, tree.on(volume) if other is None else inner.on(volume))


def boot_partitions(table: Table, home: int, record: Record | None) -> list[Partition]:
    """Return the partitions of the boot path: by the record of a fold, and by type."""
    places = {(part.start, part.size) for part in record.parts} if record else set()
    return [
        part
        for part in table.partitions
        if part.number == home
        or (part.start, part.size) in places
        or part.type == BIOS_BOOT
        or part.type in ESP_TYPES
    ]


def kit_part(part: Partition, content: Content, home: int) -> KitPart:
    """Return the entry of a boot partition as the kit keeps it."""
    core = part.type == BIOS_BOOT
    return KitPart(
        number=part.number,
        start=part.start,
        size=part.size,
        type=part.type,
        uuid=part.uuid,
        name=part.name,
        active=part.active,
        fs="core" if core else content.fs,
        fs_uuid="" if core else content.uuid,
        home=part.number == home,
    )


def facts_of(table: Table, tree: Tree, chosen: list[KitPart], record: Record | None) -> KitFacts:
    """Return the facts, without regions."""
    numbers = {part.number for part in chosen}
    others = [part for part in table.partitions if part.number not in numbers]
    keys = ("number", "start", "size", "type", "uuid", "name", "active")
    return KitFacts(
        disk_size=table.volume.size,
        sector_size=table.volume.sector_size,
        table=table.kind,
        identity=table.identity,
        first_usable=table.usable.start,
        last_usable=table.usable.end,
        layers=layer_uuids(tree, table, numbers),
        partitions=tuple(chosen),
        others=tuple({key: getattr(part, key) for key in keys} for part in others),
        boot_disk=record.boot_disk if record else "",
    )


def layer_uuids(tree: Tree, table: Table, without: set[int]) -> dict[str, str]:
    """Return the UUIDs of what stands on the partitions, those of the boot path aside."""
    found: dict[str, str] = {}
    for part in table.partitions:
        if part.is_extended or part.number in without:
            continue
        layer = tree.on(part.volume)
        if uuid := uuid_of(layer):
            found[f"p{part.number}"] = uuid
    return found


def first_regions(disk: Volume, table: Table) -> list[tuple[Region, Volume]]:
    """Return boot code and what is not zero between it and the first partition; nothing where all is zero."""
    found: list[tuple[Region, Volume]] = []
    if any(disk.read(0, CODE_SIZE)):
        found.append((Region("code", 0, CODE_SIZE, (Extent(0, CODE_SIZE),)), disk))
    first = min((part.start for part in table.partitions), default=0)
    end = min(first, FIRST)
    free = ExtentSet.single(disk.sector_size, end) - table.metadata()
    pages = ExtentSet.of(
        (low, min(low + PAGE, high))
        for start, high in free
        for low in range(start, high, PAGE)
        if any(disk.read(low, min(PAGE, high - low)))
    )
    if pages:
        found.append((Region("gap", 0, end, tuple(pages)), disk))
    return found


def tail_room(disk: Volume, table: Table) -> Extent:
    """Return the bytes behind the last partition that a copy may have; the journal's place stays free."""
    last = max((part.end for part in table.partitions), default=disk.size)
    start = -(-last // MIB) * MIB
    end = min(Journal(disk).room(RESERVE).start, table.usable.end)
    return Extent(start, max(start, end))


def find_copies(disk: Volume, table: Table) -> list[Copy]:
    """Look for copies of a kit in unpartitioned space, at whole MiB; the tail's first."""
    return list(each_copy(disk, table))


def each_copy(disk: Volume, table: Table) -> Iterator[Copy]:
    """Yield what `find_copies` finds, one at a time in memory: a kit has tens of megabytes."""
    gaps = [gap for gap in table.gaps() if gap.kind != "before-first" and gap.inside is None]
    for gap in sorted(gaps, key=lambda gap: -gap.start):
        start = gap.aligned().start
        places = range(start, min(gap.end - HEAD.size, start + SCAN * MIB), MIB)
        yield from (read_copy(disk, at) for at in places if disk.read(at, len(MAGIC)) == MAGIC)


def read_copy(disk: Volume, at: int) -> Copy:
    """Read the copy at byte `at`; damage becomes a reason."""
    try:
        size = kit_size(disk.read(at, HEAD.size), disk.size - at, disk.name, at)
        kit = parse_kit(disk.read(at, size), disk.name, at)
        kit.check()
    except Error as error:
        return Copy(at, None, str(error))
    return Copy(at, replace(kit, name=f"the copy in the tail at {at:#x}"))


def plan_carry(disk: Volume, table: Table, end: int) -> tuple[list[Step], str]:
    """Return the steps that copy a kit to the tail behind byte `end`, up to which a partition will grow.

    The second value is a note where there is a copy but no room for it. A copy that was not overgrown stays,
    and the new one never overlaps the old: a cut between them leaves one whole.
    """
    whole = next((copy for copy in each_copy(disk, table) if copy.kit is not None), None)
    if whole is None or whole.kit is None or whole.at >= end:
        return [], ""
    size = len(whole.kit.raw)
    start = -(-end // MIB) * MIB
    if start < whole.at + size:
        start = -(-(whole.at + size) // MIB) * MIB
    limit = min(Journal(disk).room(RESERVE).start, table.growth_limit())
    if start + size > limit or table.metadata().overlaps(start, start + size):
        return [], "no room in the new tail for the copy of the boot kit; keep one in a file (onebay kit)"
    why = "take the copy of the boot kit to the new tail"
    return [Write(disk, start, whole.kit.raw, why), Flush(disk)], ""


def load_kit(source: Source) -> Kit:
    """Read a kit from a kit file or from an image; raises Damaged, Unsupported, SourceError.

    An image without a kit of its own that can be read at random is asked for the disk inside it.
    """
    peeked = Peeked(source)
    if peeked.start.startswith(MAGIC):
        raw = peeked.whole()
        kit = parse_kit(raw, source.name)
    elif not peeked.start.startswith(ZSTD):
        raise Unsupported("neither a boot kit nor an image", volume=source.name, found=peeked.start[:8])
    elif source.seekable:
        kit = kit_of_image(Image.open(source))
    else:
        blob = Stream.open(peeked).manifest.blobs.get(BLOB)
        if blob is None:
            raise Refused("the image has no boot kit", volume=source.name, hint="give it as a file")
        kit = parse_kit(blob, source.name)
    kit.check()
    return kit


def kit_of_image(image: Image) -> Kit:
    """Return the kit of an image: the one beside its data, else one made from the disk inside."""
    blob = image.blobs.get(BLOB)
    if blob is None:
        out = io.BytesIO()
        make_kit(discover([ImageVolume(image)]), out)
        blob = out.getvalue()
    return parse_kit(blob, image.name)


class Peeked:
    """A source whose first bytes were looked at."""

    def __init__(self, source: Source) -> None:
        self.source, self.name = source, source.name
        self.pieces = source.stream()
        self.start = b""
        for piece in self.pieces:
            self.start += piece
            if len(self.start) >= HEAD.size:
                break

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield everything, once, from the first byte."""
        assert offset == 0, offset
        yield self.start
        yield from self.pieces

    def whole(self) -> bytes:
        """Return everything; raises Damaged beyond what a kit can have."""
        out = bytearray()
        for piece in self.stream():
            out += piece
            if len(out) > MAX_KIT:
                raise Damaged("kit: too large", volume=self.name, found=len(out))
        return bytes(out)


def blob_of(tree: Tree, *, report: Report = silent) -> dict[str, bytes]:
    """Return the kit as an image's blob; empty where the disk has none, or one too large to be repeated."""
    out = io.BytesIO()
    try:
        size = make_kit(tree, out)
    except Error as error:
        report(Noted(f"the image has no boot kit: {error.what}", tree.disks[0].name))
        return {}
    if size > MAX_BLOB:
        report(Noted("the boot kit is large: repair will take it from the image's disk", tree.disks[0].name))
        return {}
    return {BLOB: out.getvalue()}


def same_disk(kit: Kit, tree: Tree, table: Table) -> str:
    """Say by what a kit and a disk know each other; "" where by nothing.

    The storage manager may have made a new table, and the owner new volumes, but hardly both and a new
    system.
    """
    facts = kit.facts
    if facts.identity.strip("0-") and facts.identity == table.identity and facts.table == table.kind:
        return f"the table's identity {facts.identity}"
    here = layer_uuids(tree, table, set()).items()
    for place, uuid in facts.layers.items():
        for now, other in here:
            if uuid == other:
                return f"{uuid} on {now}" + (f" (was {place})" if now != place else "")
    return ""


def refuse_other(kit: Kit, tree: Tree, table: Table) -> Refused:
    """Return the refusal of a kit of another disk, with both identities."""
    here = layer_uuids(tree, table, set())

    def say(identity: str, layers: Mapping[str, str]) -> str:
        return ", ".join([identity, *(f"{place} {uuid}" for place, uuid in sorted(layers.items()))])

    return Refused(
        f"{kit.name} is the kit of another disk",
        volume=table.volume.name,
        expected=say(table.identity, here),
        found=say(kit.facts.identity, kit.facts.layers),
        hint="use the kit of this disk, or an image of it",
    )


def slot(disk: Volume, part: KitPart) -> Span:
    """Return the bytes of the disk where a boot partition is, or was."""
    return Span(f"{disk.name}:p{part.number}", disk, part.start, part.size)


def describe(kit: Kit) -> dict[str, Any]:
    """Return what a kit holds, for programs."""
    facts = asdict(kit.facts)
    for region in facts["regions"]:
        region["extents"] = len(region["extents"])
    return facts
