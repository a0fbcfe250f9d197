"""The unattended job, on image files: what it does, what it tells, and when it lets the machine go down."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from onebay.base.extent import ExtentSet
from onebay.base.status import write_status
from onebay.block import FileVolume
from onebay.block.disks import Disk
from onebay.image import Facts, write_image
from onebay.rescue.live.job import Around, Run, public
from onebay.rescue.live.progress import Heard
from onebay.rescue.live.settings import Job
from onebay.rescue.live.target import choose
from onebay.rescue.live.webhook import Webhook, post

MIB = 1 << 20
SIZE = 40 * MIB


class Site(ThreadingHTTPServer):
    """A server that has an image, in ranges, and takes what a webhook sends."""

    daemon_threads = True

    def __init__(self, image: bytes) -> None:
        self.image, self.posts, self.status = image, list[dict[str, object]](), 200
        self.signature = b""
        self.slow = 0.0  # seconds before each answer
        super().__init__(("127.0.0.1", 0), partial(Answer, self))
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        whole = self.site.signature if self.path.endswith(".sig") else self.site.image
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        body = whole[int(first) : int(last) + 1]
        time.sleep(self.site.slow)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that was killed
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.site.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.site.status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@dataclass
class Bench:
    """A site, its image's digest, the disk of it, and what the machine was told to do."""

    site: Site
    raw: bytes
    digest: str
    folder: Path
    powered: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def disk(self, name: str, size: int = SIZE, **more: str) -> Disk:
        path = self.folder / name
        path.write_bytes(b"\xa5" * size)
        return Disk(path, size, {"model": name}, **more)  # a file has no serial number

    def run(self, disks: list[Disk], target: str = "only", **more: str) -> tuple[int, dict[str, object]]:
        """Run a job; returns its exit code and its last status."""
        job = Job(f"{self.site.url}/a.raw.zst", target, webhook=f"{self.site.url}/hook", **more)
        around = Around(
            find=partial(choose, disks=disks),
            status=self.folder / "status/job.json",
            hook=Webhook(job.webhook, timeout=5, pause=0.01),
            power=self.powered.append,
            say=self.said.append,
            patience=5,
        )
        code = Run(job, around, host="nas").whole()
        return code, json.loads(around.status.read_text())

    @property
    def phases(self) -> list[object]:
        return [each["phase"] for each in self.site.posts if each["phase"] != "progress"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, str]:
    """A disk with two partitions that nothing is in, its image, and the digest."""
    folder = tmp_path_factory.mktemp("made")
    disk = folder / "disk"
    disk.write_bytes(bytes(SIZE))
    table = b"label: gpt\nname=one, size=8M\nname=two\n"
    subprocess.run(["/sbin/sfdisk", "--quiet", disk], input=table, check=True, timeout=60)
    with disk.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(random.Random(3).randbytes(20 * MIB))
    volume = FileVolume(disk)
    argv = [sys.executable, "-m", "onebay", "inspect", "--json", disk]
    layers = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout)
    facts = Facts("disk", "2026-01-01T00:00:00Z", layers)
    done = write_image(volume, folder / "image", keep=ExtentSet.single(0, SIZE), facts=facts)
    volume.close()
    return disk.read_bytes(), (folder / "image").read_bytes(), f"sha256:{done.root}"


@pytest.fixture
def bench(made: tuple[bytes, bytes, str], tmp_path: Path) -> Iterator[Bench]:
    raw, image, digest = made
    with Site(image) as site:
        yield Bench(site, raw, digest, tmp_path)
        site.shutdown()


@pytest.mark.parametrize("then", ["reboot", "poweroff", "stay"])
def test_restores_tells_and_ends_as_asked(bench: Bench, then: str) -> None:
    disk = bench.disk("a")
    code, status = bench.run([disk, bench.disk("b", loose="on USB")], digest=bench.digest, then=then)
    assert code == 0, bench.said
    assert disk.path.read_bytes() == bench.raw
    assert (bench.folder / "b").read_bytes() == b"\xa5" * SIZE
    assert bench.powered == ([] if then == "stay" else [then])
    assert (status["state"], status["share"], status["error"]) == ("done", 1.0, None)
    assert status["title"] == f"restore a.raw.zst to {disk.path}"
    assert bench.phases == ["started", "done"]
    first, last = bench.site.posts[0], bench.site.posts[-1]
    assert first["job"] == {
        "restore": f"{bench.site.url}/a.raw.zst",
        "target": "only",
        "disk": str(disk.path),
        "serial": None,
        "digest": bench.digest,
        "then": then,
    }
    assert (last["host"], last["code"], last["next"], last["version"]) == ("nas", 0, then, 1)


