"""What can go wrong on the way to a web server, over a real connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from server import Object, Server

from onebay.base.error import Corrupt, Denied, Missing, SourceError, Transient, Unsupported
from onebay.source import HttpSource

DATA = bytes(range(253)) * 9_999


Open = Callable[..., HttpSource]


@pytest.fixture
def source() -> Iterator[Open]:
    """Return a function that opens a URL; what it opened is closed afterwards."""
    with ExitStack() as stack:

        def start(url: str, attempts: int = 4) -> HttpSource:
            opened = HttpSource(url, timeout=5, attempts=attempts, pause=0.01)
            stack.callback(opened.close)
            return opened

        yield start


def test_goes_on_where_the_connection_broke(source: Open) -> None:
    obj = Object(DATA, cuts=[None, 100_000, 50_000])
    with Server(obj) as server:
        assert b"".join(source(server.url).stream()) == DATA
    assert [spec for _, spec in obj.requests] == [
        "bytes=0-0",
        f"bytes=0-{len(DATA) - 1}",
        f"bytes=100000-{len(DATA) - 1}",
        f"bytes=150000-{len(DATA) - 1}",
    ]
    assert obj.headers[-1]["If-Range"] == '"v1"'


def test_random_read_goes_on_where_the_connection_broke(source: Open) -> None:
    obj = Object(DATA, cuts=[None, 10, 0, 5])
    with Server(obj) as server:
        assert source(server.url).read_at(1000, 500) == DATA[1000:1500]
    assert [spec for _, spec in obj.requests][1:] == [
        "bytes=1000-1499",
        "bytes=1010-1499",
        "bytes=1010-1499",
        "bytes=1015-1499",
    ]


def test_progress_resets_the_count_of_tries(source: Open) -> None:
    obj = Object(DATA, cuts=[None] + [1000] * 20)
    with Server(obj) as server:
        assert source(server.url, attempts=3).read_at(0, 25_000) == DATA[:25_000]


def test_gives_up_without_progress(source: Open) -> None:
    obj = Object(DATA, cuts=[None] + [0] * 20)
    with Server(obj) as server, pytest.raises(Transient):
        source(server.url).read_at(0, 10)
    assert len(obj.requests) == 1 + 4


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_then_fine(source: Open, status: int) -> None:
    obj = Object(DATA, statuses=[status, status])
    with Server(obj) as server:
        assert source(server.url).read_at(0, 10) == DATA[:10]


def test_always_busy(source: Open) -> None:
    obj = Object(DATA, statuses=[503] * 50)
    with Server(obj) as server, pytest.raises(Transient, match="503"):
        source(server.url)
    assert len(obj.requests) == 4


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Denied), (403, Denied), (404, Missing), (410, Missing), (400, SourceError), (501, SourceError)],
)
def test_statuses_that_do_not_pass(source: Open, status: int, kind: type[SourceError]) -> None:
    obj = Object(DATA, statuses=[status] * 9)
    with Server(obj) as server, pytest.raises(kind, match=str(status)):
        source(server.url)
    assert len(obj.requests) == 1


def test_changed_object_between_reads(source: Open) -> None:
    obj = Object(DATA)
    with Server(obj) as server:
        it = source(server.url)
        assert it.read_at(0, 10) == DATA[:10]
        obj.etag = '"v2"'
        with pytest.raises(Corrupt, match="changed"):
            it.read_at(0, 10)


@pytest.mark.parametrize("ranges", [True, False])
def test_changed_object_after_a_broken_connection(source: Open, ranges: bool) -> None:
    obj = Object(DATA, ranges=ranges, cuts=[None, 100_000])
    with Server(obj) as server:
        stream = source(server.url).stream()
        got = len(next(stream))
        obj.etag, obj.data = '"v2"', DATA[::-1]
        with pytest.raises(Corrupt, match="changed"):
            got += sum(map(len, stream))
    assert got <= 100_000


def test_changed_object_without_a_tag_shows_by_its_size(source: Open) -> None:
    obj = Object(DATA, etag=None)
    with Server(obj) as server:
        it = source(server.url)
        obj.data += b"x"
        with pytest.raises(Corrupt):
            it.read_at(0, 10)


def test_without_ranges_a_broken_stream_is_read_again(source: Open) -> None:
    obj = Object(DATA, ranges=False, cuts=[None, 100_000, 300_000])
    with Server(obj) as server:
        it = source(server.url)
        assert not it.seekable
        assert b"".join(it.stream()) == DATA


def test_without_ranges_and_tag_a_broken_stream_is_an_error(source: Open) -> None:
    obj = Object(DATA, ranges=False, etag=None, cuts=[None, 100_000])
    with Server(obj) as server, pytest.raises(Transient, match="ends early"):
        list(source(server.url).stream())


def test_lost_ranges(source: Open) -> None:
    obj = Object(DATA)
    with Server(obj) as server:
        it = source(server.url)
        obj.ranges = False
        with pytest.raises(Corrupt, match="ranges"):
            it.read_at(5, 5)


def test_wrong_range(source: Open) -> None:
    obj = Object(DATA)
    with Server(obj) as server:
        it = source(server.url)
        obj.lie = 1
        with pytest.raises(Corrupt):
            it.read_at(5, 5)


def test_encoded_answers_are_refused(source: Open) -> None:
    with Server(Object(DATA, encoding="gzip")) as server, pytest.raises(Corrupt, match="Content-Encoding"):
        source(server.url)


def test_follows_redirects_and_keeps_the_place(source: Open) -> None:
    obj = Object(DATA)
    obj.redirects = {"/a": "/b", "/b": "/c?signature=secret"}
    with Server(obj) as server:
        it = source(f"http://{server.host}/a")
        assert it.read_at(3, 4) == DATA[3:7]
        assert it.name == f"http://{server.host}/a"
    assert [path for path, _ in obj.requests] == ["/a", "/b", "/c?signature=secret", "/c?signature=secret"]


def test_asks_again_where_a_signed_place_expired(source: Open) -> None:
    obj = Object(DATA, redirects={"/a": "/old"})
    with Server(obj) as server:
        it = source(f"http://{server.host}/a")
        obj.redirects = {"/a": "/new"}
        obj.statuses = [403]
        assert it.read_at(3, 4) == DATA[3:7]
    assert [path for path, _ in obj.requests] == ["/a", "/old", "/old", "/a", "/new"]


@pytest.mark.parametrize("where", ["/a", "file:///etc/passwd", "", "http://["])
def test_redirects_that_lead_nowhere(source: Open, where: str) -> None:
    obj = Object(DATA, redirects={"/a": where})
    with Server(obj) as server, pytest.raises((SourceError, Unsupported)):
        source(f"http://{server.host}/a")
    assert len(obj.requests) <= 10


def test_credentials_go_to_their_host_only_and_into_no_message(source: Open) -> None:
    obj = Object(DATA, password="Basic bWU6c2VjcmV0")
    with Server(obj) as server, Server(Object(DATA)) as other:
        url = f"http://me:secret@{server.host}/x"
        it = source(url)
        assert it.read_at(0, 3) == DATA[:3]
        assert "secret" not in it.name
        with pytest.raises(Denied, match="401"):
            source(server.url)
        obj.redirects = {"/x": other.url}
        assert source(url).read_at(0, 3) == DATA[:3]
        assert all("Authorization" not in sent for sent in other.object.headers)


def test_one_connection_serves_many_reads(source: Open) -> None:
    obj = Object(DATA)
    with Server(obj) as server:
        it = source(server.url)
        it.read_at(0, 10)
        kept = it.wire.connection
        for at in range(0, 1000, 100):
            it.read_at(at, 10)
        assert kept is not None
        assert it.wire.connection is kept


def test_strange_paths_are_quoted(source: Open) -> None:
    obj = Object(DATA)
    with Server(obj) as server:
        assert source(f"http://{server.host}/a b/\u00e9%20c").read_at(0, 1) == DATA[:1]
    assert obj.requests[0][0] == "/a%20b/%C3%A9%20c"


def test_nobody_listens(source: Open) -> None:
    with Server(Object(DATA)) as server:
        url = server.url
    with pytest.raises(Transient, match="connection"):
        source(url)
