"""The manifest: what a reader must know before the data comes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from onebay.base.error import BadChecksum, Damaged, Inconsistent, Truncated, Unsupported
from onebay.image.blockmap import pack_map, unpack_map
from onebay.image.codec import compressor, parse_header, unpack
from onebay.image.record import (
    GRID,
    MANIFEST_HEAD,
    MANIFEST_TAG,
    MAX_FACTS,
    MAX_MANIFEST,
    MAX_STORED,
    SHA,
    SKIP_HEADER,
    VERSION,
    ManifestHead,
    State,
    parse_skip,
    skip_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onebay.base.extent import ExtentSet

SMALLEST = SKIP_HEADER.size + MANIFEST_HEAD.size + SHA
SECTOR_SIZES = (512, 4096)
# Features of later versions that this code understands.
FEATURES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the maker of an image says about it; the container does not look inside `layers` and `other`.

    `created` is RFC 3339, `smallest_target` is in bytes, `needs` names what a reader must understand.
    """

    name: str
    created: str
    layers: Any = None
    smallest_target: int | None = None
    other: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Blob:
    """Where a blob lies: `stored` bytes from byte `at` of all blobs, `size` bytes of content."""

    name: str
    at: int
    stored: int
    size: int


@dataclass(frozen=True)
class Manifest:
    """A manifest that was checked; keep map and blobs are unpacked when they are asked for."""

    name: str
    head: ManifestHead
    facts: Facts
    digest: bytes
    map_stored: bytes = field(repr=False)
    blobs_stored: bytes = field(repr=False)
    table: tuple[Blob, ...] = ()

    @property
    def disk_size(self) -> int:
        """Size of the disk in bytes."""
        return self.head.disk_size

    @property
    def sector_size(self) -> int:
        """Logical sector size in bytes."""
        return self.head.sector_size

    @cached_property
    def keep(self) -> ExtentSet:
        """The bytes that matter; raises Damaged where the map breaks its rules."""
        head = self.head
        return unpack_map(self.map_stored, head.map_runs, head.grid, head.disk_size, self.name)

    @cached_property
    def blobs(self) -> Mapping[str, bytes]:
        """Blobs by name."""
        return {blob.name: self.blob(blob) for blob in self.table}

    def blob(self, blob: Blob) -> bytes:
        """Decode one blob; raises Damaged."""
        return unpack(self.blobs_stored[blob.at : blob.at + blob.stored], blob.size, self.name)


class Described:
    """Whatever has a manifest: an image that is read at random or as a stream."""

    manifest: Manifest

    @property
    def facts(self) -> Facts:
        """What the maker said."""
        return self.manifest.facts

    @property
    def blobs(self) -> Mapping[str, bytes]:
        """Blobs by name."""
        return self.manifest.blobs

    @property
    def keep(self) -> ExtentSet:
        """Bytes of the disk that matter."""
        return self.manifest.keep

    @property
    def disk_size(self) -> int:
        """Size of the disk in bytes."""
        return self.manifest.disk_size


def pack_manifest(
    facts: Facts,
    keep: ExtentSet,
    blobs: Mapping[str, bytes],
    *,
    disk_size: int,
    sector_size: int,
    first: tuple[State, bytes, bytes],
) -> bytes:
    """Return the whole skippable frame; `first` is state, stored bytes and their SHA-256 of frame 0.

    Raises Unsupported where it would be too large.
    """
    codec = compressor(9)
    packed = {name: codec.compress(data) for name, data in blobs.items()}
    text = {
        "name": facts.name,
        "created": facts.created,
        "smallest_target": facts.smallest_target,
        "layers": facts.layers,
        "needs": list(facts.needs),
        "blobs": [{"name": n, "size": len(blobs[n]), "stored": len(data)} for n, data in packed.items()],
        "other": dict(facts.other),
    }
    raw = json.dumps(text, separators=(",", ":"), allow_nan=False).encode()
    stored = codec.compress(raw)
    runs_stored, runs = pack_map(keep, GRID, disk_size)
    all_blobs = b"".join(packed.values())
    length = MANIFEST_HEAD.size + len(stored) + len(runs_stored) + len(all_blobs) + SHA
    if length > MAX_MANIFEST or len(raw) > MAX_FACTS or sum(map(len, blobs.values())) > MAX_MANIFEST:
        raise Unsupported("layer tree, keep map and boot kit are too large for an image", found=length)
    state, first_stored, first_sha = first
    head = ManifestHead(
        tag=MANIFEST_TAG,
        version=VERSION,
        first_state=state,
        reserved=0,
        first_stored=len(first_stored),
        first_sha=first_sha,
        disk_size=disk_size,
        sector_size=sector_size,
        grid=GRID,
        map_runs=runs,
        facts_stored=len(stored),
        map_stored=len(runs_stored),
        blobs_stored=len(all_blobs),
        reserved2=0,
    )
    out = b"".join((skip_header(length), MANIFEST_HEAD.pack(head), stored, runs_stored, all_blobs))
    return out + sha256(out).digest()


