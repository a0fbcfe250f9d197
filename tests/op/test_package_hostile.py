"""Packages that lie: huge claims, endless headers, odd names, links, bombs; an Error each, soon."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from badkit import onebay
from packagekit import ENV, VERSION, pack, seal

from onebay.base.error import Damaged, Error, Refused, Truncated, Unsupported
from onebay.ops.payload import File, find_payload, read_payload, refuse_bad

MIB = 1 << 20
END = bytes(1024)


@contextmanager
def bounded(seconds: float = 20, memory: int = 64 * MIB) -> Iterator[None]:
    """Check that the block takes little time of the processor and little memory."""
    tracemalloc.start()
    before = time.process_time()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - before < seconds
    assert peak < memory


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **changes: bytes) -> bytes:
    """Make one header by the standard library; `changes` put bytes at `atN`, the checksum is made right."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for place, data in changes.items():
        at = int(place[2:])
        block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


FIRST = member("VERSION", VERSION.encode())


def written(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


MEASURED = """
import resource, sys
from pathlib import Path
from onebay.base.error import Error
from onebay.ops.payload import read_payload
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    payload = read_payload(Path(sys.argv[1]))
    print(payload.entries, sum(check.verdict == "holds" for check in payload.checks), sep="\\n")
except Error as error:
    print(type(error).__name__, error, sep="\\n")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measured(path: Path) -> tuple[str, str, int]:
    """Read a package in a process of its own: entries and good checks, or an error; its memory in KiB."""
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=True)
    first, second, memory = done.stdout.splitlines()
    return first, second, int(memory)


def small(count: int) -> Iterator[bytes]:
    """Yield so many members of one byte, files/000000 and so on."""
    block = bytearray(header("files/000000", 1))
    zeros = bytearray(block)
    zeros[148:156] = b" " * 8
    total = sum(zeros)
    for number in range(count):
        digits = f"{number:06}".encode()
        block[6:12] = digits
        block[148:154] = f"{total + sum(digits) - sum(b'000000'):06o}".encode()
        yield bytes(block) + b"x" + bytes(511)


def test_many_members(tmp_path: Path) -> None:
    """A hundred thousand members, and a line about each."""
    digest = subprocess.run(["sha256sum"], input=b"x", capture_output=True, check=True).stdout[:64].decode()
    sums = "".join(f"{digest}  files/{number:06}\n" for number in range(100_000)).encode()
    path = written(tmp_path / "many.pat", FIRST, *small(100_000), member("SHA256SUMS", sums), END)
    listed = subprocess.run(["tar", "-tf", path], capture_output=True, check=True).stdout
    assert listed.count(b"\n") == 100_002
    entries, good, memory = measured(path)
    assert (entries, good) == ("100002", "100000")
    assert memory < 256 << 10


def test_too_many_members(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pat", FIRST, header("x") * 140_000, END)
    kind, text, memory = measured(path)
    assert kind == "Refused"
    assert "more members" in text
    assert memory < 256 << 10


@pytest.mark.parametrize("size", [1 << 32, (1 << 62) + 1])
def test_a_size_beyond_the_end(tmp_path: Path, size: int) -> None:
    claim = b"\x80" + size.to_bytes(11, "big")
    path = written(tmp_path / "a.pat", FIRST, header("zImage", at124=claim), b"abc", END)
    with bounded(), pytest.raises(Truncated, match="in zImage") as caught:
        read_payload(path)
    assert caught.value.at == path.stat().st_size


@pytest.mark.parametrize("claim", [b"\xff" * 12, b"-0000000012\0", b"zz", b"\xff" * 4 + bytes(8)])
def test_a_size_that_is_none(tmp_path: Path, claim: bytes) -> None:
    path = written(tmp_path / "a.pat", FIRST, header("zImage", at124=claim), END)
    with bounded(), pytest.raises(Damaged, match="no header where one must be"):
        read_payload(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_long_header(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.pat"
    written(path, FIRST, header("x", 1 << 30, kind))
    os.truncate(path, 1 << 30)
    with bounded(), pytest.raises(Refused, match="an extended header is too long"):
        read_payload(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_without_end(tmp_path: Path, kind: bytes) -> None:
    data = b"12 path=abc\n" if kind == tarfile.XHDTYPE else b"abc\0"
    path = written(tmp_path / "a.pat", FIRST, member("x", data, kind) * 5000, END)
    with bounded(), pytest.raises(Damaged, match="extend one another"):
        read_payload(path)


@pytest.mark.parametrize(
    "record",
    [
        b"12 path=abc",
        b"99 path=abc\n",
        b"0 a=b\n",
        b"x",
        b"999999 a=b\n",
        b"-5 a=b\n",
        b"12 pathabc\n\n",
    ],
)
def test_odd_records(tmp_path: Path, record: bytes) -> None:
    path = written(tmp_path / "a.pat", FIRST, member("x", record, tarfile.XHDTYPE), member("y", b""), END)
    with pytest.raises(Damaged, match="a record of an extended header"):
        read_payload(path)


@pytest.mark.parametrize("value", ["-1", "1" * 30, "0x10", "\u0661"])
def test_odd_sizes_in_records(tmp_path: Path, value: str) -> None:
    text = f" size={value}\n".encode()
    record = f"{len(text) + 2}".encode() + text
    path = written(tmp_path / "a.pat", FIRST, member("x", record, tarfile.XHDTYPE), member("y", b""), END)
    with bounded(), pytest.raises(Damaged, match="size of a member"):
        read_payload(path)


def test_sparse_members(tmp_path: Path) -> None:
    """Real ones, as GNU tar writes them, of a file that claims a tebibyte."""
    (tmp_path / "VERSION").write_text(VERSION)
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"data")
    for format_ in ("--format=gnu", "--format=posix"):
        path = pack(tmp_path, tmp_path / "a.pat", "-S", format_, names=("VERSION", "disk.img"))
        assert path.stat().st_size < MIB
        with bounded(), pytest.raises(Unsupported, match="a sparse member"):
            read_payload(path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "VERSION").write_text(VERSION)
    (folder / "zImage").symlink_to("/etc/passwd")
    os.link(folder / "VERSION", folder / "copy")
    os.mkfifo(folder / "pipe")
    digest = (
        subprocess.run(["sha256sum", "/etc/passwd"], capture_output=True, check=True).stdout[:64].decode()
    )
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name in ("zImage", "copy", "pipe")))
    names = ("VERSION", "zImage", "copy", "pipe", "SHA256SUMS")
    payload = read_payload(pack(folder, tmp_path / "a.pat", names=names))
    assert [file.kind for file in payload.files] == ["file", "link", "link", "other", "file"]
    assert [check.why for check in payload.bad] == [
        "is a link, which is not followed",
        "is a link, which is not followed",
        "is no file",
    ]


def test_names_that_mean_harm(tmp_path: Path) -> None:
    """Nothing reaches a terminal but printable characters; what leads out of the package is named."""
    names = ["\x1b[2Jzap", "a\nb", "\u202egpj.exe", "back\\slash", "/etc/shadow", "a/../../b", "bad\udcff"]
    path = written(tmp_path / "a.pat", FIRST, *(pax(name) for name in names), END)
    payload = read_payload(path)
    assert [file.name for file in payload.files[1:]] == [
        "\\x1b[2Jzap",
        "a\\nb",
        "\\u202egpj.exe",
        "back\\slash",
        "/etc/shadow",
        "a/../../b",
        "bad\\xff",
    ]
    assert [(check.name, check.why) for check in payload.bad] == [
        ("/etc/shadow", "leads out of the package"),
        ("a/../../b", "leads out of the package"),
    ]
    with pytest.raises(Damaged):
        refuse_bad(payload)
    text = onebay("inspect", path).stdout
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.splitlines()) == 3 + len(payload.files) + 1 + len(payload.bad)


def pax(name: str) -> bytes:
    """Make an empty member with any name."""
    text = b" path=" + name.encode("utf-8", "surrogateescape") + b"\n"
    return member("x", f"{len(text) + 2}".encode() + text, tarfile.XHDTYPE) + header("y")


def test_two_members_of_one_name(tmp_path: Path) -> None:
    """One installer takes the first, another the last; so neither can be vouched for."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "VERSION").write_text(VERSION)
    (folder / "SHA256SUMS").write_text(
        subprocess.run(
            ["sha256sum", "VERSION"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
    )
    path = pack(folder, tmp_path / "a.pat", names=("VERSION", "SHA256SUMS"))
    assert not read_payload(path).bad
    (folder / "VERSION").write_text(VERSION.replace("918", "920"))
    subprocess.run(["tar", "-rf", path, "-C", folder, "./VERSION"], check=True, env=ENV)
    assert {(check.source, check.name) for check in read_payload(path).bad} == {
        ("the package", "./VERSION"),
        ("SHA256SUMS", "VERSION"),
    }


def test_large_files_that_are_read(tmp_path: Path) -> None:
    for name, size in (("VERSION", MIB), ("checksum.syno", 17 * MIB)):
        path = written(
            tmp_path / "a.pat", FIRST if name != "VERSION" else b"", member(name, bytes(size)), END
        )
        with bounded(), pytest.raises(Damaged, match=f"{name}: too large"):
            read_payload(path)
    path = written(tmp_path / "a.pat", FIRST, member("checksum.syno", b"\n" * 200_000), END)
    with bounded(), pytest.raises(Refused, match=r"a\.pat: checksum\.syno: too many lines"):
        read_payload(path)
    text = b"1 1 " + b"1 " * (7 * MIB)
    path = written(tmp_path / "a.pat", FIRST, member("checksum.syno", text), END)
    with bounded(memory=128 * MIB):
        assert len(read_payload(path).bad) == 1


@pytest.mark.parametrize("pack_it", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_a_bomb(tmp_path: Path, pack_it: object) -> None:
    assert callable(pack_it)
    claim = b"\x80" + (1 << 40).to_bytes(11, "big")
    raw = FIRST + header("zImage", at124=claim) + bytes(96 * MIB)
    path = written(tmp_path / "a.pat", pack_it(raw))
    assert path.stat().st_size < MIB
    with bounded(memory=192 * MIB), pytest.raises(Refused, match="unpacks to more"):
        read_payload(path, max_size=64 * MIB)


def test_an_encrypted_header_that_lies(tmp_path: Path) -> None:
    whole = bytearray(seal([b"x" * 100]))
    for at, data in (
        (45, b"\xff\xff\xff\xff"),
        (4, b"\xff\xff\x7f\0"),
        (43, b"\xdd\xff\xff\xff\xff"),
        (47, b"\xff" * 5),
    ):
        bad = bytearray(whole)
        bad[at : at + len(data)] = data
        path = written(tmp_path / "a.pat", bytes(bad))
        with bounded(), pytest.raises(Error):
            read_payload(path)
    path = written(tmp_path / "a.pat", whole[:4], b"\xff\xff\xff\xff", bytes(1000))
    with pytest.raises(Damaged, match="length of its header"):
        read_payload(path)
    assert find_payload(path.rename(tmp_path / "disk.img")) is None  # three bytes by chance
    for size in (5, 7, 8):
        with pytest.raises(Truncated):
            read_payload(written(path, whole[:size]))


def test_memory_of_the_whole_command(tmp_path: Path) -> None:
    """A package of 100 MiB takes no more of the machine than a small one."""
    path = written(tmp_path / "a.pat", FIRST, header("hda1.tgz", 100 * MIB))
    os.truncate(path, path.stat().st_size + 100 * MIB + 1024)
    entries, _, memory = measured(path)
    assert entries == "2"
    assert memory < 80 << 10
    assert read_payload(path).files[1] == File("hda1.tgz", "file", 100 * MIB, "")
