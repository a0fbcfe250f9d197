"""Images made to harm: every digest is right, and yet the numbers lie; all are refused, fast and cheaply."""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
import zstandard
from test_image_flip import Bytes, drain, verify

from onebay.base.error import BadMagic, Damaged, Error, Inconsistent, Truncated, Unsupported
from onebay.base.extent import ExtentSet
from onebay.image import Stream
from onebay.image.blockmap import pack_map, unpack_map
from onebay.image.codec import Zeros, check_frame, compressor, frame_length, parse_header, unpack
from onebay.image.encode import Made
from onebay.image.index import Columns, SeekTable, pack_page, pack_root
from onebay.image.manifest import Facts, pack_manifest, parse_manifest
from onebay.image.record import (
    GROUP,
    MANIFEST_HEAD,
    ROOT_TAG,
    SHA,
    SKIP_HEADER,
    UNIT,
    PageEntry,
    RootHead,
    State,
    group_header,
    pack_kind,
    skip_header,
)

FACTS = Facts("disk", "2026-01-01T00:00:00Z")
NOISE = random.Random(9).randbytes(UNIT)
# May grow by this much while a hostile image is refused.
MEMORY = 150 << 20


def made(content: bytes, state: State = State.DATA, level: int = 3, **params: Any) -> Made:
    stored = (
        compressor(level).compress(content)
        if not params
        else zstandard.ZstdCompressor(**params).compress(content)
    )
    return Made(state, 0, len(content), stored, sha256(stored).digest(), sha256(content).digest())


def zeros(size: int, shift: int, state: State = State.ZERO) -> Made:
    return Made(state, shift, size, *Zeros().make(size))


