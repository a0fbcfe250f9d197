"""Clock, reach, consoles, children and archive of the rescue system: real sockets, terminals, programs."""

from __future__ import annotations

import json
import os
import pty
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from onebay.base.error import Refused
from onebay.base.status import read_status, write_status
from onebay.cli.rescue import command
from onebay.rescue.configuration import read_settings
from onebay.rescue.live.child import Child, alive
from onebay.rescue.live.clock import SINCE_1900, NoTime, ask_http, ask_ntp, parse_answer, request, set_clock
from onebay.rescue.live.console import PROMPT, WIDTH, Console, block, consoles, progress
from onebay.rescue.live.reach import IPV4_FIRST, Reach, place_of, prefer, reach
from onebay.rescue.live.ssh import add_key, authorized, read_keys

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJDad8DYdZEJZIevNH0ihOGxGraQMTZTn2dX6W90plI/ root@vm"
NONCE = b"12345678"
LATER = 86400 * 365


def answer(nonce: bytes, seconds: float, *, first: int = 0x24, stratum: int = 2) -> bytes:
    """A server's packet (RFC 4330, 4)."""
    return (
        bytes([first, stratum])
        + bytes(22)
        + nonce
        + bytes(8)
        + struct.pack(">II", int(seconds) % (1 << 32), 0)
    )


@contextmanager
def time_server(reply: Callable[[bytes], bytes]) -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def work() -> None:
            packet, place = server.recvfrom(1024)
            server.sendto(reply(packet), place)

        threading.Thread(target=work, daemon=True).start()
        yield server.getsockname()[1]


def test_ntp_says_how_far_behind_the_clock_is() -> None:
    with time_server(lambda packet: answer(packet[40:48], time.time() + SINCE_1900 + LATER)) as port:
        assert abs(ask_ntp("127.0.0.1", 0, port) - LATER) < 5


def test_time_goes_on_when_the_counter_of_ntp_begins_again() -> None:
    # RFC 4330, 3: on 2036-02-07 the seconds begin at 0 again
    assert parse_answer(answer(NONCE, 100), NONCE, 1.8e9) == (1 << 32) - SINCE_1900 + 100


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        (b"", "short"),
        (answer(b"87654321", 4e9), "another question"),
        (answer(NONCE, 4e9, first=0x23), "another question"),
        (answer(NONCE, 4e9, first=0xE4), "no time itself"),
        (answer(NONCE, 4e9, stratum=0), "no time itself"),
        (answer(NONCE, 4e9, stratum=16), "no time itself"),
    ],
)
def test_what_is_no_time(packet: bytes, says: str) -> None:
    with pytest.raises(NoTime, match=says):
        parse_answer(packet, NONCE, 0)


def test_a_request_is_a_client_s() -> None:
    packet = request(NONCE)
    assert (len(packet), packet[0] >> 3 & 7, packet[0] & 7, packet[40:]) == (48, 4, 3, NONCE)


class Dated(BaseHTTPRequestHandler):
    date = "Mon, 30 Nov 2026 07:00:00 GMT"

    def do_HEAD(self) -> None:
        self.send_response_only(403)
        self.send_header("Date", self.date)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def web(kind: type[BaseHTTPRequestHandler] = Dated) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/secret.raw.zst?token=x"
    server.shutdown()
    server.server_close()


def test_the_date_of_a_web_server() -> None:
    with web() as url:
        # 1796022000: date -u -d "2026-11-30 07:00" +%s
        assert abs(ask_http(url) + time.time() - 1796022000) < 5

    class Undated(Dated):
        date = "yesterday"

    with web(Undated) as url, pytest.raises(NoTime, match="without a date"):
        ask_http(url)


def test_a_possible_clock_is_left_alone() -> None:
    assert set_clock([], "http://127.0.0.1:1/x", time.time() - 1) == (True, "")
    good, text = set_clock(["256.0.0.1"], None, time.time() - 1)
    assert good
    assert text.startswith("the clock is the machine's own: 256.0.0.1:")


def test_an_impossible_clock_that_nobody_sets_is_said() -> None:
    good, text = set_clock([], None, time.time() + LATER)
    assert not good
    assert "the clock is wrong" in text
    with web() as url:  # its date is before the build as well
        good, text = set_clock([], url, time.time() + 100 * LATER)
    assert not good
    assert "and so is that of 127.0.0.1" in text