def manifest_length(start: bytes, at: int, name: str) -> int:
    """Return the length of the manifest that starts with these 12 bytes; raises Damaged."""
    length = parse_skip(start, MANIFEST_TAG, "manifest", name, at)
    if not SMALLEST <= length <= MAX_MANIFEST + SKIP_HEADER.size:
        raise Damaged("length of the manifest", volume=name, at=at, found=length)
    return length


def parse_manifest(raw: bytes, at: int, name: str) -> Manifest:
    """Read a whole manifest frame; raises Damaged, or Unsupported for versions and features not known."""
    if len(raw) < SMALLEST or manifest_length(raw[:12], at, name) != len(raw):
        raise Truncated("manifest", volume=name, at=at, expected=SMALLEST, found=len(raw))
    digest = sha256(memoryview(raw)[:-SHA]).digest()
    if digest != raw[-SHA:]:
        raise BadChecksum("manifest", volume=name, at=at, expected=raw[-SHA:], found=digest)
    head = MANIFEST_HEAD.unpack(raw, SKIP_HEADER.size, volume=name)
    if head.version != VERSION:
        raise Unsupported(
            "version of the image", volume=name, expected=VERSION, found=head.version, hint="update onebay"
        )
    check_head(head, at, name)
    start = SKIP_HEADER.size + MANIFEST_HEAD.size
    ends = (start, start + head.facts_stored, start + head.facts_stored + head.map_stored)
    if ends[2] + head.blobs_stored + SHA != len(raw):
        raise Inconsistent("parts of the manifest do not add up", volume=name, at=at)
    facts, table = parse_facts(raw[ends[0] : ends[1]], head.blobs_stored, name)
    return Manifest(
        name=name,
        head=head,
        facts=facts,
        digest=digest,
        map_stored=raw[ends[1] : ends[2]],
        blobs_stored=raw[ends[2] : -SHA],
        table=table,
    )


def check_head(head: ManifestHead, at: int, name: str) -> None:
    """Raise Damaged where a number of the manifest is out of range."""
    good = (
        head.first_state in tuple(State)
        and 0 < head.first_stored <= MAX_STORED
        and 0 < head.disk_size < 1 << 63
        and head.sector_size in SECTOR_SIZES
        and head.grid == GRID
    )
    if not good:
        raise Damaged("a number of the manifest is out of range", volume=name, at=at, found=head)


def parse_facts(stored: bytes, blobs_stored: int, name: str) -> tuple[Facts, tuple[Blob, ...]]:
    """Read the JSON part; raises Damaged where it is not what the document says."""
    size = parse_header(stored, 0, name).content_size
    if size is None or size > MAX_FACTS:
        raise Damaged("facts of the manifest are too large", volume=name, found=size)
    try:
        text = json.loads(unpack(stored, size, name))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"facts of the manifest: {error}", volume=name) from error
    if not isinstance(text, dict):
        raise Damaged("facts of the manifest are no object", volume=name)
    needs = typed(text, "needs", list, name)
    unknown = [need for need in needs if not isinstance(need, str) or need not in FEATURES]
    if unknown:
        raise Unsupported(
            f"the image needs {', '.join(map(str, unknown))}", volume=name, hint="update onebay"
        )
    smallest = text.get("smallest_target")
    if smallest is not None:
        smallest = typed(text, "smallest_target", int, name)
    facts = Facts(
        name=typed(text, "name", str, name),
        created=typed(text, "created", str, name),
        layers=text.get("layers"),
        smallest_target=smallest,
        other=typed(text, "other", dict, name),
        needs=tuple(needs),
    )
    table = tuple(parse_blobs(typed(text, "blobs", list, name), blobs_stored, name))
    return facts, table


def typed(text: Mapping[str, Any], key: str, kind: type, name: str) -> Any:
    """Return `text[key]`; raises Damaged where it is not of this kind, or a negative number."""
    value = text.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
        raise Damaged(f"facts of the manifest: {key}", volume=name, expected=kind.__name__, found=repr(value))
    return value


def parse_blobs(entries: list[Any], stored: int, name: str) -> Iterator[Blob]:
    """Yield the table of blobs; raises Damaged where names repeat or sizes do not add up."""
    at = total = 0
    seen: set[str] = set()
    for entry in entries:
        if not isinstance(entry, dict):
            raise Damaged("facts of the manifest: a blob is no object", volume=name)
        blob = Blob(
            name=typed(entry, "name", str, name),
            at=at,
            stored=typed(entry, "stored", int, name),
            size=typed(entry, "size", int, name),
        )
        at += blob.stored
        total += blob.size
        if blob.name in seen or total > MAX_MANIFEST:
            raise Damaged("facts of the manifest: blobs repeat or are too large", volume=name)
        seen.add(blob.name)
        yield blob
    if at != stored:
        raise Inconsistent("sizes of the blobs", volume=name, expected=stored, found=at)