def assemble(
    frames: list[Made],
    *,
    disk_size: int | None = None,
    keep: ExtentSet | None = None,
    manifest: Callable[[bytes], bytes] = lambda raw: raw,
    root: Callable[[RootHead], RootHead] = lambda head: head,
    entry: Callable[[PageEntry], PageEntry] = lambda it: it,
    kind: Callable[[Made], int] = lambda it: pack_kind(it.state, it.shift),
    group: Callable[[bytes], bytes] = lambda raw: raw,
) -> bytes:
    """Put an image together with all digests right, and any number of it changed on the way."""
    size = sum(it.size for it in frames) if disk_size is None else disk_size
    keep = ExtentSet.single(0, size) if keep is None else keep
    first = frames[0]
    head = manifest(
        pack_manifest(
            FACTS,
            keep,
            {},
            disk_size=size,
            sector_size=512,
            first=(first.state, first.stored, first.stored_sha),
        )
    )
    out, entries, columns = bytearray(), [], Columns()
    table = SeekTable(entries.append)

    def put(it: Made) -> None:
        out.extend(it.stored)
        columns.add(kind(it), len(it.stored), it.stored_sha, it.content_sha)
        table.add(len(it.stored), it.size)

    put(first)
    out += head
    table.add(len(head), 0)
    for at in range(1, len(frames), GROUP):
        part = frames[at : at + GROUP]
        states, shas = [it.state for it in part], [it.stored_sha for it in part]
        out += group(group_header(at // GROUP, states, sum(len(it.stored) for it in part), shas))
        table.add(60, 0)
        for it in part:
            put(it)
    page = pack_page(0, columns)
    index_at = len(out)
    out += page
    table.add(len(page), 0)
    line = entry(PageEntry(0, 0, len(page), len(frames), sha256(page).digest()))
    raw = pack_root(
        root(
            RootHead(
                tag=ROOT_TAG,
                version=1,
                reserved=0,
                disk_size=size,
                frames=len(frames),
                manifest_at=len(first.stored),
                manifest_length=len(head),
                pages=1,
                index_at=index_at,
                root_at=len(out),
                manifest_sha=head[-SHA:],
            )
        ),
        [line],
    )
    out += raw
    table.add(len(raw), 0)
    table.flush()
    return bytes(out) + table.head() + b"".join(entries) + table.footer()


def refused(data: bytes, kind: type[Error] = Damaged, match: str | None = None) -> None:
    """Both readers refuse, within seconds and little memory."""
    for read in (verify, drain):
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        with pytest.raises(kind, match=match):
            read(data)
        assert time.monotonic() - began < 20
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY


def test_what_is_put_together_here_is_good() -> None:
    """Otherwise all other tests of this file would pass for the wrong reason."""
    for frames in ([made(b"x" * 512)], [made(NOISE), zeros(2 * UNIT, 1), made(b"x" * 512)]):
        data = assemble(frames)
        verify(data)
        drain(data)
    data = assemble([made(NOISE)] + [zeros(1 << 30, 9)] * 40)
    verify(data)
    drain(data)


def test_zero_frames_that_are_not_zero() -> None:
    refused(assemble([made(NOISE, State.ZERO)]), match="other bytes")
    refused(assemble([made(NOISE), made(NOISE, State.ZERO)]), match="other bytes")
    late = made(bytes(UNIT - 1) + b"x", State.ZERO)
    refused(assemble([made(NOISE), late]), match="other bytes")


def test_bombs() -> None:
    """A frame that says 2 MiB and decodes to much more, or less."""
    bomb = compressor(3).compress(bytes(600 << 20))
    short = compressor(3).compress(b"x")
    for stored in (bomb, short):
        for state in State:
            lie = Made(state, 0, UNIT, stored, sha256(stored).digest(), bytes(32))
            keep = ExtentSet.single(0, UNIT)
            refused(assemble([made(NOISE), lie], keep=keep, disk_size=2 * UNIT))


@pytest.mark.parametrize(
    "params",
    [
        {"write_checksum": False, "write_content_size": True},
        {"write_checksum": True, "write_content_size": False},
    ],
)
def test_frames_that_break_the_rules(params: dict[str, Any]) -> None:
    refused(assemble([made(NOISE), made(b"x" * UNIT, **params)]))


def test_two_frames_in_place_of_one() -> None:
    """Sixteen states of a group are one frame each; a reader must not take the first of two for all."""
    half = compressor(3).compress(b"x" * UNIT) + compressor(3).compress(b"y" * UNIT)
    two = Made(State.DATA, 0, UNIT, half, sha256(half).digest(), sha256(b"x" * UNIT).digest())
    refused(assemble([made(NOISE), two]))
    twice = Zeros().make(UNIT).stored * 2
    two = Made(State.ZERO, 0, UNIT, twice, sha256(twice).digest(), Zeros().content_sha(UNIT))
    refused(assemble([made(NOISE), two]))


def test_content_digest_that_lies() -> None:
    frame = made(NOISE)._replace(content_sha=bytes(32))
    with pytest.raises(Damaged, match="content of frame 0"):
        verify(assemble([frame]))


def test_states_and_keep_map_that_differ() -> None:
    with pytest.raises(Inconsistent, match="keep map"):
        verify(assemble([made(NOISE), zeros(UNIT, 0, State.DONT_CARE)]))
    with pytest.raises(Inconsistent, match="keep map"):
        verify(assemble([made(NOISE), zeros(UNIT, 0)], keep=ExtentSet.single(0, UNIT)))


@pytest.mark.parametrize("value", [3, 1 << 2, 10 << 2 | 1, 0xFF])
def test_impossible_kinds(value: int) -> None:
    refused(assemble([made(NOISE), made(NOISE)], kind=lambda it: value))


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": 0},
        {"frames": 2},
        {"frames": 1 << 62},
        {"pages": 0},
        {"pages": 1 << 31},
        {"disk_size": 0},
        {"disk_size": UNIT - 1},
        {"disk_size": 1 << 62},
        {"disk_size": (1 << 64) - 1},
        {"manifest_at": 5},
        {"manifest_at": 1 << 63},
        {"manifest_length": 0},
        {"manifest_length": (1 << 32) - 1},
        {"index_at": 0},
        {"root_at": 0},
        {"manifest_sha": bytes(32)},
    ],
    ids=str,
)
def test_roots_that_lie(changes: dict[str, Any]) -> None:
    refused(assemble([made(NOISE)], root=lambda head: dataclasses.replace(head, **changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"disk_at": 1},
        {"file_at": 1},
        {"length": 1},
        {"length": (1 << 32) - 1},
        {"count": 0},
        {"count": 16384},
        {"sha": bytes(32)},
    ],
    ids=str,
)
def test_page_tables_that_lie(changes: dict[str, Any]) -> None:
    refused(assemble([made(NOISE)], entry=lambda it: dataclasses.replace(it, **changes)))


def reseal(raw: bytes) -> bytes:
    body = raw[8:-SHA]
    raw = skip_header(len(body) + SHA) + body
    return raw + sha256(raw).digest()


def with_head(raw: bytes, **changes: Any) -> bytes:
    head = MANIFEST_HEAD.unpack(raw, SKIP_HEADER.size)
    changed = MANIFEST_HEAD.pack(head, **changes)
    return reseal(raw[:8] + changed + raw[8 + len(changed) :])


@pytest.mark.parametrize(
    "changes",
    [
        {"first_state": 3},
        {"first_state": 1},
        {"first_stored": 0},
        {"first_stored": (1 << 32) - 1},
        {"first_sha": bytes(32)},
        {"disk_size": 0},
        {"disk_size": 2 * UNIT},
        {"disk_size": 1 << 63},
        {"sector_size": 0},
        {"grid": 0},
        {"grid": 512},
        {"facts_stored": 0},
        {"facts_stored": (1 << 32) - 1},
        {"map_stored": 0},
        {"blobs_stored": 1},
    ],
    ids=str,
)
def test_manifests_that_lie(changes: dict[str, Any]) -> None:
    refused(assemble([made(NOISE)], manifest=lambda raw: with_head(raw, **changes)))


@pytest.mark.parametrize("runs", [0, 2, 1 << 25, 1 << 63])
def test_run_counts_that_lie(runs: int) -> None:
    data = assemble([made(NOISE)], manifest=lambda raw: with_head(raw, map_runs=runs))
    with pytest.raises(Damaged, match="keep map"):
        verify(data)


