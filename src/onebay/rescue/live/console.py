"""What every console shows: how to get at the machine, what is wrong, how far the work is.

A console that does not drain must hold up nobody, so nothing waits for one; and over a shell in use nothing
is written: the shell's script leaves a file while it runs. Text is ASCII: a screen has no other letters yet.
"""

from __future__ import annotations

import os
import textwrap
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIDTH = 79
LABEL = 15
MOST_LINES = 40
MOST_ADDRESSES = 4  # that are shown: what is below must not be pushed out
MOST_TEXT = 400  # characters of a note
PROMPT = "press Enter for a shell"
BLOCK_PAUSE, LINE_PAUSE = 3.0, 2.0  # seconds between two showings
UNITS = ("B", "kB", "MB", "GB")
Document = dict[str, Any]


def clean(value: object) -> str:
    """Return a text in printable ASCII, cut."""
    text = "".join(char if " " <= char <= "~" else "?" for char in str(value))
    return text[:MOST_TEXT]


def texts(document: Document, key: str) -> list[str]:
    """Return the texts of a list in somebody's document."""
    found = document.get(key)
    return [clean(each) for each in found] if isinstance(found, list) else []


def entry(label: str, values: Sequence[str]) -> list[str]:
    """Return lines with a label before the first."""
    lines: list[str] = []
    for value in values:
        lines += textwrap.wrap(value, WIDTH - LABEL - 2, break_on_hyphens=False) or [""]
    return [f"  {label if number == 0 else '':{LABEL}}{line}" for number, line in enumerate(lines)]


def block(title: str, documents: dict[str, Document]) -> str:
    """Return what all consoles show: documents are those of the parts, by their names."""
    network, ssh, web = (documents.get(name, {}) for name in ("network", "ssh", "web"))
    addresses = texts(network, "addresses")
    more = [f"and {len(addresses) - MOST_ADDRESSES} more"] if len(addresses) > MOST_ADDRESSES else []
    lines = [clean(title), *entry("address", [*addresses[:MOST_ADDRESSES], *more] or ["none yet"])]
    lines += entry("web page", texts(web, "urls")[:MOST_ADDRESSES])
    if web.get("fingerprint"):
        lines += entry("certificate", fingerprint(clean(web["fingerprint"])))
    if web.get("code"):
        lines += entry("one-time code", [clean(web["code"])])
    if ssh.get("keys") and addresses:
        port = "" if ssh.get("port") == 22 else f" -p {clean(ssh.get('port'))}"
        lines += entry("ssh", [f"ssh{port} root@{addresses[0]}", *texts(ssh, "fingerprints")])
    if ssh.get("failure"):
        lines += entry("ssh", [clean(ssh["failure"])])
    lines += entry("note", texts(network, "notes"))
    for job in jobs(documents):
        lines += entry("job", [f"{clean(job.get('title', ''))}: {clean(job.get('state', ''))}"])
        lines += entry("", [clean(job[key]) for key in ("plan", "error") if job.get(key)])
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "  ..."]
    return "\n".join([*lines, PROMPT])


def fingerprint(text: str) -> list[str]:
    """Return a fingerprint in halves that fit a line."""
    parts = text.split(":")
    half = (len(parts) + 1) // 2
    return ["SHA-256", ":".join(parts[:half]) + ":", ":".join(parts[half:])] if len(text) > 60 else [text]


def jobs(documents: dict[str, Document]) -> list[Document]:
    """Return the jobs of the web page and the unattended one."""
    listed = documents.get("web", {}).get("jobs")
    found = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [*found[:8], *([documents["job"]] if documents.get("job") else [])]


def progress(documents: dict[str, Document]) -> str:
    """Return one line on how far the work is, nothing where none is going on."""
    found = [line for job in jobs(documents) if (line := how_far(job))]
    return "; ".join(found)[:WIDTH]


def how_far(job: Document) -> str:
    """Return how far one job is."""
    share, rate, left = (job.get(key) for key in ("share", "rate", "left"))
    if not isinstance(share, int | float) or not 0 <= share < 1:
        return ""
    parts = [f"{share:.0%}"]
    if isinstance(rate, int | float) and rate > 0:
        parts.append(f"{human(rate)}/s")
    if isinstance(left, int | float) and 0 <= left < 1e7:
        parts.append(f"{int(left) // 60}:{int(left) % 60:02} left")
    if job.get("text"):
        parts.append(clean(job["text"]))
    return ", ".join(parts)


def human(size: float) -> str:
    """Return a number of bytes in decimal units."""
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} {UNITS[-1]}"


class Console:
    """One console: its device, and the file that is there while a shell uses it."""

    def __init__(self, device: Path, shell: Path) -> None:
        self.device, self.shell = device, shell
        self.descriptor: int | None = None
        self.pending = b""
        self.shown = self.line = ""
        self.since = float("-inf")

    def show(self, text: str, line: str) -> None:
        """Bring the console to a block of text with a line below, as far as it takes it now."""
        now = time.monotonic()
        if self.shell.exists():
            self.shown, self.line, self.pending = "", "", b""
            return
        if text != self.shown and now - self.since >= (BLOCK_PAUSE if self.shown else 0):
            # what a console did not take of the last block is worth nothing any more
            self.pending = "\n".join(["", "", *text.splitlines(), ""]).replace("\n", "\r\n").encode("ascii")
            self.shown, self.line, self.since = text, "", now
        elif line != self.line and not self.pending and now - self.since >= LINE_PAUSE:
            self.pending = f"\r{line}\x1b[K".encode("ascii")
            self.line, self.since = line, now
        self.drain()

    def drain(self) -> None:
        """Write what the console takes without waiting."""
        try:
            if self.descriptor is None:
                flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
                self.descriptor = os.open(self.device, flags)
            while self.pending:
                self.pending = self.pending[os.write(self.descriptor, self.pending) :]
        except BlockingIOError:
            pass
        except OSError:  # a port that is no port, or was hung up: opened again next time
            if self.descriptor is not None:
                os.close(self.descriptor)
                self.descriptor = None


def consoles(listed: Path, shells: Path) -> list[Console]:
    """Return the consoles whose devices a file names, one a line."""
    try:
        names = dict.fromkeys(listed.read_text().split())
    except OSError:
        return []
    found = [listed.parent / name for name in names]
    return [Console(device, shells / device.name) for device in found]
