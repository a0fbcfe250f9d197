"""`onebay install` before any machine runs, what it keeps when it is cut, and a boot disk that is none."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from onebay.base.error import Damaged, Refused, ToolFailed, Unsupported
from onebay.base.event import silent
from onebay.block import FileVolume, Overlay, open_disk, serving
from onebay.machine import install as machine
from onebay.machine.installation import Installation
from onebay.machine.unfinished import Unfinished
from onebay.sample import page as pages
from tests.story import onebay

MIB = 1 << 20
SIZE = 64 * MIB


def blank(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A disk with a table, whose boot code starts the machine anew (jmp far f000:fff0)."""
    path = blank(tmp_path / "boot.img")
    subprocess.run(["sfdisk", "--quiet", path], input=b"label: dos\nstart=2048, size=8192\n", check=True)
    with path.open("r+b") as file:
        file.write(b"\xea\xf0\xff\x00\xf0")
    return path


# int 0x10-free machine code: turn the machine off through the ACPI port of a q35 (0x604 <- 0x2000), which the
# firmware has set up
OFF = b"\xba\x04\x06\xb8\x00\x20\xef\xf4"


def turns_off(boot: Path) -> Path:
    """Let the boot disk turn the machine off at once."""
    with boot.open("r+b") as file:
        file.write(OFF)
    return boot


def refused(boot: Path, *options: str | Path, text: str, status: int = 3) -> str:
    """Nothing is made where the command is refused."""
    before = sorted(boot.parent.iterdir())
    said = onebay("install", "--boot", boot, *options, status=status).stderr
    assert text in said
    assert "nothing was written" in said
    assert sorted(boot.parent.iterdir()) == before
    return said


def test_usage(boot: Path, tmp_path: Path) -> None:
    new = ("--output", tmp_path / "new.img")
    refused(boot, text="give either --output and --size, or --data", status=2)
    refused(boot, *new, text="give either --output and --size, or --data", status=2)
    refused(boot, *new, "--size", "1G", "--volume", "basic-ext4", text="goes with --payload", status=2)
    refused(boot, *new, "--size", "1G", "--capture", tmp_path / "x.img", text="must end in", status=2)
    same = ("--output", tmp_path / "a.raw.zst", "--size", "1G", "--capture", tmp_path / "a.raw.zst")
    refused(boot, *same, text="a place of its own", status=2)
    for wrong in (
        ("--expect", ""),
        ("--timeout", "nan"),
        ("--memory", "0"),
        ("--mac", "zz"),
        ("--usb-id", "x"),
    ):
        refused(boot, *new, "--size", "1G", *wrong, text="", status=2)
    refused(boot, *new, "--size", "1000001", text="no whole number of sectors")
    sectors = ("--sector-size", "4096", "--data-bus", "sata")
    refused(boot, *new, "--size", "1G", *sectors, text="sectors of 4096 bytes on sata", status=4)


def test_what_is_there_already(boot: Path, tmp_path: Path) -> None:
    there = blank(tmp_path / "there.img")
    refused(boot, "--output", there, "--size", "1G", text="exists already")
    image = blank(tmp_path / "there.raw.zst")
    refused(boot, "--output", tmp_path / "new.img", "--size", "1G", "--capture", image, text="exists already")


def test_little_memory(boot: Path, tmp_path: Path) -> None:
    options = ("--output", tmp_path / "new.img", "--size", "1G", "--memory", "99999999")
    said = refused(boot, *options, text="too little memory")
    assert "99999999 for the guest" in said
    assert "--memory" in said


def test_data_on_the_disk_is_shown(boot: Path, tmp_path: Path) -> None:
    data = blank(tmp_path / "data.img")
    subprocess.run(["mkfs.ext4", "-q", data], check=True)
    said = refused(boot, "--data", data, text="there is data on the disk")
    assert "ext4, 64 MiB" in said
    other = blank(tmp_path / "other.img", 300 * MIB)
    with other.open("r+b") as file:
        file.seek(150 * MIB)
        file.write(b"\x01")
    assert "bytes of no format" in refused(boot, "--data", other, text="there is data on the disk")