def test_versions_of_the_future() -> None:
    refused(assemble([made(NOISE)], manifest=lambda raw: with_head(raw, version=2)), Unsupported, "version")
    data = assemble([made(NOISE)], root=lambda head: dataclasses.replace(head, version=2))
    refused(data, Unsupported, "version")


GOOD: dict[str, Any] = {"name": "x", "created": "y", "needs": [], "blobs": [], "other": {}}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"name": 1},
                {"created": None},
                {"needs": {}},
                {"other": []},
                {"smallest_target": -1},
                {"smallest_target": "1"},
                {"smallest_target": True},
                {"blobs": [1]},
                {"blobs": [{"name": "a", "size": 1, "stored": 1}]},
                {"blobs": [{"name": "a", "size": -1, "stored": 0}]},
                {"blobs": [{"name": "a", "size": 1 << 40, "stored": 0}]},
                {"blobs": [{"name": "a", "size": 0, "stored": 0}] * 2},
            )
        ),
    ],
    ids=lambda text: repr(text[:50]),
)
def test_facts_that_are_none(text: bytes) -> None:
    raw = pack_manifest(
        FACTS, ExtentSet(), {}, disk_size=UNIT, sector_size=512, first=(State.DATA, b"x", bytes(32))
    )
    head = MANIFEST_HEAD.unpack(raw, SKIP_HEADER.size)
    start = SKIP_HEADER.size + MANIFEST_HEAD.size
    stored = compressor(3).compress(text)
    raw = raw[:start] + stored + raw[start + head.facts_stored :]
    with pytest.raises(Damaged):
        parse_manifest(with_head(raw, facts_stored=len(stored)), 0, "image")


def test_keep_maps_that_lie() -> None:
    pack = compressor(3).compress
    for raw in (
        b"\x80",
        b"\xff" * 20 + b"\x01",
        b"\x00\x01\x00\x01",
        b"\x00\x00",
        b"\x01",
        b"\x00\x09\x01",
        b"\x7f\x7f",
    ):
        for runs in (1, 2):
            with pytest.raises(Damaged):
                unpack_map(pack(raw), runs, 4096, 8 * 4096, "map")
    with pytest.raises(Damaged):
        unpack_map(b"junk", 1, 4096, 1 << 40, "map")
    stored, runs = pack_map(ExtentSet.of([(0, 4096), (8192, 9000)]), 4096, 9000)
    assert list(unpack_map(stored, runs, 4096, 9000, "map")) == [(0, 4096), (8192, 9000)]


def test_a_bomb_of_runs_stops_at_its_count() -> None:
    bomb = compressor(3).compress(b"\x01" * (400 << 20))
    began = time.monotonic()
    with pytest.raises(Inconsistent):
        unpack_map(bomb, 1000, 4096, 1 << 50, "map")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("seed", range(200))
def test_frame_headers_of_garbage(seed: int) -> None:
    """Our walk over a frame and zstd's own reading agree on what is a frame."""
    rng = random.Random(seed)
    good = compressor(1).compress(rng.randbytes(3000) + bytes(300_000))
    assert frame_length(good + b"more", 0, "x") == len(good)
    shape = parse_header(good, 0, "x")
    told = zstandard.get_frame_parameters(good)
    assert (shape.content_size, shape.window, shape.checksum) == (
        told.content_size,
        told.window_size,
        told.has_checksum,
    )
    bad = bytearray(good)
    for _ in range(3):
        bad[rng.randrange(20)] = rng.randrange(256)
    for call in (lambda: frame_length(bad, 0, "x"), lambda: unpack(bytes(bad), 303_000, "x")):
        try:
            call()
        except Damaged:
            continue
    with pytest.raises((Truncated, BadMagic)):
        frame_length(good[: rng.randrange(len(good))], 0, "x")


def test_windows_and_dictionaries_are_refused() -> None:
    params = zstandard.ZstdCompressionParameters(window_log=24, write_checksum=True, write_content_size=True)
    wide = zstandard.ZstdCompressor(compression_params=params).compress(bytes(32 << 20))
    with pytest.raises(Damaged, match="window"):
        check_frame(wide, 32 << 20, "x")
    header = bytearray(compressor(3).compress(b"x" * 1000))
    header[4] |= 1
    with pytest.raises(Damaged, match="dictionary"):
        parse_header(header, 0, "x")


def test_a_group_that_lies_in_a_pipe() -> None:
    data = assemble(
        [made(NOISE), made(NOISE)], group=lambda raw: raw[:20] + (2).to_bytes(2, "little") + raw[22:]
    )
    with pytest.raises(Damaged):
        drain(data)
    with pytest.raises(Damaged, match="group"):
        verify(data)


def test_origins_in_pieces_of_any_size() -> None:
    data = assemble([made(NOISE), zeros(4 * UNIT, 2)])
    for piece in (59, 4096, 1 << 22):
        stream = Stream.open(Bytes(data, piece))
        assert sum(part.size for part in stream) == 5 * UNIT