@pytest.mark.parametrize("before_write", ["stay", "reboot"])
def test_a_wrong_digest_writes_nothing(bench: Bench, before_write: str) -> None:
    disk = bench.disk("a")
    wrong = f"sha256:{1:064x}"
    code, status = bench.run([disk], digest=wrong, then="reboot", before_write=before_write)
    assert code == 3
    assert disk.path.read_bytes() == b"\xa5" * SIZE
    assert bench.powered == ([] if before_write == "stay" else ["reboot"])
    assert status["state"] == "failed"
    assert "is not the image that was asked for" in str(status["error"])
    assert str(status["error"]).endswith("nothing was written")
    assert bench.phases == ["started", "failed"]
    assert (bench.site.posts[-1]["wrote"], bench.site.posts[-1]["next"]) == (False, before_write)


@pytest.mark.parametrize("target", ["only", "size:1M-1G"])
def test_two_candidates_stop_it_before_any_write(bench: Bench, target: str) -> None:
    disks = [bench.disk("a"), bench.disk("b")]
    code, status = bench.run(disks, target, then="reboot")
    assert code == 3
    for disk in disks:
        assert disk.path.read_bytes() == b"\xa5" * SIZE
        assert str(disk.path) in str(status["error"])
    assert bench.powered == []
    assert bench.phases == ["failed"]


@pytest.mark.parametrize("mine", [True, False])
def test_a_signature_is_asked_for(bench: Bench, tmp_path: Path, mine: bool) -> None:
    key, text, signature = tmp_path / "key.pem", tmp_path / "text", tmp_path / "sig"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, timeout=60)
    argv = ["openssl", "pkey", "-in", key, "-pubout"]
    public = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()[
        1
    ]
    text.write_text(f"onebay image {bench.digest if mine else 'another'}\n")
    argv = [
        "openssl",
        "pkeyutl",
        "-sign",
        "-rawin",
        "-inkey",
        str(key),
        "-in",
        str(text),
        "-out",
        str(signature),
    ]
    subprocess.run(argv, check=True, timeout=60)
    bench.site.signature = signature.read_bytes()
    disk = bench.disk("a")
    code, status = bench.run([disk], public_key=public)
    assert code == (0 if mine else 3), status
    assert disk.path.read_bytes() == (bench.raw if mine else b"\xa5" * SIZE)


def test_the_serial_number_is_compared_again(bench: Bench) -> None:
    """By the restore itself: names of devices may change hands."""
    disk = Disk(bench.disk("a").path, SIZE, {"serial": "S-a"})
    code, status = bench.run([disk], "serial:S-a")
    assert code == 3
    assert "another disk: serial number: expected S-a, found none" in str(status["error"])
    assert disk.path.read_bytes() == b"\xa5" * SIZE


def test_the_machine_waits_for_the_work_of_the_page(bench: Bench) -> None:
    page = bench.folder / "status/web.json"
    write_status(page, {"jobs": [{"title": "restore sdb", "state": "running"}]})
    ended: list[list[str]] = []

    def end() -> None:
        while not any("waits for the work of the page" in line for line in bench.said):
            time.sleep(0.05)
        ended.append(list(bench.powered))
        write_status(page, {"jobs": [{"title": "restore sdb", "state": "done"}]})

    owner = threading.Thread(target=end, daemon=True)
    owner.start()
    assert bench.run([bench.disk("a")], then="reboot")[0] == 0
    owner.join(10)
    assert ended == [[]]
    assert bench.powered == ["reboot"]


def test_after_a_write_that_failed_it_never_restarts(bench: Bench) -> None:
    disk = bench.disk("a")
    middle = len(bench.site.image) // 2
    bench.site.image = bench.site.image[:middle] + b"\0" * 4096 + bench.site.image[middle + 4096 :]
    code, status = bench.run([disk], then="reboot", before_write="reboot")
    assert code == 5
    assert bench.powered == []
    assert "is incomplete and cannot boot; the same command run again goes on" in str(status["error"])
    assert bench.site.posts[-1]["wrote"] is True
    assert "stay" not in str(status["text"])


def test_the_same_job_again_goes_on(bench: Bench, made: tuple[bytes, bytes, str]) -> None:
    test_after_a_write_that_failed_it_never_restarts(bench)
    bench.site.image = made[1]
    disk = Disk(bench.folder / "a", SIZE)
    code, _ = bench.run([disk], then="reboot")
    assert code == 0
    assert disk.path.read_bytes() == bench.raw
    assert bench.powered == ["reboot"]


@pytest.mark.parametrize("again", ["no", "yes"])
def test_a_disk_that_was_restored_before_is_not_set_back(bench: Bench, again: str) -> None:
    """A machine that starts from the rescue medium again has been in use since."""
    disk = bench.disk("a", SIZE + 8 * MIB)
    assert bench.run([disk], then="reboot")[0] == 0
    with disk.path.open("r+b") as file:
        file.seek(12 * MIB)
        file.write(b"photo")
    used = disk.path.read_bytes()
    code, status = bench.run([disk], then="reboot", again=again)
    if again == "yes":
        assert code == 0
        assert disk.path.read_bytes()[12 * MIB :][:5] != b"photo"
        return
    assert code == 3
    assert "holds this image's disk already" in str(status["error"])
    assert disk.path.read_bytes() == used
    assert bench.powered == ["reboot"]


