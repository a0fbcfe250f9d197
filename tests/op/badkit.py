"""What the tests of bad input share: the command as a user runs it, and what each of its failures must be.

Python starts once and imports once; every command is a forked process of its own, from `main()` to its exit
code, so that hundreds of them take seconds. What needs signals, time or other privileges starts Python anew.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

MIB = 1 << 20
FORMATS = Path(__file__).parents[1] / "format"
NOTHING = r"^nothing was written\b"
ONEBAY = (sys.executable, "-m", "onebay")
root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and mounts need root")

SERVER = """
import importlib, json, os, sys, traceback
from onebay.cli import main
for verb in ("capture", "fold", "grow", "inspect", "restore", "verify"):
    importlib.import_module("onebay.cli." + verb)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        for number, path in enumerate(request["files"]):
            fd = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
            os.dup2(fd, number)
            os.close(fd)
        sys.argv = ["onebay", *request["argv"]]
        code = 1
        try:
            main.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.stdout)


@functools.cache
def server() -> subprocess.Popen[str]:
    """Start the process that forks for every command."""
    argv = [sys.executable, "-c", SERVER]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def run(*argv: str | Path, stdin: Path | None = None, stdout: Path | None = None) -> Done:
    """Run the command line to its end, however it ends; only a traceback is never right."""
    words = tuple(str(word) for word in argv)
    process = server()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        files = [str(stdin or "/dev/null"), str(stdout or out.name), err.name]
        process.stdin.write(json.dumps({"argv": words, "files": files}) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        done = Done(words, code, Path(out.name).read_text(), Path(err.name).read_text())
    return checked(done, code)


def onebay(*argv: str | Path, stdin: Path | None = None, stdout: Path | None = None, status: int = 0) -> Done:
    """Run the command line and check its exit code."""
    return checked(run(*argv, stdin=stdin, stdout=stdout), status)


def ends(allowed: tuple[int, ...], *argv: str | Path) -> int:
    """Run a command that may end well or in several other ways, each of them clean; its exit code."""
    done = run(*argv)
    assert done.status in (0, *allowed), done
    if done.status:
        failure(done)
    return done.status


def afresh(*argv: str | Path, status: int, prefix: tuple[str, ...] = (), **options: Any) -> Done:
    """Run the command line in a Python of its own."""
    words = tuple(str(word) for word in argv)
    ended = subprocess.run(
        [*prefix, *ONEBAY, *words],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
        **options,
    )
    return checked(Done(words, ended.returncode, ended.stdout, ended.stderr), status)


def checked(done: Done, status: int) -> Done:
    """Check what is true of every command."""
    assert done.status == status, done
    assert "Traceback" not in done.stderr, done
    return done


def failure(done: Done, match: str = "", state: str = NOTHING) -> Done:
    """Check one clear error that says `match`, and a last line about the disk's state."""
    lines = [line.strip() for line in done.stderr.splitlines()]
    errors = [line for line in lines if line.startswith(("onebay: ", "Error: "))]
    assert len(errors) == 1, done
    assert re.search(match, done.stderr), (match, done)
    assert re.search(state, lines[-1]), (state, done)
    assert not done.stdout, done
    return done


def fails(
    status: int, *argv: str | Path, match: str = "", state: str = NOTHING, stdin: Path | None = None
) -> Done:
    """Run a command that must fail."""
    return failure(onebay(*argv, stdin=stdin, status=status), match, state)


def stamp(path: Path) -> tuple[object, ...]:
    """Everything about a file that a command could change: content, size, times, names in a folder."""
    facts = path.lstat()
    content: object = None
    if path.is_dir():
        content = tuple((entry.name, stamp(entry)) for entry in sorted(path.iterdir()))
    elif path.is_file():
        content = digest(path)
    return facts.st_mode, facts.st_size, facts.st_mtime_ns, content


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def untouched(*paths: Path) -> Iterator[None]:
    """Check that the block changes none of these files and folders."""
    before = [stamp(path) for path in paths]
    yield
    for path, old in zip(paths, before, strict=True):
        assert stamp(path) == old, path


def findings(disk: Path, *options: str) -> set[str]:
    """Kinds of what inspect finds."""
    document = onebay("inspect", disk, "--json", *options).document
    return {finding["kind"] for finding in document["findings"]}


def comes_back(disk: Path, folder: Path) -> None:
    """Check that a capture of a damaged disk, restored, gives the same bytes: nothing is lost."""
    image, copy = folder / "kept.raw.zst", folder / "kept.img"
    with untouched(disk):
        onebay("capture", disk, image, "--all")
        onebay("restore", image, copy, "--no-grow", "--verify")
        onebay("verify", image, "--against", disk)
    assert digest(copy) == digest(disk)
    image.unlink()
    copy.unlink()


def golden(kind: str, case: str, target: Path) -> Path:
    """Unpack a golden image, sparse."""
    with (FORMATS / kind / f"{case}.img.zst").open("rb") as packed, target.open("wb") as out:
        for part in zstandard.ZstdDecompressor(max_window_size=1 << 31).read_to_iter(packed):
            if part.count(0) == len(part):
                out.seek(len(part), os.SEEK_CUR)
            else:
                out.write(part)
        out.truncate()
    return target


def tool(*argv: str | Path, stdin: str | None = None, ok: tuple[int, ...] = (0,)) -> str:
    """Run a tool of the field; what it printed."""
    path = {"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [str(arg) for arg in argv], input=stdin, capture_output=True, text=True, check=False, env=path
    )
    assert done.returncode in ok, (argv, done)
    return done.stdout + done.stderr


@contextmanager
def attached(path: Path, *options: str) -> Iterator[Path]:
    """A loop device over a file."""
    device = Path(tool("losetup", "--show", "--find", *options, path).strip())
    try:
        yield device
    finally:
        tool("losetup", "--detach", device)


def blank(path: Path, size: int) -> Path:
    """Make a sparse file."""
    with path.open("xb") as file:
        file.truncate(size)
    return path


def patch(path: Path, at: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def make_disk(folder: Path, *, size: int = 24 * MIB, random: int = 6 * MIB, label: str = "dos") -> Path:
    """Make a disk with boot code and one ext4 that holds a file of random bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    disk = blank(folder / "disk.img", size)
    patch(disk, 0, b"boot code " * 44)
    tool("sfdisk", "-q", disk, stdin=f"label: {label}\nstart=2048, size={(size - 3 * MIB) // 512}\n")
    content = folder / "content"
    content.mkdir()
    (content / "random").write_bytes(os.urandom(random))
    blocks = f"{(size - 3 * MIB) // 1024}k"
    tool("mke2fs", "-q", "-t", "ext4", "-d", content, "-E", f"offset={MIB}", disk, blocks)
    shutil.rmtree(content)
    return disk