def test_reaching_a_host(tmp_path: Path) -> None:
    with web() as url:
        found = reach(*place_of(url))
    assert found.failures[4] == ""
    assert found.failures[6] == "no address"
    assert found.any
    assert found.notes()[1] == f"IPv6 does not get to 127.0.0.1 port {found.port}: no address"
    gai = tmp_path / "gai.conf"
    prefer(found, gai)
    assert gai.read_text() == IPV4_FIRST
    prefer(Reach("a", 1, {4: "", 6: ""}), gai)
    assert not gai.exists()
    gone = reach("127.0.0.1", found.port)
    assert gone.failures[4] == "connection refused"
    assert not gone.any


DOCUMENTS = {
    "network": {"addresses": ["192.0.2.5"], "notes": ["a\x1b[2J" + "x" * 500, "eth1: no carrier"]},
    "ssh": {"fingerprints": ["SHA256:" + "A" * 43], "keys": 1, "port": 2222},
    "web": {
        "urls": ["https://192.0.2.5/"],
        "fingerprint": ":".join(["AB"] * 32),
        "code": "ABCD-EFGH",
        "jobs": [
            {"title": "restore x", "state": "running", "share": 0.35, "rate": 12.5e6, "left": 185, "text": ""}
        ],
    },
}


def test_what_consoles_show() -> None:
    text = block("onebay", DOCUMENTS)
    for part in (
        "192.0.2.5",
        "https://192.0.2.5/",
        "ABCD-EFGH",
        "ssh -p 2222 root@192.0.2.5",
        "restore x: running",
    ):
        assert part in text
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.endswith(PROMPT)
    assert text.count("AB:") == 31
    assert progress(DOCUMENTS) == "35%, 12 MB/s, 3:05 left"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["title", "state", "share", "rate", "left", "text"]), inner)
    ),
)
FIELDS = st.sampled_from(
    [
        "addresses",
        "notes",
        "urls",
        "fingerprint",
        "code",
        "jobs",
        "keys",
        "port",
        "fingerprints",
        "failure",
        "title",
        "left",
    ]
)


@given(st.dictionaries(st.sampled_from(["network", "ssh", "web", "job"]), st.dictionaries(FIELDS, JSON)))
def test_whatever_others_write_is_shown_in_lines(documents: dict[str, dict[str, object]]) -> None:
    text, line = block("onebay", documents), progress(documents)
    assert all(" " <= char <= "~" or char == "\n" for char in text + line)
    assert max(map(len, [*text.splitlines(), line])) <= WIDTH
    assert len(text.splitlines()) <= 42