def test_a_half_written_disk_is_not_restarted_from_whatever_fails_then(bench: Bench) -> None:
    test_after_a_write_that_failed_it_never_restarts(bench)
    bench.site.image = b"gone"
    code, status = bench.run([Disk(bench.folder / "a", SIZE)], then="reboot", before_write="reboot")
    assert code == 4
    assert bench.powered == []
    assert "was incomplete before and cannot boot" in str(status["error"])


def test_a_target_that_is_too_small(bench: Bench) -> None:
    disk = bench.disk("a", SIZE // 8)
    code, _ = bench.run([disk], then="poweroff", before_write="stay")
    assert code
    assert bench.powered == []
    assert disk.path.read_bytes() == b"\xa5" * (SIZE // 8)


def test_a_child_that_is_killed_may_have_written(bench: Bench) -> None:
    disk = bench.disk("a")
    bench.site.slow = 0.2
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    argv = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(disk.path).encode() in argv and disk.path.read_bytes()[:4] != b"\xa5" * 4:
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(int(folder.name))
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    code, status = bench.run([disk], then="reboot", before_write="reboot")
    thread.join()
    assert killed
    assert code == 1
    assert bench.powered == []
    assert "ended by signal 9" in str(status["error"])


def test_interrupted_the_child_ends_in_good_order(bench: Bench) -> None:
    """In a process of its own: Ctrl-C is for the main thread."""
    disk = bench.disk("a")
    bench.site.slow = 0.3
    script = f"""
import pathlib
from onebay.block.disks import Disk
from onebay.rescue.live.job import Around, Run
from onebay.rescue.live.settings import Job
from onebay.rescue.live.webhook import Webhook
disk = Disk(pathlib.Path({str(disk.path)!r}), {SIZE})
status = pathlib.Path({str(bench.folder / "job.json")!r})
job = Job({f"{bench.site.url}/a"!r}, "only", then="reboot", before_write="reboot")
around = Around(lambda target: disk, status, Webhook(None), lambda how: print("power", how), print)
raise SystemExit(Run(job, around).whole())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while disk.path.read_bytes()[:4] == b"\xa5" * 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "power" not in said
    status = json.loads((bench.folder / "job.json").read_text())
    assert "is incomplete and cannot boot; the same command run again goes on" in status["error"]


def test_a_webhook_that_fails_does_not_matter(bench: Bench) -> None:
    bench.site.status = 500
    disk = bench.disk("a")
    code, _ = bench.run([disk], then="poweroff")
    assert code == 0
    assert bench.powered == ["poweroff"]
    assert "the webhook was not told: the server answers 500" in bench.said
    assert bench.phases == ["started"] * 3 + ["done"] * 3


def test_a_webhook_that_hangs_does_not_hold_the_work() -> None:
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), BaseHTTPRequestHandler
    ) as nobody:  # it listens and says nothing
        hook = Webhook(f"http://127.0.0.1:{nobody.server_port}/", timeout=30)
        began = time.monotonic()
        for number in range(20):
            hook.tell({"number": number})
        hook.close(0.5)
        assert time.monotonic() - began < 5
        assert hook.failure == "the server takes too long"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "nonsense", "http://[", "https://127.0.0.1:1/"])
def test_where_no_webhook_is(url: str) -> None:
    assert post(url, {"a": 1}, timeout=2)


def test_what_nobody_else_should_see_is_not_told() -> None:
    assert (
        public("https://me:secret@example.com:8443/a/b.zst?signature=secret#x")
        == "https://example.com:8443/a/b.zst"
    )


def test_what_a_child_may_say() -> None:
    heard = Heard()
    for line in (
        "{",
        '{"event": 5}',
        '{"event": "moved"}',
        '{"event": "moved", "done": 5}',
        "[]",
        "null",
        "{" * 20000,
    ):
        heard.hear(line)
    assert heard.figures()["share"] is None
    assert heard.hear('{"event": "began", "op": "restore", "what": "x", "total": 100, "version": 1}')
    assert not heard.hear('{"event": "moved", "op": "restore", "done": 50}')
    assert heard.figures()["share"] == 0.5
    assert heard.hear('{"event": "noted", "text": "waiting for the server: x", "volume": ""}')
    assert heard.note == "waiting for the server: x"
    for number in range(1000):
        heard.hear(f"line {number}")
    assert len(heard.lines) < 20


def test_only_in_the_rescue_system(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"version": 1, "job": {"restore": "http://127.0.0.1/a", "target": "only"}}')
    argv = [sys.executable, "-m", "onebay", "rescue", "job", "--settings", settings]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "in the rescue system only" in done.stderr
