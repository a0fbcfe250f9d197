"""A capture into a pipe and to a server: whole, or known to be cut."""

from __future__ import annotations

import base64
import http.server
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from onebay.base.error import Damaged, Denied, SourceError
from onebay.block import open_disk
from onebay.image import Image, StreamSink
from onebay.ops.capture import capture, look
from onebay.source import HttpPut, open_source

MIB = 1 << 20


class Shelf(http.server.BaseHTTPRequestHandler):
    """Takes what is sent in chunks, up to `most` bytes, then answers `status`."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]
    headers_seen: list[str]
    status, most = 201, 1 << 40

    def do_PUT(self) -> None:
        self.headers_seen.append(str(self.headers))
        there = self.headers.get("If-None-Match") == "*" and self.path in self.kept
        data = bytearray()
        whole = True
        while size := int(self.rfile.readline() or b"0", 16):
            data += self.rfile.read(size)
            self.rfile.readline()
            if len(data) > self.most:
                whole = False
                break
        else:
            self.rfile.readline()
        if whole and not there:
            self.kept[self.path] = bytes(data)
        self.send_response(412 if there else self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True

    def log_message(self, *argv: object) -> None:
        pass


@contextmanager
def shelf(status: int = 201, most: int = 1 << 40) -> Iterator[tuple[type[Shelf], str]]:
    seen: list[str] = []
    kind = type("Kind", (Shelf,), {"kept": {}, "headers_seen": seen, "status": status, "most": most})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield kind, f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of noise: nothing of it compresses."""
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    path.write_bytes(random.Random(3).randbytes(24 * MIB))
    return path


def onebay(*argv: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "onebay", *map(str, argv)], capture_output=True, check=False)


def plain(path: Path) -> bytes:
    """The disk in an image, by zstd itself."""
    return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout


def test_standard_output(tmp_path: Path, disk: Path) -> None:
    done = onebay("capture", disk, "-", "--events")
    assert done.returncode == 0
    path = tmp_path / "pipe.raw.zst"
    path.write_bytes(done.stdout)
    assert plain(path) == disk.read_bytes()
    assert onebay("verify", path, "--against", disk).returncode == 0
    assert b'"event": "ended"' in done.stderr


def test_a_pipe_that_was_cut_is_no_image(tmp_path: Path, disk: Path) -> None:
    whole = onebay("capture", disk, "-").stdout
    for size in (len(whole) - 1, len(whole) // 2, 3 * MIB):
        path = tmp_path / f"{size}.raw.zst"
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            Image.open(open_source(str(path)))


def test_a_reader_that_goes_away(disk: Path) -> None:
    argv = [sys.executable, "-m", "onebay", "capture", str(disk), "-"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1000)
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 3
    assert b"broken pipe" in said
    assert said.strip().endswith(b"what went to standard output is no whole image")


def test_put(tmp_path: Path, disk: Path) -> None:
    with shelf() as (kind, where):
        done = onebay("capture", disk, f"http://me:pass%20word@{where}/a%20b.raw.zst?sign=1")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "sent.raw.zst"
    path.write_bytes(kind.kept["/a%20b.raw.zst?sign=1"])
    assert plain(path) == disk.read_bytes()
    assert base64.b64encode(b"me:pass word").decode() in kind.headers_seen[0]
    assert b"sign" not in done.stdout + done.stderr
    assert b"pass" not in done.stdout + done.stderr


def test_put_replaces_nothing_unasked(disk: Path) -> None:
    with shelf() as (kind, where):
        kind.kept["/x.raw.zst"] = b"an older image"
        done = onebay("capture", disk, f"http://{where}/x.raw.zst")
        assert done.returncode == 7
        assert b"exists already" in done.stderr
        assert kind.kept["/x.raw.zst"] == b"an older image"
        assert onebay("capture", "--yes", disk, f"http://{where}/x.raw.zst").returncode == 0
        assert kind.kept["/x.raw.zst"] != b"an older image"


def test_put_that_is_answered_before_its_end(disk: Path) -> None:
    with shelf(403, 2 * MIB) as (kind, where):
        done = onebay("capture", disk, f"http://{where}/x.raw.zst")
    assert done.returncode == 7
    assert b"no whole image" in done.stderr
    assert not kind.kept


@pytest.mark.parametrize(("status", "error"), [(403, Denied), (411, SourceError), (500, SourceError)])
def test_put_that_is_not_taken(disk: Path, status: int, error: type[SourceError]) -> None:
    with (
        shelf(status) as (_, where),
        closing(open_disk(disk)) as volume,
        closing(HttpPut(f"http://{where}/x")) as put,
    ):
        with pytest.raises(error, match=str(status)) as caught:
            capture(look(volume), StreamSink(put.name, put.push, put.finish))
        assert "no whole image" in caught.value.state


def test_a_server_that_hangs_up(disk: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            port, _ = server.accept()
            port.recv(1 << 16)
            port.close()

        threading.Thread(target=once, daemon=True).start()
        done = onebay("capture", disk, f"http://127.0.0.1:{server.getsockname()[1]}/x.raw.zst")
    assert done.returncode == 7
    assert b"no whole image" in done.stderr
