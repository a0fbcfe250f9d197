"""A server that dies in mid-restore and comes back: the restore goes on, and reads next to nothing twice."""

from __future__ import annotations

import random
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from server import Object, Server

from onebay.base.error import Transient
from onebay.base.event import Event, Noted
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, create_disk
from onebay.image import Facts, Image, write_image
from onebay.ops.restore import restore
from onebay.source import HttpSource

MIB = 1 << 20
GROUP = 8 * MIB  # bytes that are read at once


class Back(Server):
    """A server on the port of another one that died."""

    def __init__(self, obj: Object, port: int) -> None:
        self.port = port
        super().__init__(obj)

    def server_bind(self) -> None:
        self.server_address = ("127.0.0.1", self.port)
        super().server_bind()


class Noting(list[str]):
    """What was told, and a hook for when it is."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noted):
            self.append(event.text)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A disk and its image."""
    folder = tmp_path_factory.mktemp("image")
    raw = random.Random(2).randbytes(40 * MIB)
    (folder / "disk").write_bytes(raw)
    volume = FileVolume(folder / "disk")
    facts = Facts("disk", "2026-01-01T00:00:00Z")
    write_image(volume, folder / "image", keep=ExtentSet.single(0, len(raw)), facts=facts)
    volume.close()
    return raw, (folder / "image").read_bytes()


def asked(requests: list[tuple[str, str | None]]) -> int:
    """Bytes that were asked for; a cut may have kept some of them back."""
    total = 0
    for _, spec in requests:
        start, end = (spec or "").removeprefix("bytes=").split("-")
        total += int(end) - int(start) + 1
    return total


def test_an_outage_in_mid_restore(image: tuple[bytes, bytes], tmp_path: Path) -> None:
    raw, stored = image
    first, second, notes = Object(stored), Object(stored), Noting()
    with Server(first) as server:
        source = HttpSource(server.url, timeout=5, pause=0.05, patience=60, report=notes)
        opened = Image.open(source)
        # the third answer is cut, those after it are empty, and then there is nobody
        begun = len(first.requests)
        first.cuts = [None, None, 4 * MIB, *[0] * 1000]
        port = server.server_port
        dead = threading.Event()

        def die() -> None:
            while len(first.requests) < begun + 3:
                time.sleep(0.005)
            server.shutdown()
            server.server_close()
            dead.set()

        threading.Thread(target=die, daemon=True).start()
        disk = create_disk(tmp_path / "target.img", len(raw))
        back: list[Server] = []

        def come_back() -> None:
            dead.wait()
            time.sleep(1.5)
            back.append(Back(second, port))

        threading.Thread(target=come_back, daemon=True).start()
        with closing(source), closing(disk):
            restore(opened, disk, report=notes)
        back[0].__exit__()
    assert (tmp_path / "target.img").read_bytes() == raw
    told = [note.partition(":")[0] for note in notes]
    assert told == [
        "waiting for the server",
        "the server answers again",
    ]
    assert asked(first.requests[: begun + 3]) + asked(second.requests) <= len(stored) + 2 * GROUP
    assert asked(second.requests) >= len(stored) // 4


def test_patience_ends(image: tuple[bytes, bytes]) -> None:
    _, stored = image
    obj, notes = Object(stored), Noting()
    with Server(obj) as server:
        source = HttpSource(server.url, timeout=5, pause=0.05, patience=1, report=notes)
        source.wire.drop()
    began = time.monotonic()
    with closing(source), pytest.raises(Transient):
        source.read_at(5, 100)
    assert 0.9 < time.monotonic() - began < 20
    assert len(notes) == 1


def test_a_server_that_is_not_there_yet(image: tuple[bytes, bytes]) -> None:
    _, stored = image
    with Server(Object(stored)) as server:
        port = server.server_port
    back: list[Server] = []
    timer = threading.Timer(1, lambda: back.append(Back(Object(stored), port)))
    timer.start()
    url = f"http://127.0.0.1:{port}/image.raw.zst"
    with closing(HttpSource(url, timeout=5, pause=0.05, patience=60)) as source:
        assert source.read_at(0, 1000) == stored[:1000]
    back[0].__exit__()


def test_a_long_wait_asks_again_at_least_every_15_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    with Server(Object(b"x" * 100)) as server:
        source = HttpSource(server.url, timeout=5, patience=24 * 3600)
        source.wire.drop()
    monkeypatch.setattr("onebay.source.http.time.sleep", sleep)
    monkeypatch.setattr("onebay.source.http.time.monotonic", lambda: clock[0])
    with closing(source), pytest.raises(Transient):
        source.read_at(0, 10)
    assert max(slept) == 15
    assert 24 * 3600 - 1 < sum(slept) < 24 * 3600 + 1
