"""The one place that runs programs: argument lists, never a shell; a time-out always; the C locale."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import ToolFailed, ToolMissing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import IO

# Debian keeps file system and partition tools where an ordinary user's PATH does not look.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")


class Need(NamedTuple):
    """One line of tools.txt: `program` (or a file) comes with Debian package `package`; `use` groups it."""

    program: str
    package: str
    use: str


def needs() -> list[Need]:
    """Return every outside program and file that onebay may use, from tools.txt."""
    text = resources.files("onebay.base").joinpath("tools.txt").read_text("ascii")
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [Need(*fields) for fields in lines]


def find(program: str) -> str | None:
    """Return the full path of `program`, looking in the sbin folders too, or None."""
    path = os.environ.get("PATH", os.defpath) + os.pathsep + os.pathsep.join(SBIN)
    return shutil.which(program, path=path)


def require(program: str) -> str:
    """Return the full path of `program`; raises ToolMissing with the command that installs it."""
    found = find(program)
    if found is None:
        package = next((need.package for need in needs() if need.program == program), program)
        raise ToolMissing(
            f"{program} is not installed", hint=f"apt-get install {package} (or see: onebay doctor)"
        )
    return found


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for programs: ours, with the C locale and what `extra` adds."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    timeout: float = 600,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ok: Sequence[int] = (0,),
) -> Result:
    """Run a program to its end; `timeout` is in seconds, `ok` lists the statuses that are no failure.

    Raises ToolMissing, or ToolFailed with the last lines the program wrote (also when it ran out of time).
    """
    args = tuple(str(arg) for arg in argv)
    full = (require(args[0]), *args[1:])
    try:
        done = subprocess.run(
            full,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env=environment(env),
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"{args[0]} did not end within {timeout:.0f} s: {' '.join(args)}") from error
    if done.returncode not in ok:
        last = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace").splitlines()[-6:]
        raise ToolFailed(
            f"{args[0]} ended with status {done.returncode}: {' | '.join(last)}", found=" ".join(args)
        )
    return Result(args, done.returncode, done.stdout, done.stderr)


def spawn(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that goes on beside us; what it prints goes to `log` or nowhere. The caller ends it."""
    args = [str(arg) for arg in argv]
    args[0] = require(args[0])
    # in a session of its own: Ctrl-C at the terminal is for us, who end it in good order
    with (log or Path(os.devnull)).open("ab") as sink:
        return subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=environment(env),
            start_new_session=True,
        )


def piped(argv: Sequence[str | Path], *, feed: bool = False) -> subprocess.Popen[bytes]:
    """Start a program whose output and errors the caller reads, and which it ends.

    With `feed` its input is a pipe too, which the caller closes; without, it is empty. Raises ToolMissing.
    """
    args = [str(arg) for arg in argv]
    args[0] = require(args[0])
    return subprocess.Popen(
        args,
        stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )


@contextlib.contextmanager
def feeding(argv: Sequence[str | Path], output: IO[bytes]) -> Iterator[IO[bytes]]:
    """Run a program that writes to `output` what it makes of what is written to the file that is given.

    Raises ToolMissing, or ToolFailed with what the program said. It is ended where the block does not end
    well.
    """
    args = [str(arg) for arg in argv]
    full = [require(args[0]), *args[1:]]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(full, stdin=subprocess.PIPE, stdout=output, stderr=said, env=environment())
        assert process.stdin is not None
        taken = False
        try:
            with contextlib.suppress(BrokenPipeError):  # its status and last words say more
                yield process.stdin
                process.stdin.close()
                taken = True
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
        if status or not taken:
            said.seek(0)
            last = said.read().decode("utf-8", "replace").strip().splitlines()[-6:]
            raise ToolFailed(
                f"{args[0]} ended with status {status}: {' | '.join(last)}", found=" ".join(args)
            )
