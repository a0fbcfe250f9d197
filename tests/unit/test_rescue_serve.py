"""`rescue serve` as its clients see it: ranges, what is not served, scripts with the right addresses."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.rescue import netboot
from onebay.rescue.live.layers import parse_command_line
from onebay.rescue.live.settings import parse

KEY = "ssh-ed25519 " + "AAAAC3NzaC1lZDI1NTE5AAAAIKHEChyncGp6kvpVwHsqYo1Eb61Ppn3Y4r6QwIrjhMJP me@here"
INITRD = bytes(range(256)) * 8000
ONEBAY = (sys.executable, "-m", "onebay")


class Client:
    """A client of a server that runs."""

    def __init__(self, port: int, lines: list[str]) -> None:
        self.port, self.lines = port, lines

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, headers=sent)
        response = connection.getresponse()
        found = response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        connection.close()
        return found

    def text(self, path: str, **headers: str) -> str:
        status, _, body = self.ask(path, **headers)
        assert status == 200
        return body.decode()


@contextmanager
def serving(folder: Path, *more: str | Path) -> Iterator[Client]:
    """Run the command as a user does, on a port that is free."""
    argv = [*ONEBAY, "rescue", "serve", folder, "--listen", "127.0.0.1:0", *more]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "Started server" not in lines[-1]:
            line = process.stdout.readline()
            assert line, "".join(lines)
            lines.append(line)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        match = re.search(r"127\.0\.0\.1:(\d+)/boot\.ipxe", "".join(lines))
        assert match
        try:
            yield Client(int(match[1]), lines)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build leaves, in small, and what must not be seen."""
    top = tmp_path_factory.mktemp("top")
    (top / "secret").write_text("secret")
    made = top / "out"
    (made / "grub").mkdir(parents=True)
    (made / "vmlinuz").write_bytes(b"kernel")
    (made / "initrd").write_bytes(INITRD)
    (made / "rescue.iso").write_bytes(b"iso")
    (made / ".hidden").write_text("secret")
    (made / ".folder").mkdir()
    (made / ".folder/file").write_text("secret")
    (made / "out").symlink_to(top / "secret")
    (made / "up").symlink_to(top)
    (made / "inside").symlink_to("vmlinuz")
    (made / "a b+é.txt").write_text("name")
    return made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An image and its digest."""
    images = tmp_path_factory.mktemp("images")
    disk = images / ".disk"
    disk.write_bytes(bytes(4 << 20))
    argv = [*ONEBAY, "capture", disk, images / "my nas.raw.zst", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return images / "my nas.raw.zst", "sha256:" + json.loads(done.stdout)["root"]


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with serving(folder) as found:
        yield found


def test_whole_files(client: Client) -> None:
    status, headers, body = client.ask("/initrd")
    assert (status, body) == (200, INITRD)
    assert headers["content-type"] == "application/octet-stream"
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"].startswith('"')
    assert client.text("/inside") == "kernel"
    assert client.text("/a%20b+%C3%A9.txt") == "name"


def test_head(client: Client) -> None:
    status, headers, body = client.ask("/initrd", "HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(INITRD)), b"")


@pytest.mark.parametrize(
    ("spec", "start", "end"),
    [
        ("0-0", 0, 1),
        ("5-1004", 5, 1005),
        ("2047990-", 2047990, len(INITRD)),
        ("-10", -10, None),
        ("0-99999999", 0, None),
    ],
)
def test_ranges(client: Client, spec: str, start: int, end: int | None) -> None:
    status, headers, body = client.ask("/initrd", Range=f"bytes={spec}")
    assert (status, body) == (206, INITRD[start:end])
    first = start if start >= 0 else len(INITRD) + start
    assert headers["content-range"] == f"bytes {first}-{first + len(body) - 1}/{len(INITRD)}"


def test_a_range_beyond_the_end(client: Client) -> None:
    status, headers, _ = client.ask("/initrd", Range=f"bytes={len(INITRD)}-")
    assert status == 416
    assert headers["content-range"].endswith(f"*/{len(INITRD)}")


def test_if_range(client: Client) -> None:
    tag = client.ask("/initrd", "HEAD")[1]["etag"]
    assert client.ask("/initrd", Range="bytes=0-9", If_Range=tag)[0] == 206
    assert client.ask("/initrd", Range="bytes=0-9", If_Range='"other"')[::2] == (200, INITRD)
    assert client.ask("/initrd", If_None_Match=tag)[0] == 304


def test_many_ranges_are_no_ranges(client: Client) -> None:
    spec = ",".join(f"{start}-{start + 1}" for start in range(0, 8000, 4))
    assert client.ask("/initrd", Range=f"bytes={spec}")[::2] == (200, INITRD)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS", "PROPFIND"])
def test_only_reading(client: Client, method: str) -> None:
    for path in ("/initrd", "/boot.ipxe", "/new"):
        assert client.ask(path, method)[0] in (404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/.hidden",
        "/%2ehidden",
        "/.folder/file",
        "/out",
        "/up/secret",
        "/../secret",
        "/%2e%2e/secret",
        "/grub/../../secret",
        "/grub/..%2f..%2fsecret",
        "/..%5csecret",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/%00",
        "/initrd%00.txt",
        "/grub",
        "/grub/",
        "/none",
        "/" + "a" * 5000,
        "/images/x",
        "/%ff%fe",
    ],
)
def test_what_is_not_served(client: Client, path: str) -> None:
    status, _, body = client.ask(path)
    assert status in (404, 405)
    assert b"secret" not in body
    assert b"root:" not in body


@pytest.mark.parametrize(
    "raw",
    [
        b"GET ../secret HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../secret HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x/../secret HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 1000 + b"\r\n\r\n",
        b"GET /initrd HTTP/1.1\r\nHost: x\r\nRange: bytes=" + b"9" * 5000 + b"-\r\n\r\n",
        b"GET /initrd HTTP/1.1\r\nHost: x\r\nRange: nonsense\r\n\r\n",
        b"GET /" + b"x" * 100_000,
    ],
)
def test_odd_requests_do_no_harm(client: Client, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as port:
        port.sendall(raw)
        port.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while piece := port.recv(65536):
                found += piece
        except ConnectionError:
            pass
    assert b"secret" not in found
    assert client.text("/vmlinuz") == "kernel"


def test_several_clients_at_once(client: Client) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(client.ask("/initrd")[2])) for _ in range(16)]
    with socket.create_connection(("127.0.0.1", client.port)) as silent:  # one that says nothing holds nobody
        silent.sendall(b"GET /initrd HTTP/1.1\r\n")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == [INITRD] * 16


def test_the_script_has_the_address_that_was_asked(client: Client) -> None:
    text = client.text("/boot.ipxe", Host="10.0.2.2:1234")
    assert text.startswith("#!ipxe\nkernel http://10.0.2.2:1234/vmlinuz initrd=initrd console=")
    assert "\ninitrd http://10.0.2.2:1234/initrd\nboot\n" in text
    for host in ("evil\tkernel", "a b", "${net0/ip}", "x/../", ""):
        assert f"kernel http://127.0.0.1:{client.port}/vmlinuz" in client.text("/boot.ipxe", Host=host)
    assert "linux /vmlinuz 'console=" in client.text("/grub/grub.cfg")
    index = client.text("/")
    assert "/initrd\n" in index
    assert "hidden" not in index


def test_what_dnsmasq_needs_is_said(client: Client) -> None:
    said = "".join(client.lines)
    assert f"dhcp-boot=tag:rescue,tag:ipxe,http://127.0.0.1:{client.port}/boot.ipxe" in said
    assert f"dhcp-boot=tag:rescue,tag:httpboot,http://127.0.0.1:{client.port}/shimx64.efi" in said


def test_a_job_for_whoever_boots_once(folder: Path, image: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = image
    key = tmp_path / "id.pub"
    key.write_text(f"# mine\n{KEY}\n")
    argv = ["--images", path.parent, "--restore", path.name, "--target", "size:1G-2G", "--then", "poweroff"]
    argv += ["--ssh-key", key, "--append", "onebay.web=off nomodeset"]
    with serving(folder, *argv) as client:
        assert "has its disk overwritten" in "".join(client.lines)
        script = client.text("/boot.ipxe", Host="10.0.2.2:80")
        line = re.search(r"vmlinuz (.*)", script)
        assert line
        settings = parse(parse_command_line(line[1]))
        assert settings.job is not None
        assert settings.job.restore == "http://10.0.2.2:80/images/my%20nas.raw.zst"
        assert (settings.job.target, settings.job.then) == ("size:1G-2G", "poweroff")
        assert settings.job.digest == digest
        assert settings.ssh.authorized_keys == (KEY,)
        assert not settings.web.enabled
        assert client.ask("/images/my%20nas.raw.zst")[2] == path.read_bytes()
        assert client.ask("/images/.disk")[0] == 404
        assert client.ask("/initrd", "HEAD")[0] == 200
        assert "'onebay.target=size:1G-2G'" in client.text("/grub/grub.cfg")
        client.ask("/initrd")
        for place in ("/boot.ipxe", "/grub/grub.cfg"):
            again = client.text(place)
            assert "exit" in again
            assert "vmlinuz" not in again


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["--restore", "http://h/a"], 3, "job.target: is missing"),
        (["--target", "only"], 3, "job.restore: is missing"),
        (["--restore", "nothing.zst", "--target", "only"], 3, "neither a URL nor a file"),
        (["--restore", "../secret", "--target", "only"], 3, "neither a URL nor a file"),
        (["--restore", "http://h/a", "--target", "sda"], 3, "job.target"),
        (["--append", "onebay.nothing=1"], 3, "nothing knows this word"),
        (["--append", "a;b"], 3, "no boot loader"),
        (["--append", "a" * 3000], 3, "too long"),
        (["--ssh-key", "/none"], 3, "no such file"),
        (["--listen", "nonsense"], 2, "ADDRESS:PORT"),
        (["--listen", "127.0.0.1:99999"], 2, "ADDRESS:PORT"),
        (["--listen", "203.0.113.7:80"], 3, "203.0.113.7"),
    ],
)
def test_what_cannot_be_served(folder: Path, argv: list[str], code: int, says: str) -> None:
    command = [*ONEBAY, "rescue", "serve", folder, *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_a_folder_that_is_no_build(tmp_path: Path) -> None:
    command = [*ONEBAY, "rescue", "serve", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "has no vmlinuz" in done.stderr


@pytest.mark.parametrize(
    "word", ["a b", "a'b", 'a"b', "a$b", "a;b", "a\nb", "a#b", "é", "", "a\\b", "{base}"]
)
def test_words_that_no_loader_hands_on(word: str) -> None:
    with pytest.raises(Refused, match="no boot loader"):
        netboot.script([word])
    with pytest.raises(Refused, match="no boot loader"):
        netboot.config([word])