def test_payload_with_a_bad_checksum(boot: Path, tmp_path: Path) -> None:
    payload = tmp_path / "nas.pat"
    with tarfile.open(payload, "w") as archive:
        for name, content in (("VERSION", b'unique="x"\n'), ("SHA256SUMS", b"0" * 64 + b"  VERSION\n")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    options = ("--output", tmp_path / "new.img", "--size", "1G", "--payload", payload)
    assert "VERSION" in refused(boot, *options, text="nas.pat", status=5)


def test_boot_disk_that_does_not_boot(boot: Path, tmp_path: Path, cache: Path) -> None:
    """The console's last words are told, everything is kept, and another boot disk is not taken for it."""
    new = tmp_path / "new.img"
    options = ("--output", new, "--size", "1G", "--cache", cache)
    shown = onebay("install", "--boot", boot, *options, "--console", status=8)
    assert "SeaBIOS" in shown.stdout
    said = shown.stderr
    assert "the boot disk does not look as if it boots under bios" in said
    assert "the machine starts again and again" in said
    assert "its console last said" in said
    assert "run the same command again" in said
    assert not new.exists()
    assert (tmp_path / "new.img.install" / "disk.img").stat().st_size == 1 << 30
    late = ("--firmware", "uefi", "--timeout", "1")
    again = onebay("install", "--boot", boot, *options, *late, status=8).stderr
    assert "going on from" in again
    assert "the installer was not done within 1 s, and has written nothing" in again
    other = blank(tmp_path / "other.img", 3 * MIB)
    said = onebay("install", "--boot", other, *options, status=3).stderr
    assert "with another boot was begun" in said
    said = onebay("install", "--boot", boot, "--output", new, "--size", "2G", status=3).stderr
    assert "with another size was begun" in said
    os.utime(boot, ns=(1, 1))
    said = onebay("install", "--boot", boot, *options, status=3).stderr
    assert "with another boot changed was begun" in said


def test_interrupted(boot: Path, tmp_path: Path, cache: Path) -> None:
    """Ctrl-C ends the machine; what was there is kept."""
    argv = ["install", "--boot", boot, "--output", tmp_path / "new.img", "--size", "1G", "--firmware", "uefi"]
    command = [sys.executable, "-m", "onebay", *map(str, argv), "--cache", str(cache)]
    serial = tmp_path / "new.img.install" / "serial.log"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not (serial.exists() and serial.stat().st_size):
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Ctrl-C again ends the machine at once" in said
    assert said.rstrip().endswith("run the same command again to go on")


def begun(tmp_path: Path, source: FileVolume) -> Unfinished:
    found = Unfinished(tmp_path / "new.img", tmp_path / "new.img.install")
    found.load()
    found.begin(source, SIZE)
    return found


def test_changes_of_the_boot_disk_are_kept(boot: Path, tmp_path: Path) -> None:
    """They are saved beside the target and shown again; the boot disk is only read."""
    before = boot.read_bytes()
    data = blank(tmp_path / "data.img")
    with closing(FileVolume(boot)) as source, closing(FileVolume(data)) as disk:
        unfinished = begun(tmp_path, source)
        view = unfinished.view(source)
        unfinished.save(view, disk)
        assert not unfinished.boot.exists()
        view.write(3 * MIB, b"an installer wrote this")
        unfinished.save(view, disk)
        shown = begun(tmp_path, source).view(source)
        assert shown.read(3 * MIB, 23) == b"an installer wrote this"
        assert shown.read(0, MIB) == before[:MIB]
        assert shown.name == source.name
        shown.write(0, b"and more")
        begun(tmp_path, source).save(shown, disk)
        again = begun(tmp_path, source)
        assert again.view(source).read(3 * MIB, 23) == b"an installer wrote this"
        assert again.view(source).read(0, 8) == b"and more"
        # without what the installer wrote, nothing goes on
        with again.boot.open("r+b") as file:
            file.write(b"lost")
        with pytest.raises(Damaged, match="as the installer left it is gone"):
            begun(tmp_path, source)
    assert boot.read_bytes() == before


def test_a_run_that_was_killed_is_not_gone_on_from(boot: Path, tmp_path: Path, cache: Path) -> None:
    """What the installer wrote to the boot disk was in memory; and the machine does not outlive us."""
    argv = ["install", "--boot", boot, "--output", tmp_path / "new.img", "--size", "1G", "--firmware", "uefi"]
    command = [sys.executable, "-m", "onebay", *map(str, argv), "--cache", str(cache)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        qemu = machine_of(process, tmp_path)
        process.kill()
    end = time.monotonic() + 30
    while Path(f"/proc/{qemu}").exists() and b"qemu" in Path(f"/proc/{qemu}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.1)
    said = onebay(*argv, "--cache", cache, status=3).stderr
    assert "a run that was killed, or goes on" in said
    assert f"remove {tmp_path / 'new.img.install'} to begin anew" in said


def machine_of(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait until the machine says something, and return its number."""
    serial = folder / "new.img.install" / "serial.log"
    end = time.monotonic() + 120
    while not (serial.exists() and serial.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (found,) = [int(n) for n in children if b"qemu" in Path(f"/proc/{n}/cmdline").read_bytes()]
    return found


def test_another_disk_of_the_same_name(boot: Path, tmp_path: Path, cache: Path) -> None:
    """What was allowed for one disk is not for another, nor for the same one once it was used otherwise."""
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    data = blank(first / "disk.img")
    onebay("install", "--boot", boot, "--data", data, "--cache", cache, status=8)
    photos = blank(second / "disk.img")
    subprocess.run(["mkfs.ext4", "-q", "-L", "PHOTOS", photos], check=True)
    (first / "disk.img.install").rename(second / "disk.img.install")
    assert (
        "there is data"
        in onebay("install", "--boot", boot, "--data", photos, "--cache", cache, status=3).stderr
    )
    (second / "disk.img.install").rename(first / "disk.img.install")
    assert (
        "going on from"
        in onebay("install", "--boot", boot, "--data", data, "--cache", cache, status=8).stderr
    )
    subprocess.run(["mkfs.ext4", "-q", data], check=True)
    assert (
        "there is data"
        in onebay("install", "--boot", boot, "--data", data, "--cache", cache, status=3).stderr
    )


def test_a_trial_that_failed_is_gone_on_from(boot: Path, tmp_path: Path) -> None:
    """What we wrote to the disk ourselves since the installer is no reason to ask."""
    data = blank(tmp_path / "new.img")
    with closing(FileVolume(boot)) as source, closing(FileVolume(data, writable=True)) as disk:
        unfinished = begun(tmp_path, source)
        unfinished.save(unfinished.view(source), disk)
        unfinished.change(phase="installed")
        assert unfinished.knows(disk)
        work = Installation(unfinished, disk, unfinished.view(source), machine.Setup(), silent)

        def fails() -> None:
            with work.keeping():
                disk.write(5 * MIB, b"folded")
                raise ToolFailed("does not boot")

        with pytest.raises(ToolFailed):
            fails()
        assert begun(tmp_path, source).knows(disk)
        disk.write(32 * MIB, b"somebody else")
        assert not begun(tmp_path, source).knows(disk)


def test_boot_disk_and_target_are_one(boot: Path, tmp_path: Path) -> None:
    link, over = tmp_path / "link.img", tmp_path / "over.qcow2"
    link.symlink_to(boot)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", boot, over], check=True)
    for first in (boot, link, over):
        options = ("--data", boot, "--yes", "--allow-backing")
        said = onebay("install", "--boot", first, *options, status=3).stderr
        assert "are one" in said
        assert "nothing was written" in said


def test_nothing_was_installed(boot: Path, tmp_path: Path, cache: Path) -> None:
    """A system that was there before is no installation, and a page that was not asked for is none either."""
    data = blank(tmp_path / "data.img")
    subprocess.run(["mkfs.ext4", "-q", "-N", "2000", data], check=True)
    names = "".join(f"write /dev/null file{number}\n" for number in range(600))
    subprocess.run(
        ["debugfs", "-w", "-f", "/dev/stdin", data], input=names.encode(), check=True, capture_output=True
    )
    options = ("--data", data, "--yes", "--expect", "B", "--cache", cache)
    said = onebay("install", "--boot", turns_off(boot), *options, status=6).stderr
    assert "nothing was installed" in said
    run = pages.errand(tmp_path / "nas.pat", None, uploaded=False, when_uploaded=lambda: None)
    with site(pages.MANAGER) as page, pytest.raises(Refused, match="installed already"):
        run(page.port, lambda _: None, Event())


def test_folders_that_are_not_ours(boot: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new.img.install"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"a photo")
    new = ("--output", tmp_path / "new.img", "--size", "1G")
    refused(boot, *new, text="the folder holds something else")
    assert (folder / "photo.jpg").read_bytes() == b"a photo"
    (folder / "photo.jpg").unlink()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    refused(boot, *new, text="is no folder")
    folder.unlink()
    folder.mkdir()
    (folder / "about.json").write_text("{}")
    refused(boot, *new, text="not to be understood", status=5)


def test_qemu_writes_to_the_view(boot: Path, tmp_path: Path) -> None:
    """What QEMU writes over NBD it reads again, from memory; without leave it cannot."""
    before = boot.read_bytes()
    with closing(FileVolume(boot)) as source:
        view = Overlay(source)
        where = tmp_path / "nbd"
        with serving(view, where, writable=True):
            io_of(where, "write -P 0xab 1000k 200k", "flush", "read -P 0xab 1000k 200k", "read -P 0 1200k 1M")
        assert view.read(1000 << 10, 200 << 10) == b"\xab" * (200 << 10)
        where.unlink()
        with serving(view, where):
            done = subprocess.run(
                ["qemu-io", "-f", "raw", "-c", "write 0 512", f"nbd:unix:{where}"],
                check=False,
                capture_output=True,
            )
        assert done.returncode != 0
        assert view.read(0, 512) == before[:512]
    assert boot.read_bytes() == before


def io_of(where: Path, *commands: str) -> None:
    argv = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *argv, f"nbd:unix:{where}"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout


@contextmanager
def site(title: str, status: int = 200, text: str = "") -> Iterator[pages.Page]:
    """A page with a title that answers every POST with a status and a text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, f"<h1>{title}</h1>")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(status, text)

        def reply(self, code: int, body: str) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield pages.Page(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "kind"), [(400, Damaged), (409, Refused), (500, ToolFailed)])
def test_what_the_installer_says(status: int, kind: type[Exception], tmp_path: Path) -> None:
    package = tmp_path / "nas.pat"
    package.write_bytes(b"a package")
    with site(pages.INSTALLER, status, "the file is probably corrupt (13)") as page:
        assert page.title() == pages.INSTALLER
        with pytest.raises(kind, match=r"probably corrupt \(13\)"):
            page.upload(package)


def test_a_page_that_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "STRANGE", 0)
    run = pages.errand(tmp_path / "nas.pat", None, uploaded=False, when_uploaded=lambda: None)
    with site("Another appliance") as page, pytest.raises(Unsupported, match="none that is known"):
        run(page.port, lambda _: None, Event())
    assert pages.Page(page.port).title() is None


def test_screen_wants_its_password(boot: Path, tmp_path: Path) -> None:
    """By RFC 6143, 7.1.2: the only security type that is offered is 2, VNC authentication."""
    data = blank(tmp_path / "data.img")
    with closing(FileVolume(boot)) as source, closing(FileVolume(data)) as disk:
        setup = machine.Setup(screen=True)
        with machine.installing(Overlay(source), disk, setup, serial=tmp_path / "serial") as (guest, screen):
            assert screen is not None
            assert len(screen.password) == 8
            command = Path(f"/proc/{guest.process.pid}/cmdline").read_text()
            assert screen.password not in command
            host, _, port = screen.address.partition(":")
            with connected(host, int(port)) as port_:
                assert port_.recv(12) == b"RFB 003.008\n"
                port_.sendall(b"RFB 003.008\n")
                assert port_.recv(16) == b"\x01\x02"


def connected(host: str, port: int) -> socket.socket:
    """Connect as soon as somebody listens."""
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((host, port), 60)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs loop devices")
def test_guest_sees_the_real_disk(tmp_path: Path) -> None:
    """Sectors and rotation of a device are those that the kernel tells."""
    data = blank(tmp_path / "data.img")
    losetup = ["losetup", "--find", "--show", "--sector-size", "4096", data]
    device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
    try:
        with closing(open_disk(Path(device))) as disk:
            drive = machine.data_drive(disk, machine.Setup().bus_of(disk))
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    turns = Path(f"/sys/block/{Path(device).name}/queue/rotational").read_text().strip()
    assert (drive.bus, drive.sector_size, drive.kept) == ("virtio", 4096, True)
    assert drive.rotation == (7200 if turns == "1" else 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs loop devices")
def test_a_device_wants_its_name(boot: Path) -> None:
    data = blank(boot.parent / "data.img")
    attached = subprocess.run(
        ["losetup", "--find", "--show", data], check=True, capture_output=True, text=True
    )
    device = attached.stdout.strip()
    try:
        argv = [sys.executable, "-m", "onebay", "install", "--boot", str(boot), "--data", device]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert done.returncode == 3
    assert "needs --yes or its name typed" in done.stderr
