"""Images over a web server that fails now and then."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
from server import Object, Server

from onebay.base.error import Corrupt, Transient, Truncated
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume
from onebay.image import Facts, Image, Stream, decode_parallel, write_image
from onebay.source import HttpSource

MIB = 1 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, str]:
    """The disk, its image, and the root digest."""
    folder = tmp_path_factory.mktemp("image")
    noise = random.Random(1).randbytes
    raw = noise(5 * MIB) + bytes(20 * MIB) + noise(3 * MIB) + b"end" * 1000
    raw += bytes(-len(raw) % 512)
    (folder / "disk").write_bytes(raw)
    volume = FileVolume(folder / "disk")
    facts = Facts("disk", "2026-01-01T00:00:00Z")
    done = write_image(volume, folder / "image", keep=ExtentSet.single(0, len(raw)), facts=facts)
    volume.close()
    return raw, (folder / "image").read_bytes(), done.root


def test_random_reads_and_verify_over_a_bad_line(image: tuple[bytes, bytes, str]) -> None:
    raw, stored, root = image
    obj = Object(stored, cuts=[None, 5, None, 3, 100] + [700_000] * 5, statuses=[None, 503, None, 502])
    with Server(obj) as server, closing(HttpSource(server.url, pause=0.01)) as source:
        opened = Image.open(source)
        assert opened.read(4 * MIB, 2 * MIB) == raw[4 * MIB : 6 * MIB]
        assert opened.read(len(raw) - 100, 100) == raw[-100:]
        obj.cuts = [1_000_000, None, 2_000_000]
        assert opened.verify() == root


@pytest.mark.parametrize("ranges", [True, False])
def test_streams_over_a_bad_line(image: tuple[bytes, bytes, str], ranges: bool) -> None:
    raw, stored, root = image
    obj = Object(stored, ranges=ranges, cuts=[None, 1_000, 3_000_000, 6_000_000])
    with Server(obj) as server, closing(HttpSource(server.url, pause=0.01)) as source:
        stream = Stream.open(source)
        parts = decode_parallel(stream, stream.name)
        assert b"".join(part.content or bytes(part.size) for part in parts) == raw
        assert stream.root is not None
        assert stream.root.hex() == root


def test_an_image_that_changes_meanwhile(image: tuple[bytes, bytes, str]) -> None:
    _, stored, _ = image
    obj = Object(stored)
    with Server(obj) as server, closing(HttpSource(server.url, pause=0.01)) as source:
        opened = Image.open(source)
        obj.etag = '"v2"'
        with pytest.raises(Corrupt, match="changed"):
            opened.verify()


def test_a_line_that_stays_dead(image: tuple[bytes, bytes, str]) -> None:
    _, stored, _ = image
    obj = Object(stored)
    with Server(obj) as server, closing(HttpSource(server.url, pause=0.01, attempts=3)) as source:
        opened = Image.open(source)
        obj.statuses = [503] * 9
        with pytest.raises(Transient):
            opened.read(0, 10)


def test_without_ranges_and_length_a_cut_shows_by_the_image(image: tuple[bytes, bytes, str]) -> None:
    raw, stored, _ = image
    obj = Object(stored[: len(stored) // 2], ranges=False, length=False)
    with Server(obj) as server, closing(HttpSource(server.url, pause=0.01)) as source:
        stream = Stream.open(source)
        with pytest.raises(Truncated, match=rf"after \d+ of {len(raw)} bytes"):
            list(stream)
