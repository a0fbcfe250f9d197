"""Nobody gets in without the code, nothing comes from another site, no path leads out."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from onebay.base.error import Refused
from onebay.machine.install import free_port
from onebay.web import status
from onebay.web.access import ALPHABET, IDLE, LENGTH, RENEWAL, SESSIONS, SOURCES, Access
from onebay.web.app import build
from onebay.web.choice import VERBS, choose
from onebay.web.disks import Shelf
from onebay.web.gate import MOST, MOST_EACH, PATIENCE, Gate, source_of
from onebay.web.guard import HEADERS, MOST_BODY, OPEN, Guard
from onebay.web.jobs import Command
from onebay.web.serve import Settings, serve
from onebay.web.site import Site
from onebay.web.texts import LANGUAGES, TEXTS, best
from tests.web.webclient import HOST, MIB, Browser, Desk, desk


@pytest.fixture
def it(tmp_path: Path) -> Desk:
    disk = tmp_path / "nas.img"
    with disk.open("xb") as file:
        file.truncate(64 * MIB)
    images = tmp_path / "images"
    images.mkdir()
    return desk(tmp_path, disk, images=images)


def routes(guard: object) -> list[tuple[str, str]]:
    """Every method and path that the application knows, so that a new one is tested too."""
    assert isinstance(guard, Guard)
    assert isinstance(guard.app, Starlette)
    found = []
    for route in guard.app.routes:
        assert isinstance(route, Route)
        path = route.path.replace("{key}", "0" * 16).replace("{what}", "reboot")
        found += [(method, path) for method in route.methods or ()]
    return found


def test_nothing_answers_without_a_session(it: Desk) -> None:
    stranger = Browser(it.browser.app)
    seen = 0
    for method, path in routes(it.browser.app):
        if path in OPEN:
            continue
        for accept in ("text/html", "*/*", "text/event-stream"):
            answer = stranger.request(method, path, headers={"accept": accept})
            assert answer.status in (401, 303), (method, path, accept)
            assert answer.status == 401 or answer.header("location") == "/login"
            assert b"nas.img" not in answer.body
        seen += 1
    assert seen > 15
    for token in ("", "x", "0" * 43):
        stranger.cookies = {"__Host-onebay": token}
        assert stranger.get("/").status == 303


def test_every_answer_has_its_headers(it: Desk) -> None:
    stranger = Browser(it.browser.app)
    answers = [stranger.get(path) for path in (*OPEN, "/", "/nowhere")]
    answers += [
        it.browser.request(method, path) for method, path in routes(it.browser.app) if "login" not in path
    ]
    answers += [stranger.get("/", headers={"host": "evil.example"}), stranger.request("DELETE", "/")]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.header(name.lower()) == value
    assert "'unsafe" not in HEADERS["Content-Security-Policy"]
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_cookie(it: Desk) -> None:
    answer = Browser(it.browser.app).post("/login", {"code": it.codes[-1]})
    (cookie,) = (value for key, value in answer.headers if key == "set-cookie")
    assert cookie.startswith("__Host-onebay=")
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{HOST}"},
        {"origin": "https://127.0.0.1"},
        {"origin": f"https://{HOST}.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_no_request_from_another_site(it: Desk, headers: dict[str, str]) -> None:
    for method, path in routes(it.browser.app):
        if method == "POST":
            assert it.browser.post(path, headers=headers).status == 403, path
    it.browser.origin = None
    assert it.browser.post("/look").status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil", "[::1].evil"]
)
def test_no_foreign_host(it: Desk, host: str) -> None:
    for browser in (it.browser, Browser(it.browser.app)):
        assert browser.get("/login", headers={"host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost:8443", "[::1]:8443", "192.0.2.7", "[2001:db8::1]"])
def test_hosts_of_ours(it: Desk, host: str) -> None:
    assert it.browser.get("/", headers={"host": host}).status == 200
    assert it.browser.post("/look", headers={"host": host, "origin": f"https://{host}"}).status == 303
    assert it.browser.post("/look", headers={"host": host}).status == 403


def test_a_code_is_used_up_and_forgives_marks(it: Desk) -> None:
    code = it.codes[-1]
    other = Browser(it.browser.app)
    assert other.post("/login", {"code": f" {code.lower().replace('-', ' ')} "}).status == 303
    assert other.get("/").status == 200
    assert Browser(it.browser.app).post("/login", {"code": code}).status == 403
    assert it.browser.get("/").status == 200


def test_logout(it: Desk) -> None:
    token = dict(it.browser.cookies)
    assert it.browser.post("/logout").status == 303
    it.browser.cookies = token
    assert it.browser.get("/").status == 303


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_guessing_is_slow() -> None:
    """An attacker who always waits just long enough tries some 1440 codes a day, of 2^40."""
    codes: list[str] = []
    clock = Clock()
    access = Access(codes.append, clock=clock)
    assert len(ALPHABET) ** LENGTH >= 1 << 40
    began = clock.now
    for _ in range(100):
        assert access.login("AAAA-AAAA", "192.0.2.66") is None
        clock.now += access.pause("192.0.2.66")
    assert clock.now - began > 90 * 60
    assert 2 < len(codes) <= 2 + (clock.now - began) / RENEWAL
    assert access.login("AAAA-AAAA", "192.0.2.66") is None
    assert access.login(codes[-1], "192.0.2.66") is None  # too early, right or wrong
    assert access.pause("192.0.2.66") > 50
    clock.now += access.pause("192.0.2.66")
    assert access.login(codes[-1], "192.0.2.66") is not None


def test_an_attacker_keeps_nobody_else_out() -> None:
    """The owner reads the code, types it half a minute later, and is in."""
    codes: list[str] = []
    clock = Clock()
    access = Access(codes.append, clock=clock)
    for _ in range(4 * 3600):
        access.login("AAAA-AAAA", "192.0.2.66")
        clock.now += 0.25
    seen = len(codes)
    while len(codes) == seen:
        access.login("AAAA-AAAA", "192.0.2.66")
        clock.now += 0.25
    read = codes[-1]
    for _ in range(120):
        access.login("AAAA-AAAA", "192.0.2.66")
        clock.now += 0.25
    assert access.login(read, "192.0.2.7") is not None


def test_many_attackers_are_slow_and_take_no_memory() -> None:
    clock = Clock()
    access = Access([].append, clock=clock)
    looked = 0
    for number in range(20000):
        before = access.wrong, access.renewed
        access.login("AAAA-AAAA", f"2001:db8:0:{number:x}::/64")
        looked += (access.wrong, access.renewed) != before
        clock.now += 0.01
    assert looked <= 20000 * 0.01 * 5 + 6
    assert looked > 900
    assert len(access.sources) <= SOURCES


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nobody", ""),
    ],
)
def test_whom_an_address_counts_for(host: str, source: str) -> None:
    assert source_of(host) == source


def test_too_many_wrong_codes_are_told(it: Desk) -> None:
    browser = Browser(it.browser.app)
    found = [browser.post("/login", {"code": "AAAA-AAAA"}).status for _ in range(5)]
    assert found == [403, 403, 403, 429, 429]
    answer = browser.post("/login", {"code": it.codes[-1]})
    assert answer.status == 429
    assert int(answer.header("retry-after")) >= 1


def test_a_session_ends_by_itself() -> None:
    clock = Clock()
    codes: list[str] = []
    access = Access(codes.append, clock=clock)
    token = access.login(codes[-1])
    for _ in range(5):
        clock.now += IDLE - 1
        assert access.known(token)
    clock.now += IDLE
    assert not access.known(token)
    tokens = [access.login(codes[-1]) for _ in range(SESSIONS + 3)]
    assert len(set(tokens)) == SESSIONS + 3
    assert sum(access.known(token) for token in tokens) == SESSIONS


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/disk/../../etc/passwd",
        "/disk/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/disk//etc/passwd",
        "/onebay.css/../app.py",
        "/static/onebay.js",
        "/job/0123456789abcdef/events",
        "/power/reboot",
        "/power/..",
    ],
)
def test_no_path_leads_out(it: Desk, path: str) -> None:
    answer = it.browser.get(path)
    assert answer.status == 404
    assert b"root:" not in answer.body


HOSTILE = [
    {"from": "url", "url": "/etc/passwd"},
    {"from": "url", "url": "file:///etc/passwd"},
    {"from": "url", "url": "--yes"},
    {"from": "url", "url": "http://"},
    {"from": "url", "url": "http://a b/"},
    {"from": "url", "url": "http://a/\n--yes"},
    {"from": "url", "url": "-"},
    {"from": "url", "url": "http://a/" + "x" * 5000},
    {"from": "file:/etc/passwd"},
    {"from": "file:../../etc/passwd"},
    {"from": "file:"},
    {"from": ""},
    {"from": "url", "url": "http://a/", "digest": "--yes"},
    {"from": "url", "url": "http://a/", "digest": "sha256:" + "g" * 64},
    {"kit": "file:/etc/passwd"},
    {"kit": "url", "url": "/etc/passwd"},
    {"to": "file", "name": "../../etc/cron"},
    {"to": "file", "name": "/etc/cron"},
    {"to": "file", "name": ".hidden"},
    {"to": "file", "name": "-"},
    {"to": "file", "name": "a\0b"},
    {"to": "file", "name": ""},
    {"to": "/etc/x.raw.zst"},
    {"boot": "/dev/sda"},
    {"firmware": "bios", "expect": ""},
    {"firmware": "--write", "expect": "x"},
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fields", HOSTILE, ids=str)
def test_no_path_comes_from_a_form(it: Desk, verb: str, fields: dict[str, str]) -> None:
    """What is refused makes no child; what is not has no word of the form in its command."""
    form = {"verb": verb, "disk": it.key("nas.img"), "name": "../x", **fields}
    try:
        choice = choose(form, it.site.shelf, rescue=False)
    except Refused:
        assert not it.site.jobs.known
        return
    words = [word for word in choice.argv if word in fields.values() and word not in ("bios",)]
    assert not words
    assert choice.argv[0] == verb


@pytest.mark.parametrize("disk", ["", "/dev/sda", "../nas.img", "nas.img", "0" * 16])
def test_no_disk_but_those_offered(it: Desk, disk: str) -> None:
    for verb in VERBS:
        with pytest.raises(Refused, match="no such disk"):
            choose({"verb": verb, "disk": disk}, it.site.shelf, rescue=False)
    assert it.browser.get(f"/disk/{disk or 'x'}").status == 404


def test_links_in_the_folder_of_images_are_not_followed(it: Desk, tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw.zst"
    secret.write_bytes(b"x")
    folder = it.site.shelf.images
    assert folder is not None
    (folder / "link.raw.zst").symlink_to(secret)
    (folder / "dangling.raw.zst").symlink_to(tmp_path / "target.raw.zst")
    (folder / "folder").symlink_to(tmp_path)
    assert it.site.shelf.files() == []
    form = {"verb": "capture", "disk": it.key("nas.img"), "to": "file", "name": "dangling"}
    with pytest.raises(Refused, match="exists already"):
        choose(form, it.site.shelf, rescue=False)


def test_no_code_is_taken_from_the_folder_of_an_image(it: Desk, tmp_path: Path) -> None:
    for name in ("json.py", "onebay.py", "click.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "not recognised" in it.browser.get(f"/disk/{it.key('nas.img')}").text
    assert not (tmp_path / "ran").exists()


def test_long_and_broken_forms(it: Desk) -> None:
    assert it.browser.post("/plan", body=[b"x" * (MOST_BODY + 1)]).status == 413
    lying = [b"x" * MOST_BODY, b"x" * MOST_BODY]
    assert it.browser.post("/plan", body=lying, headers={"content-length": "10"}).status == 413
    assert it.browser.post("/plan", headers={"content-length": "-1"}).status == 413
    assert it.browser.post("/plan", body=[b"a=\xff\xfe"]).status == 400
    assert it.browser.post("/plan", body=[b"&".join(b"a%d=1" % n for n in range(100))]).status == 400


def test_machine_is_left_alone_on_a_workstation(it: Desk) -> None:
    assert it.browser.post("/power/poweroff").status == 404
    assert it.browser.post("/media", {"disk": it.key("nas.img"), "number": "1"}).status == 404


def test_the_machine_stays_up_while_a_job_runs(tmp_path: Path) -> None:
    it = desk(tmp_path, rescue=True)
    job = it.site.jobs.add(Command("sleeper", ("restore", "-", "/nowhere"), pipe="upload"))
    process = it.site.jobs.start(job)  # waits for its input
    assert it.browser.post("/power/reboot").status == 409
    assert it.site.jobs.close(60) == []
    assert process.stdin is not None
    process.stdin.close()


def test_the_machine_stays_up_while_a_job_of_the_settings_runs(tmp_path: Path) -> None:
    it = desk(tmp_path, rescue=True)
    it.site.folder = tmp_path / "status"
    status.write(it.site.folder, "job", {"title": "restore", "state": "running"})
    for what in ("reboot", "poweroff"):
        assert it.browser.post(f"/power/{what}").status == 409
    status.write(it.site.folder, "job", {"title": "restore", "state": "failed"})
    assert it.browser.get("/power/reboot").status == 200


def test_in_a_rescue_the_page_goes_before_its_jobs(tmp_path: Path) -> None:
    """When memory runs out, the kernel ends the page, and not the restore."""
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    it = desk(tmp_path, rescue=True)
    job = it.site.jobs.add(Command("sleeper", ("restore", "-", "/nowhere"), pipe="upload"))
    try:
        score.write_text("500")
        process = it.site.jobs.start(job)
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "0"
    finally:
        score.write_text(before)
    assert it.site.jobs.close(60) == []
    assert process.stdin is not None
    process.stdin.close()


def test_silent_connections_are_cut() -> None:
    """One that waits for its next head is cut after a while, one with a request under way is not."""
    with Gate(socket.AF_INET) as gate:
        gate.bind(("127.0.0.1", 0))
        gate.listen()
        clients, served = [], []
        for _ in range(2):
            clients.append(socket.create_connection(gate.getsockname(), timeout=10))
            served.append(gate.accept()[0])
        idle, busy = (gate.guests[conn] for conn in served)
        for guest in (idle, busy):
            guest.since -= PATIENCE - 5
        gate.cut()
        for conn in served:
            conn.sendall(b"x")
        assert [client.recv(10) for client in clients] == [b"x", b"x"]
        idle.since -= 6
        busy.since, busy.busy = idle.since, 1
        gate.cut()
        served[1].sendall(b"y")
        assert [client.recv(10) for client in clients] == [b"", b"y"]
        for sock in (*clients, *served):
            sock.close()
        assert not gate.open()


def test_strangers_hold_neither_memory_nor_all_connections(tmp_path: Path) -> None:
    """Silent connections are counted before TLS; from another address one comes in all the same."""
    port = free_port()
    argv = ["web", "--listen", f"127.0.0.1:{port}", "--rescue", "--images", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-m", "onebay", *argv], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        held = []
        try:
            for _ in range(3):
                process.stderr.readline()
            for host, most in (("127.0.0.66", MOST_EACH), ("127.0.0.67", MOST_EACH)):
                new = [silent(port, host) for _ in range(MOST_EACH + 8)]
                assert sum(map(stays, new)) == most
                held += new
            told = ask(port, "GET", "/", source="127.0.0.7")
            assert told[:2] == (303, "/login")
            held += [silent(port, f"127.0.1.{number}") for number in range(1, 40)]
            assert sum(map(stays, held)) in (MOST - 1, MOST)  # the one that asked may end late
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "500"
            end = time.monotonic() + PATIENCE + 30
            while any(map(stays, held)):
                assert time.monotonic() < end
                time.sleep(0.5)
            assert ask(port, "GET", "/")[:2] == (303, "/login")
        finally:
            os.kill(process.pid, signal.SIGTERM)
            for sock in held:
                sock.close()
        process.wait(60)


def silent(port: int, host: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(host, 0))


def stays(sock: socket.socket) -> bool:
    """Whether the other side has left a connection open, 0.2 seconds later at most."""
    sock.settimeout(0.2)
    try:
        return bool(sock.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


def test_texts_are_whole() -> None:
    assert all(len(texts) == len(LANGUAGES) and all(texts) for texts in TEXTS.values())
    source = "".join(
        path.read_text() for path in Path(sys.modules[Site.__module__].__file__ or "").parent.glob("*.py")
    )
    unused = [key for key in TEXTS if f'"{key}"' not in source.replace(f'    "{key}": (', "")]
    made = ("state-", "severity-", "-what")
    assert [key for key in unused if not any(part in key for part in made)] == []
    for key, (english, chinese) in TEXTS.items():
        places = [
            sorted(part.partition("}")[0] for part in text.split("{")[1:]) for text in (english, chinese)
        ]
        assert places[0] == places[1], key


@pytest.mark.parametrize(
    ("accept", "lang"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("fr,de;q=0.9", "en"),
        ("fr,zh-Hans;q=0.5", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=x,;;;,=", "en"),
    ],
)
def test_language(accept: str, lang: str) -> None:
    assert best(accept) == lang


def test_plain_http_is_for_this_machine_only() -> None:
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(Refused, match="TLS"):
            serve(Settings(host, 1, tls=False), tell=print)


def test_over_tls(tmp_path: Path) -> None:
    """The real thing: fingerprint and code as printed, login, a page, the status file, the end."""
    disk = tmp_path / "nas.img"
    with disk.open("xb") as file:
        file.truncate(64 * MIB)
    port, folder = free_port(), tmp_path / "status"
    argv = ["web", "--listen", f"127.0.0.1:{port}", "--disk", disk, "--status", folder]
    with subprocess.Popen(
        [sys.executable, "-m", "onebay", *map(str, argv)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            said = [process.stderr.readline().split() for _ in range(3)]
            assert said[0] == [f"https://127.0.0.1:{port}/"]
            der = ssl.PEM_cert_to_DER_cert(certificate(port))
            assert said[1][-1] == sha256(der).digest().hex(":").upper()
            assert ask(port, "GET", "/")[:2] == (303, "/login")
            code, _, cookie = ask(port, "POST", "/login", {"code": said[2][-1]})
            assert code == 303
            assert ask(port, "GET", "/", cookie=cookie)[0] == 200
            assert "code" in process.stderr.readline()
            told = folder / "web.json"
            assert told.stat().st_mode & 0o777 == 0o600
            assert not list(folder.glob("*.part"))
        finally:
            os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
    assert process.returncode == 0


def certificate(port: int) -> str:
    end = time.monotonic() + 60
    while True:
        try:
            return ssl.get_server_certificate(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.2)


def ask(
    port: int,
    method: str,
    path: str,
    form: dict[str, str] | None = None,
    cookie: str = "",
    source: str = "127.0.0.1",
) -> tuple[int, str | None, str]:
    """Return status, Location and cookie of an answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # compared by its fingerprint before
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, context=context, timeout=60, source_address=(source, 0)
    )
    headers = {"Origin": f"https://127.0.0.1:{port}", "Cookie": cookie}
    connection.request(method, path, urlencode(form) if form else None, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    got = answer.headers.get("Set-Cookie", "").partition(";")[0]
    return answer.status, answer.headers.get("Location"), got


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Refused, match="cannot listen"):
        serve(Settings("127.0.0.1", port, tls=False), tell=print)
    assert build(Site(Access(print), Shelf(tmp_path)), tls=True)