def read_all(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    found = b""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        try:
            found += os.read(descriptor, 65536)
        except BlockingIOError:
            time.sleep(0.02)
    return found


def test_a_console_that_does_not_drain_holds_up_nobody(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    device = Path(os.ttyname(theirs))
    console = Console(device, tmp_path / "shell")
    began = time.monotonic()
    console.show("x" * 200_000, "")  # more than a terminal keeps: nobody reads
    assert time.monotonic() - began < 2
    assert console.pending
    console.since = float("-inf")
    console.show("the next one", "")
    for _ in range(20):
        seen = read_all(ours)
        console.drain()
        if not console.pending:
            break
    seen += read_all(ours)
    assert seen.endswith(b"the next one\r\n") or b"the next one" in seen
    os.close(ours)
    os.close(theirs)


def test_a_shell_in_use_is_left_alone_and_then_told_again(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    listed = tmp_path / "consoles"
    listed.write_text(f"{os.ttyname(theirs)}\n{os.ttyname(theirs)}\n")
    (console,) = consoles(listed, tmp_path / "shells")
    console.shell.parent.mkdir()
    console.show("first", "")
    assert b"first" in read_all(ours)
    console.shell.touch()
    console.since = float("-inf")
    console.show("second", "10%")
    assert read_all(ours) == b""
    console.shell.unlink()
    console.show("second", "10%")
    assert b"second" in read_all(ours)
    console.since = float("-inf")
    console.show("second", "20%")
    assert read_all(ours) == b"\r20%\x1b[K"
    os.close(ours)
    os.close(theirs)
    console.shown = ""
    console.show("third", "")  # the port is gone


def test_a_child_is_started_again_but_one_that_writes_is_not(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    argv = [sys.executable, "-c", f"open({str(mark)!r}, 'a').write('x'); raise SystemExit(3)"]
    again, once = Child("again", argv, tmp_path), Child("once", argv, tmp_path, once=True)
    for child in (again, once):
        mark.unlink(missing_ok=True)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and (not mark.exists() or len(mark.read_text()) < 2):
            child.step()
            child.again = min(child.again, time.monotonic()) if child is again else child.again
            time.sleep(0.05)
            if child is once and child.failure:
                break
        assert child.failure == f"{child.name} ended with status 3: see {child.log}"
        if child.process is not None:
            child.process.wait(20)
        assert mark.read_text().startswith("xx" if child is again else "x")
    later = Child("once", argv, tmp_path, once=True)
    for _ in range(10):
        later.step()
        time.sleep(0.05)
    assert mark.read_text() == "x"


def test_a_command_that_is_not_understood_is_not_tried_again(tmp_path: Path) -> None:
    child = Child("web", [sys.executable, "-c", "raise SystemExit(2)"], tmp_path)
    child.step()
    assert child.process is not None
    child.process.wait(20)
    child.step()
    assert child.again == float("inf")


def test_a_number_of_a_program(tmp_path: Path) -> None:
    number = tmp_path / "pid"
    assert not alive(number)
    number.write_text(str(os.getpid()))
    assert alive(number)
    number.write_text("none")
    assert not alive(number)


def test_status_is_whole_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "status" / "x.json"
    assert read_status(path) == {}
    write_status(path, {"a": 1})
    assert read_status(path) == {"a": 1}
    for text in ("[1]", "{", "[" * 100_000, ""):
        path.write_text(text)
        assert read_status(path) == {}


def test_keys_that_may_log_in(tmp_path: Path) -> None:
    assert read_keys(tmp_path) == []
    assert add_key(KEY, tmp_path) == 1
    assert add_key(KEY, tmp_path) == 1
    assert add_key(KEY + " two", tmp_path) == 2
    assert oct(authorized(tmp_path).stat().st_mode)[-3:] == "600"
    with pytest.raises(Refused, match="key: expected a public key"):
        add_key('command="sh" ' + KEY, tmp_path)


def test_settings_of_a_build(tmp_path: Path) -> None:
    settings, keys = tmp_path / "s.json", tmp_path / "id.pub"
    settings.write_text(json.dumps({"hostname": "a", "ssh": {"authorized_keys": [KEY]}}))
    keys.write_text(f"# mine\n{KEY}\n{KEY} two\n")
    assert read_settings(settings, [keys])["ssh"]["authorized_keys"] == [KEY, KEY + " two"]
    keys.write_text("ssh-dss AAAA\n")
    with pytest.raises(Refused, match="line 1: expected a public key") as caught:
        read_settings(None, [keys])
    assert caught.value.volume == str(keys)
    settings.write_text('{"hostname": 1}')
    with pytest.raises(Refused, match=r"s\.json: hostname: expected a host name, found 1"):
        read_settings(settings, [])


def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    settings, out = tmp_path / "s.json", tmp_path / "s.cpio"
    settings.write_text('{"hostname": "a"}')
    done = CliRunner().invoke(command, ["config", str(settings), str(out)], catch_exceptions=False)
    assert done.output == f"{out}\n"
    argv = ["cpio", "--extract", "--make-directories", "--quiet"]
    subprocess.run(argv, input=out.read_bytes(), cwd=tmp_path, check=True, timeout=60)
    made = tmp_path / "onebay" / "settings.json"
    assert json.loads(made.read_text()) == {"hostname": "a"}
    assert oct(made.stat().st_mode)[-3:] == "600"
    assert oct(out.stat().st_mode)[-3:] == "600"


def test_only_a_rescue_system_is_brought_up() -> None:
    for words in (["up"], ["key", KEY]):
        done = CliRunner().invoke(command, words)
        assert isinstance(done.exception, Refused)
        assert "this machine is none" in str(done.exception)


def test_many_addresses_do_not_push_out_the_code() -> None:
    many = [f"2001:db8::{number:x}" for number in range(40)]
    web = {"urls": [f"https://[{each}]/" for each in many], "fingerprint": "AB:CD", "code": "WMAH-EDUP"}
    text = block("a rescue system", {"network": {"addresses": many}, "web": web})
    assert "WMAH-EDUP" in text
    assert "AB:CD" in text
    assert "and 36 more" in text
