"""SSH by key only: dropbear, which is not started before there is a key that may log in."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Error, Refused, reason
from onebay.base.status import write_status
from onebay.rescue.live import values
from onebay.rescue.live.child import alive

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.rescue.live.settings import Ssh

MOST = 256 << 10  # bytes
PATIENCE = 15.0  # seconds from a failure to the next start
FINGERPRINT = re.compile(r"Fingerprint: (SHA256:[A-Za-z0-9+/]{43})")


def authorized(home: Path) -> Path:
    """Return the file of the keys that may log in."""
    return home / ".ssh" / "authorized_keys"


def read_keys(home: Path) -> list[str]:
    """Return the keys that may log in."""
    try:
        text = authorized(home).read_text("utf-8", "replace")[:MOST]
    except OSError:
        return []
    return [line for line in text.splitlines() if line.startswith(values.SSH_KINDS)]


def add_key(line: str, home: Path) -> int:
    """Let one more key log in; returns how many may then. Raises Refused."""
    key = values.ssh_key(line, "key")
    keys = read_keys(home)
    if key not in keys:
        keys.append(key)
    try:
        place = authorized(home)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = place.with_name(".new")
        beside.touch(mode=0o600)
        beside.write_text("".join(f"{each}\n" for each in keys))
        beside.replace(place)
    except OSError as error:
        raise Refused(reason(error), volume=str(authorized(home))) from error
    return len(keys)


class Server:
    """The server of SSH: `home` is root's, `folder` is ours for host keys."""

    def __init__(self, settings: Ssh, *, home: Path, folder: Path) -> None:
        self.settings, self.home, self.folder = settings, home, folder
        self.host_keys: list[Path] = []
        self.fingerprints: list[str] = []
        self.failure = ""
        self.keys = 0
        self.again = 0.0
        for key in settings.authorized_keys:
            add_key(key, home)

    def step(self) -> bool:
        """Start the server where there is a key and it does not run; returns whether something changed."""
        before = (self.keys, self.failure, len(self.fingerprints))
        self.keys = len(read_keys(self.home))
        if self.keys and time.monotonic() >= self.again:
            try:
                if not self.host_keys:
                    self.make_host_keys()
                if not alive(self.folder / "pid"):
                    self.start()
                self.failure = ""
            except (Error, OSError) as error:
                self.failure = str(error)
                self.again = time.monotonic() + PATIENCE
        return before != (self.keys, self.failure, len(self.fingerprints))

    def make_host_keys(self) -> None:
        """Take the host's keys from the settings, or make one; raises ToolFailed, OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made: list[Path] = []
        for kind, pem in self.settings.host_keys:
            source, place = self.folder / f"{kind}.pem", self.folder / kind
            source.touch(mode=0o600)
            source.write_text(pem)
            place.unlink(missing_ok=True)
            tool.run(["dropbearconvert", "openssh", "dropbear", source, place], timeout=60)
            source.unlink()
            made.append(place)
        if not made:
            made.append(self.folder / "ed25519")
            if not made[0].exists():
                tool.run(["dropbearkey", "-t", "ed25519", "-f", made[0]], timeout=120)
        self.fingerprints = [self.fingerprint(place) for place in made]
        self.host_keys = made

    def fingerprint(self, place: Path) -> str:
        """Return the SHA-256 fingerprint of a host's key as `ssh-keygen -l` writes it; raises ToolFailed."""
        found = FINGERPRINT.search(tool.run(["dropbearkey", "-y", "-f", place], timeout=60).text)
        return f"{found[1]} ({place.name.upper()})" if found else ""

    def start(self) -> None:
        """Start the server in the background; raises ToolFailed."""
        argv: list[str | Path] = ["dropbear", "-s", "-g", "-k", "-m", "-T", "4", "-K", "30"]
        argv += ["-p", str(self.settings.port), "-P", self.folder / "pid"]
        for place in self.host_keys:
            argv += ["-r", place]
        tool.run(argv, timeout=60)

    def write_status(self, path: Path) -> None:
        """Write ssh.json."""
        fingerprints = self.fingerprints if self.keys else []
        document = {"fingerprints": fingerprints, "keys": self.keys, "port": self.settings.port}
        write_status(path, document | ({"failure": self.failure} if self.failure else {}))
