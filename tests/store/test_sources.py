"""One suite that every source must pass, whatever it reads from."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from server import Object, Server

from onebay.base.error import Error, Missing, SourceError, Truncated, Unsupported
from onebay.source import Source, open_source

DATA = bytes(range(251)) * 12_345  # 3 MiB, no period of a power of two
KINDS = ("file", "named pipe", "http", "http, weak tag", "http, no ranges", "http, no length")
Make = Callable[[bytes], Source]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Return a function that puts bytes somewhere and opens the source."""
    kind = request.param
    with ExitStack() as stack:

        def put(data: bytes) -> Source:
            path = tmp_path / "object"
            if kind == "file":
                path.write_bytes(data)
                source = open_source(str(path))
            elif kind == "named pipe":
                os.mkfifo(path)
                feeder = threading.Thread(target=feed, args=(path, data), daemon=True)
                feeder.start()
                source = open_source(str(path))
            else:
                etag = 'W/"v1"' if "weak" in kind else '"v1"'
                obj = Object(data, etag=etag, ranges="no ranges" not in kind, length="no length" not in kind)
                if not obj.length:
                    obj.ranges = False
                source = open_source(stack.enter_context(Server(obj)).url)
            stack.callback(source.close)
            return source

        yield put


def feed(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except BrokenPipeError:
        return


def test_streams_everything(make: Make) -> None:
    source = make(DATA)
    pieces = list(source.stream())
    assert all(pieces)
    assert b"".join(pieces) == DATA


@pytest.mark.parametrize("offset", [1, 1 << 20, len(DATA) - 1, len(DATA)])
def test_streams_from_an_offset(make: Make, offset: int) -> None:
    assert b"".join(make(DATA).stream(offset)) == DATA[offset:]


def test_streams_nothing_of_nothing(make: Make) -> None:
    source = make(b"")
    assert list(source.stream()) == []


def test_size_is_right_or_unknown(make: Make) -> None:
    source = make(DATA)
    assert source.size in (len(DATA), None)
    assert source.size is not None or not source.seekable


def test_reads_at_random_or_says_that_it_cannot(make: Make) -> None:
    source = make(DATA)
    if not source.seekable:
        with pytest.raises(Unsupported):
            source.read_at(0, 1)
        return
    for offset, length in ((0, 1), (len(DATA) - 1, 1), (12_345, 1 << 20), (7, 0), (0, len(DATA)), (5, 5)):
        assert source.read_at(offset, length) == DATA[offset : offset + length]
    for offset, length in ((len(DATA), 1), (len(DATA) - 1, 2), (-1, 1), (0, len(DATA) + 1), (1 << 62, 1)):
        with pytest.raises(Truncated):
            source.read_at(offset, length)


def test_reads_after_an_unfinished_stream(make: Make) -> None:
    source = make(DATA)
    if not source.seekable:
        pytest.skip("a stream is read once")
    stream = source.stream(3)
    first = next(stream)
    assert source.read_at(100, 50) == DATA[100:150]
    assert first == DATA[3 : 3 + len(first)]
    assert b"".join(source.stream()) == DATA


def test_name_says_where(make: Make) -> None:
    assert make(b"x").name


@pytest.mark.parametrize("text", ["/nowhere/at/all", "s3://bucket/x", "http://", "http://["])
def test_what_is_not_there(text: str) -> None:
    with pytest.raises(Error):
        open_source(text)


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="folder"):
        open_source(str(tmp_path))
    with pytest.raises(Missing):
        open_source(str(tmp_path / "none"))


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(DATA)
    source = open_source(str(path))
    os.truncate(path, 1000)
    with pytest.raises(Truncated):
        source.read_at(0, 2000)
    with pytest.raises(Truncated):
        list(source.stream())
    source.close()
