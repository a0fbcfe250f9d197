"""The sample appliance's pages on its port 5000, as a program uses them: the installer, then the manager.

`errand` is what `onebay install --payload` does on an owner's behalf where it finds this installer.
"""

from __future__ import annotations

import html
import http.client
import re
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from onebay.base.error import Damaged, Refused, ToolFailed, Unsupported
from onebay.ops.payload.stream import shown

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from onebay.machine.installation import Errand

GUEST_PORT = 5000
INSTALLER, MANAGER = "Install the NAS", "Storage manager"
KINDS = ("basic-btrfs", "basic-ext4", "lvm-btrfs", "lvm-ext4")
SAID = 400  # characters of an answer that are quoted
STRANGE = 30  # answers of a page that is not known, two seconds apart
PATIENCE = 1800  # seconds; unpacking a system takes minutes where the machine is emulated
WRITTEN = "the installer may have written to the data disk"


class Page:
    """The page behind a TCP port of this host's loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def title(self) -> str | None:
        """Return which page answers: INSTALLER, MANAGER, another one's title, or None where none does."""
        try:
            status, body = self.ask("GET", "/", timeout=10)
        except (OSError, http.client.HTTPException):
            return None
        found = re.search(r"<h1>(.*?)</h1>", body)
        return html.unescape(found[1]) if found and status == http.HTTPStatus.OK else ""

    def upload(self, package: Path) -> str:
        """Have the installer install a package, and return what it says at the end.

        Raises Damaged where it does not like the package, Refused where it finds no disk for the system,
        ToolFailed where it could not install, or hung up.
        """
        with package.open("rb") as file:
            headers = {"Content-Length": str(package.stat().st_size)}
            try:
                status, body = self.ask("POST", "/cgi-bin/index.cgi", body=file, headers=headers)
            except (OSError, http.client.HTTPException) as error:
                raise ToolFailed(f"the installer hung up: {error}", state=WRITTEN) from error
        if status == http.HTTPStatus.OK:
            return shown(body.strip()[:SAID])
        kind = {400: Damaged, 409: Refused}.get(status, ToolFailed)
        raise kind(f"the installer says: {shown(body.strip()[:SAID])}", volume=str(package), state=WRITTEN)

    def create(self, kind: str) -> None:
        """Have the storage manager make a volume, one of KINDS; raises ToolFailed."""
        body = urlencode({"do": "create", "kind": kind}).encode()
        try:
            status, said = self.ask("POST", "/cgi-bin/index.cgi", body=body)
        except (OSError, http.client.HTTPException) as error:
            raise ToolFailed(f"the storage manager hung up: {error}", state=WRITTEN) from error
        if status != http.HTTPStatus.OK:
            text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", said)).split())
            raise ToolFailed(f"the storage manager says: {shown(text[:SAID])}", state=WRITTEN)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> tuple[int, str]:
        """Send one request; returns the status and the answer's text."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request(method, path, body=body, headers=dict(headers or {}))  # type: ignore[arg-type]
            answer = connection.getresponse()
            return answer.status, answer.read(1 << 20).decode("utf-8", "replace")


def errand(package: Path, volume: str | None, *, uploaded: bool, when_uploaded: Callable[[], None]) -> Errand:
    """Return what installs a package, waits for the system, and makes a volume of a kind, or none.

    `uploaded` says that an earlier run installed the package; `when_uploaded` is called when this one has.
    The errand raises Refused where a system is there to which nobody gave the package.
    """

    def run(port: int, note: Callable[[str], None], stop: threading.Event) -> None:
        page = Page(port)
        found = wait(page, (INSTALLER, MANAGER), stop)
        if found == MANAGER and not uploaded:
            raise Refused(
                "a system is installed already, so there is nobody to give the package to",
                volume=str(package),
                hint="leave out --payload to go on with that system",
                state=WRITTEN,
            )
        if found == INSTALLER:
            note(f"{package.name} is being uploaded")
            note(page.upload(package))
            when_uploaded()
            found = wait(page, (MANAGER,), stop)
        if volume is not None and found == MANAGER:
            note(f"a volume of kind {volume} is being made")
            page.create(volume)

    return run


def wait(page: Page, wanted: tuple[str, ...], stop: threading.Event) -> str | None:
    """Wait until one of the pages answers; None where nobody wants it any more.

    Raises Unsupported where another page answers, again and again.
    """
    strange = 0
    while not stop.is_set():
        title = page.title()
        if title in wanted:
            return title
        strange = strange + 1 if title not in (None, INSTALLER, MANAGER) else 0
        if strange > STRANGE:
            raise Unsupported(
                "the installer's page is none that is known",
                found=shown(title[:SAID]) if title else "no title",
                hint="leave out --payload and install in a browser",
            )
        stop.wait(2)
    return None
