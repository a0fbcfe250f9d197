"""The boot kit as bytes (docs/kit-format.md): what makes a disk boot, compressed, under one digest.

    head    64 bytes: HEAD
    facts   one zstd frame, JSON: the disk's identity, partitions, regions
    content zstd frames of at most 1 MiB of content each; every region begins a frame of its own
    sha     SHA-256 of everything before

A kit is read whole and nothing of it is believed before its digest was compared.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Annotated, Any
from uuid import UUID

from onebay import __version__
from onebay.base.error import BadChecksum, BadMagic, Damaged, Inconsistent, Truncated, Unsupported
from onebay.base.extent import Extent, ExtentSet
from onebay.base.record import Layout
from onebay.image.codec import compressor, frame_length, unpack
from onebay.table.kinds import EXTENDED, PROTECTIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onebay.block import Volume

MAGIC = b"1BYKIT\r\n"
VERSION = 1
SHA = 32
PIECE = 1 << 20
MAX_KIT = 1 << 30
MAX_FACTS = 4 << 20
MAX_DISK = 1 << 63
LEVEL = 6


@dataclass(frozen=True, slots=True)
class Head:
    """First 64 bytes; `size` is that of the whole kit, its digest included."""

    magic: Annotated[bytes, "8s"]
    version: Annotated[int, "I"]
    flags: Annotated[int, "I"]
    size: Annotated[int, "Q"]
    facts_stored: Annotated[int, "I"]
    facts_size: Annotated[int, "I"]
    content_size: Annotated[int, "Q"]
    frames: Annotated[int, "I"]
    reserved: Annotated[bytes, "20s"]


HEAD = Layout(Head, order="<", size=64)
SMALLEST = HEAD.size + SHA


@dataclass(frozen=True, slots=True)
class KitPart:
    """A boot partition: its entry in the table, and the file system on it (`fs` is fat, ext, raw or core).

    `home` marks the one with our loaders and the record of the fold.
    """

    number: int
    start: int
    size: int
    type: str
    uuid: str
    name: str
    active: bool
    fs: str
    fs_uuid: str
    home: bool

    @property
    def end(self) -> int:
        """First byte behind the partition."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of the disk: `extents` are offsets from byte `at`; `sha256` is over their content, in order.

    `what` is code (boot code in LBA 0), gap (before the first partition) or p and a partition's number.
    """

    what: str
    at: int
    size: int
    extents: tuple[Extent, ...]
    sha256: str = ""

    @property
    def content_size(self) -> int:
        """Bytes of content."""
        return sum(extent.size for extent in self.extents)


@dataclass(frozen=True, slots=True)
class KitFacts:
    """What a kit says of its disk; sizes and places are bytes.

    `layers` maps partitions that are not the kit's own ("p1") to the UUID of what stands on them: by these
    and by `identity` a disk is known again. `others` are their entries, for people; never written back.
    `boot_disk` is the digest of the boot disk that was folded, "" where the disk is not folded.
    """

    disk_size: int
    sector_size: int
    table: str
    identity: str
    first_usable: int
    last_usable: int
    layers: dict[str, str]
    partitions: tuple[KitPart, ...]
    others: tuple[dict[str, Any], ...]
    boot_disk: str = ""
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Kit:
    """A kit whose digest was right."""

    name: str
    facts: KitFacts
    raw: bytes = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)

    def region(self, what: str) -> Region | None:
        """Return a region by its name, or None."""
        return next((region for region in self.facts.regions if region.what == what), None)

    def pieces(self, region: Region) -> Iterator[tuple[int, bytes]]:
        """Yield (byte of the disk, content) of a region, in order; raises Damaged."""
        before = self.facts.regions[: self.facts.regions.index(region)]
        number = sum(frames_of(other) for other in before)
        queue = b""
        left = region.content_size
        for start, end in region.extents:
            at = start
            while at < end:
                if not queue:
                    size = min(PIECE, left)
                    queue = unpack(self.raw[self.starts[number] : self.starts[number + 1]], size, self.name)
                    left -= size
                    number += 1
                part = queue[: end - at]
                yield region.at + at, part
                queue = queue[len(part) :]
                at += len(part)

    def check(self) -> None:
        """Decode everything and compare each region's digest; raises Damaged."""
        for region in self.facts.regions:
            found = sha256()
            for _, data in self.pieces(region):
                found.update(data)
            if found.hexdigest() != region.sha256:
                raise BadChecksum(
                    f"kit: {region.what}", volume=self.name, expected=region.sha256, found=found.hexdigest()
                )

    def read(self, at: int, size: int) -> bytes | None:
        """Return bytes of the disk as the kit knows them; None where it does not know all of them."""
        out = bytearray(size)
        known = ExtentSet()
        for region in self.facts.regions:
            if region.at >= at + size or region.at + region.size <= at:
                continue
            for start, data in self.pieces(region):
                low, high = max(at, start), min(at + size, start + len(data))
                if low < high:
                    out[low - at : high - at] = data[low - start : high - start]
                    known |= ExtentSet.single(low, high)
        return bytes(out) if known.covers(at, at + size) else None


