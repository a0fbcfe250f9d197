"""The page inside the rescue system, at 256 MB: disks by serial number, an image on another disk, reboot."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
from rescueshell import Shell, direct, shell

from onebay.base import tool
from onebay.machine import qemu
from onebay.machine.install import free_port
from onebay.rescue.build import Rescue
from tests.web.test_web_jobs import CONTENT, empty, onebay
from tests.web.webclient import MIB, file_system, make_disk

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("only_with_matrix")]
PATIENCE = 300


@dataclass
class Page:
    """A browser of few words, over TLS."""

    port: int
    cookie: str = ""
    path: str = field(default="/", init=False)

    def ask(self, path: str, form: dict[str, str] | None = None) -> str:
        """Return the page that a request leads to, after one more step where it leads on."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=PATIENCE)
        headers = {"Origin": f"https://127.0.0.1:{self.port}", "Cookie": self.cookie, "Accept": "text/html"}
        body = None if form is None else urlencode(form)
        connection.request("GET" if form is None else "POST", path, body, headers)
        answer = connection.getresponse()
        text = unescape(answer.read().decode())
        connection.close()
        self.cookie = answer.headers.get("Set-Cookie", self.cookie).partition(";")[0]
        if answer.status == 303:
            self.path = answer.headers["Location"]
            return self.ask(self.path)
        return text

    def settled(self, text: str) -> str:
        """Return a page once nothing is under way there any more."""
        end = time.monotonic() + PATIENCE
        while "data-watch" in text:
            assert time.monotonic() < end, text
            time.sleep(1)
            text = self.ask(self.path)
        return text

    def key(self, name: str) -> str:
        """Return the key of a disk."""
        found = re.search(rf'href="/disk/(\w+)">{name}<', self.ask("/"))
        assert found
        return found[1]


def test_restore_from_another_disk(rescue: Rescue, cache: Path, tmp_path: Path) -> None:
    source = make_disk(tmp_path / "nas.img", 64 * MIB)
    onebay("capture", source, tmp_path / "nas.raw.zst")
    shelf = make_shelf(tmp_path, tmp_path / "nas.raw.zst")
    target = empty(tmp_path / "new.img", 160 * MIB)
    port = free_port()
    drives = (qemu.Drive(shelf, serial="SHELF1", kept=True), qemu.Drive(target, serial="TARGET2", kept=True))
    machine = replace(direct(rescue, 256, cache), drives=drives, forwards=((port, 443),))
    down = False
    with suppress(OSError), shell(machine, tmp_path) as console:
        end = time.monotonic() + PATIENCE
        while '"urls"' not in (text := console.ask("cat /run/onebay/status/web.json")):
            assert time.monotonic() < end, console.ask("cat /run/onebay/web.log")
            time.sleep(2)
        told = json.loads(text)
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))
        assert hashlib.sha256(der).digest().hex(":").upper() == told["fingerprint"]
        page = Page(port)
        assert "vda" in page.ask("/login", {"code": told["code"]})
        restore(page, console)
        assert "goes down" in page.ask("/power/reboot", {})
        assert console.guest.off(120)
        console.port.close()
        down = True
    assert down
    size, content = file_system(target)
    assert size > 150 * MIB
    assert content == CONTENT


def restore(page: Page, console: Shell) -> None:
    """Open the partition of one disk, restore its image to the other, close it."""
    shelf, target = page.key("vda"), page.key("vdb")
    assert "TARGET2" in page.ask(f"/disk/{target}")
    assert 'name="number" value="1"' in page.ask(f"/disk/{shelf}")
    assert "photos.raw.zst" in page.ask("/media", {"disk": shelf, "number": "1"})
    assert " ro," in console.ask("grep /run/onebay/media /proc/mounts")
    image = re.search(r'value="(file:\w+)">photos', page.ask(f"/disk/{target}"))
    assert image
    text = page.settled(page.ask("/plan", {"verb": "restore", "disk": target, "from": image[1]}))
    assert "Type TARGET2 to confirm" in text, text
    text = page.settled(page.ask(page.path, {"word": "TARGET2"}))
    assert "restored" in text, text
    assert "--expect-serial TARGET2" in text
    console.ask("options='--yes --expect-serial OTHER'")  # a line of the terminal is short
    other = console.ask("onebay grow $options /dev/vdb 2>&1")
    assert "another disk: serial number: expected OTHER, found TARGET2" in other
    # what is left beside shell, `rescue up` and the page
    assert int(console.ask("free -m | awk '$1 == \"Mem:\" {print $7}'")) > 20
    close = re.search(r'action="(/media/\w+/close)"', page.ask("/"))
    assert close
    assert "photos" not in page.ask(close[1], {})
    assert console.ask("grep /run/onebay/media /proc/mounts").strip() == ""


def make_shelf(folder: Path, image: Path) -> Path:
    """Make a disk with an ext4 that holds an image in a folder."""
    content = folder / "content"
    (content / "backup").mkdir(parents=True)
    (content / "backup" / "photos.raw.zst").write_bytes(image.read_bytes())
    shelf = empty(folder / "shelf.img", 96 * MIB)
    subprocess.run(
        [tool.require("sfdisk"), "-q", shelf],
        input="label: gpt\nstart=2048,size=131072\n",
        text=True,
        check=True,
    )
    tool.run(["mke2fs", "-q", "-t", "ext4", "-d", content, "-E", f"offset={MIB}", shelf, "65536k"])
    return shelf