def frames_of(region: Region) -> int:
    """Number of zstd frames that a region takes."""
    return -(-region.content_size // PIECE)


def pack_kit(facts: KitFacts, sources: Iterable[tuple[Region, Volume]], out: IO[bytes]) -> int:
    """Write a kit to `out`; of each region the volume holds the content, at the region's own offsets.

    Returns the kit's size in bytes. Raises Unsupported where it would be too large, and what reading raises.
    """
    codec = compressor(LEVEL)
    regions: list[Region] = []
    with tempfile.SpooledTemporaryFile(16 << 20) as spool:
        frames = stored = 0
        for region, volume in sources:
            digest = sha256()
            for data in cut(region, volume):
                digest.update(data)
                stored += spool.write(codec.compress(data))
                frames += 1
                if stored > MAX_KIT - MAX_FACTS:
                    raise Unsupported("the boot partitions are too large for a kit", volume=volume.name)
            regions.append(replace(region, sha256=digest.hexdigest()))
        text = asdict(replace(facts, regions=tuple(regions)))
        raw = json.dumps({"onebay": __version__, "format": VERSION, **text}, separators=(",", ":")).encode()
        if len(raw) > MAX_FACTS:
            raise Unsupported("the facts are too large for a kit", found=len(raw))
        packed = codec.compress(raw)
        head = Head(
            magic=MAGIC,
            version=VERSION,
            flags=0,
            size=HEAD.size + len(packed) + stored + SHA,
            facts_stored=len(packed),
            facts_size=len(raw),
            content_size=sum(region.content_size for region in regions),
            frames=frames,
            reserved=bytes(20),
        )
        whole = sha256()
        spool.seek(0)
        for part in (HEAD.pack(head), packed, *iter(lambda: spool.read(PIECE), b"")):
            whole.update(part)
            out.write(part)
        out.write(whole.digest())
    return head.size


def cut(region: Region, volume: Volume) -> Iterator[bytes]:
    """Yield the content of a region in pieces of 1 MiB, whatever its extents are."""
    queue = bytearray()
    for start, end in region.extents:
        at = start
        while at < end:
            part = volume.read(at, min(PIECE - len(queue), end - at))
            queue += part
            at += len(part)
            if len(queue) == PIECE:
                yield bytes(queue)
                queue.clear()
    if queue:
        yield bytes(queue)


def kit_size(start: bytes, room: int, name: str, at: int = 0) -> int:
    """Return the size of the kit that begins with `start`; raises Damaged where it cannot fit into `room`."""
    if start[: len(MAGIC)] != MAGIC:
        raise BadMagic("kit", volume=name, at=at, expected=MAGIC, found=start[: len(MAGIC)])
    head = HEAD.unpack(start, volume=name)
    if not SMALLEST < head.size <= MAX_KIT:
        raise Damaged("kit: impossible size", volume=name, at=at, found=head.size)
    if head.size > room:
        raise Truncated("the kit is cut short", volume=name, at=at, expected=head.size, found=room)
    return head.size


def parse_kit(raw: bytes, name: str, at: int = 0) -> Kit:
    """Read a kit; raises Damaged, or Unsupported for a later version. `at` is where it stands in `name`."""
    if kit_size(raw[: HEAD.size], len(raw), name, at) != len(raw):
        raise Inconsistent("bytes after the end of the kit", volume=name, at=at, found=len(raw))
    digest = sha256(memoryview(raw)[:-SHA]).digest()
    if digest != raw[-SHA:]:
        raise BadChecksum("kit", volume=name, at=at, expected=raw[-SHA:], found=digest)
    head = HEAD.unpack(raw, volume=name)
    if head.version != VERSION or head.flags:
        raise Unsupported(
            "version of the kit", volume=name, expected=VERSION, found=head.version, hint="update onebay"
        )
    end = HEAD.size + head.facts_stored
    if end > len(raw) - SHA or head.facts_size > MAX_FACTS:
        raise Inconsistent("size of the kit's facts", volume=name, at=at, found=head.facts_stored)
    facts = parse_facts(unpack(raw[HEAD.size : end], head.facts_size, name), name)
    starts = frame_starts(raw, end, head.frames, name)
    content = sum(region.content_size for region in facts.regions)
    frames = sum(frames_of(region) for region in facts.regions)
    if (content, frames) != (head.content_size, head.frames):
        raise Inconsistent(
            "kit: regions do not add up", volume=name, expected=head.content_size, found=content
        )
    return Kit(name, facts, raw, starts)


def frame_starts(raw: bytes, at: int, count: int, name: str) -> tuple[int, ...]:
    """Return where each frame begins, and where the last one ends; raises Damaged."""
    end = len(raw) - SHA
    starts = [at]
    view = memoryview(raw)[:end]
    while at < end:
        at += frame_length(view, at, name)
        starts.append(at)
    if at != end or len(starts) != count + 1:
        raise Inconsistent("number of frames in the kit", volume=name, expected=count, found=len(starts) - 1)
    return tuple(starts)


def parse_facts(raw: bytes, name: str) -> KitFacts:
    """Read the facts; raises Damaged where a field is missing or out of range."""
    try:
        text = json.loads(raw)
        parts = tuple(KitPart(**part) for part in text["partitions"])
        regions = tuple(
            Region(
                str(region["what"]),
                integer(region["at"]),
                integer(region["size"]),
                tuple(Extent(integer(start), integer(end)) for start, end in region["extents"]),
                str(region["sha256"]),
            )
            for region in text["regions"]
        )
        facts = KitFacts(
            disk_size=integer(text["disk_size"]),
            sector_size=integer(text["sector_size"]),
            table=str(text["table"]),
            identity=str(text["identity"]),
            first_usable=integer(text["first_usable"]),
            last_usable=integer(text["last_usable"]),
            layers={str(key): str(value) for key, value in text["layers"].items()},
            partitions=parts,
            others=tuple(dict(other) for other in text["others"]),
            boot_disk=str(text["boot_disk"]),
            regions=regions,
        )
        check_facts(facts)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Damaged(f"facts of the kit: {type(error).__name__} {error}", volume=name) from error
    return facts


def integer(value: object) -> int:
    """Return a number that a disk can have; raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_DISK:
        raise ValueError(f"no position or size: {value!r:.40}")
    return value


def check_facts(facts: KitFacts) -> None:
    """Raise ValueError where facts contradict themselves."""
    if facts.sector_size not in (512, 4096) or facts.table not in ("mbr", "gpt"):
        raise ValueError(f"table {facts.table:.20} with sectors of {facts.sector_size}")
    for part in facts.partitions:
        check_part(part, facts)
    check_regions(facts)


def check_part(part: KitPart, facts: KitFacts) -> None:
    """Raise ValueError or TypeError where an entry could not stand in a table."""
    if integer(part.start) + integer(part.size) > facts.disk_size or not part.size:
        raise ValueError(f"partition at {part.start}")
    words = (part.type, part.uuid, part.name, part.fs, part.fs_uuid)
    if not 0 < integer(part.number) < 1 << 16 or not all(isinstance(word, str) for word in words):
        raise ValueError(f"partition {part.number!r:.20}")
    if not isinstance(part.active, bool) or not isinstance(part.home, bool):
        raise TypeError("flags of a partition")
    if facts.table == "gpt":
        UUID(part.type), UUID(part.uuid)
        if len(part.name.encode("utf-16-le")) > 72 or "\0" in part.name:
            raise ValueError("name of a partition")
    elif not 0 < (kind := int(part.type, 16)) < 256 or kind in EXTENDED or kind == PROTECTIVE:
        raise ValueError(f"type {part.type:.20}")


def check_regions(facts: KitFacts) -> None:
    """Raise ValueError where regions leave the disk, or an extent its region."""
    if len({region.what for region in facts.regions}) != len(facts.regions):
        raise ValueError("two regions of one name")
    for region in facts.regions:
        last = 0
        for start, end in region.extents:
            if not last <= start < end <= region.size:
                raise ValueError(f"extent {start}..{end} of {region.what:.20}")
            last = end
        if region.at + region.size > facts.disk_size:
            raise ValueError(f"region {region.what:.20} is not on the disk")
