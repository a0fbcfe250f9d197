"""An owner at a machine with one disk: boots the rescue system, opens its page, and has the appliance again.

Chromium, driven by Playwright, sees what the owner sees; the machine's firmware decides in the end.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onebay.machine import qemu
from onebay.machine.boot import Firmware, boot
from onebay.machine.install import free_port
from onebay.machine.worker import accel
from onebay.rescue.build import Rescue
from onebay.sample.build import Sample
from onebay.sample.build import build as build_sample
from tests.store.server import Object, Server
from tests.story import GROWTH, onebay
from tests.vm.test_rescue_boots import firmware

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("only_with_matrix")]

PATIENCE = 1800.0  # seconds
HOST = "10.0.2.2"  # QEMU's user network: the host's loopback
CODE = re.compile(r"one-time code +([A-Z0-9]{4}-[A-Z0-9]{4})")
FINGERPRINT = re.compile(r"certificate +SHA-256\s+([0-9A-F:]+)\s+([0-9A-F:]+)")


@pytest.fixture(scope="module")
def sample(cache: Path) -> Sample:
    return build_sample("v9-gpt-lvm-ext4", cache=cache)


@pytest.fixture(scope="module")
def image(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    folded, image = folder / "folded.img", folder / "nas.raw.zst"
    onebay("fold", "--boot", sample.boot, "--data", sample.data, "--output", folded)
    onebay("capture", folded, image)
    folded.unlink()
    return image


@dataclass(slots=True)
class Visit:
    """A browser on the page of a machine in the rescue system."""

    guest: qemu.Running
    port: int
    page: Any  # playwright's; it has no types where it is not installed

    def console(self) -> str:
        return self.guest.output().replace("\r", "")

    def log_in(self) -> None:
        """Log in by the code on the console, after a wrong one, where the certificate is the one on it."""
        assert self.guest.wait("one-time code", PATIENCE, ("Kernel panic",)), self.console()[-3000:]
        told = FINGERPRINT.findall(self.console())[-1]
        pem = ssl.get_server_certificate(("127.0.0.1", self.port), timeout=60)
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        assert "".join(told).replace(":", "").lower() == found
        self.page.goto(f"https://127.0.0.1:{self.port}/")
        self.enter("AAAA-AAAA")
        assert self.page.get_by_role("alert").inner_text()
        self.enter(CODE.findall(self.console())[-1])
        self.page.get_by_role("heading", name="Disks").wait_for()

    def enter(self, code: str) -> None:
        self.page.get_by_label("One-time code").fill(code)
        self.page.get_by_role("button", name="Log in").click()

    def open(self, serial: str) -> None:
        """Go to the page of the disk with a serial number."""
        self.page.goto(f"https://127.0.0.1:{self.port}/")
        self.page.locator("article", has_text=serial).get_by_role("link", name="Open").click()

    def plan(self, verb: str, **fields: str) -> None:
        """Unfold the form of a verb, fill it, and ask for the plan."""
        form = self.page.locator(f"#do-{verb}")
        form.locator("summary").click()
        for name, value in fields.items():
            field = form.locator(f"[name={name}]")
            if field.evaluate("each => each.tagName") == "SELECT":
                option = field.locator("option", has_text=value)
                field.select_option(option.get_attribute("value"))
            else:
                field.fill(value)
        form.get_by_role("button", name="Show the plan").click()

    def confirm(self, word: str) -> None:
        """Type what confirms, after something else, and wait for the end of the job."""
        field = self.page.get_by_label(f"Type {word} to confirm")
        field.wait_for()
        for text in ("something else", word):
            field.fill(text)
            self.page.get_by_role("button", name="Do it").click()
        state = self.page.locator("strong.state")
        state.filter(has_text=re.compile("running|done")).wait_for()
        end = time.monotonic() + PATIENCE
        while state.inner_text() == "running":
            assert time.monotonic() < end
            time.sleep(1)
        assert state.inner_text() == "done", self.page.inner_text("body")

    def power(self, name: str) -> None:
        """Reboot or power off."""
        self.page.goto(f"https://127.0.0.1:{self.port}/")
        self.page.get_by_role("link", name=name).click()
        self.page.get_by_role("button", name="Yes").click()


@contextmanager
def visit(machine: qemu.Machine, port: int, scratch: Path) -> Iterator[Visit]:
    """Start a machine and open a browser on its page."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with (
        qemu.running(machine, scratch=scratch, serial=scratch / "serial.log") as guest,
        sync_api.sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(ignore_https_errors=True, viewport={"width": 900, "height": 640})
        page.set_default_timeout(PATIENCE * 1000)
        yield Visit(guest, port, page)
        browser.close()


def machine_of(
    rescue: Rescue, disks: tuple[qemu.Drive, ...], kind: str, scratch: Path, cache: Path, port: int
) -> qemu.Machine:
    """A machine with 256 MB that boots from its disk where that boots, else from the rescue's CD."""
    return qemu.Machine(
        (*disks, qemu.Drive(rescue.iso, bus="cd", readonly=True, boot_index=9)),
        accel=accel(cache),
        memory_mb=256,
        firmware=firmware(kind, scratch),
        forwards=((port, 443),),
        online=True,
        restart=True,
    )


def copy(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    target.chmod(0o600)
    return target


def boots(sample: Sample, disk: Path, scratch: Path, kind: Firmware, cache: Path) -> None:
    """The disk boots alone, and everything on its volume is there."""
    log = scratch / f"{kind}.log"
    found = boot(disk, log=log, firmware=kind, expect=sample.verdict, timeout=PATIENCE, accel=accel(cache))
    assert found.found, log.read_text()[-3000:]


@pytest.mark.parametrize("kind", ["bios", "uefi", "secure"])
def test_restore_on_the_page(
    rescue: Rescue, sample: Sample, image: Path, cache: Path, tmp_path: Path, kind: str
) -> None:
    disk, port = tmp_path / "disk.img", free_port()
    with disk.open("wb") as file:
        file.truncate(sample.data.stat().st_size + GROWTH)
    drive = qemu.Drive(disk, serial="ONLY-1", boot_index=1)
    machine = machine_of(rescue, (drive,), kind, tmp_path, cache, port)
    with Server(Object(image.read_bytes())) as server, visit(machine, port, tmp_path) as owner:
        owner.log_in()
        owner.open("ONLY-1")
        owner.plan("restore", url=server.url.replace("127.0.0.1", HOST))
        owner.page.get_by_label("Type ONLY-1 to confirm").wait_for()
        owner.page.screenshot(path=tmp_path / "plan.png")
        owner.confirm("ONLY-1")
        owner.page.screenshot(path=tmp_path / "done.png")
        owner.open("ONLY-1")
        owner.page.screenshot(path=tmp_path / "disk.png", full_page=True)
        if kind == "bios":
            owner.power("Reboot")
            assert owner.guest.wait(sample.verdict, owner.guest.seconds() + PATIENCE), owner.console()[-3000:]
            return
        # under UEFI the sample's GRUB wants more memory, and it is not signed
        owner.power("Power off")
        assert owner.guest.off(120)
    boots(sample, disk, tmp_path, "uefi", cache)


def test_fold_in_place_on_the_page(rescue: Rescue, sample: Sample, cache: Path, tmp_path: Path) -> None:
    data, usb, port = (
        copy(sample.data, tmp_path / "data.img"),
        copy(sample.boot, tmp_path / "b.img"),
        free_port(),
    )
    drives = (qemu.Drive(data, serial="DATA-1"), qemu.Drive(usb, serial="BOOT-1"))
    with visit(machine_of(rescue, drives, "bios", tmp_path, cache, port), port, tmp_path) as owner:
        owner.log_in()
        owner.open("DATA-1")
        owner.plan("fold", boot="vdb")
        owner.confirm("DATA-1")
        owner.power("Power off")
        assert owner.guest.off(120)
    for kind in ("bios", "uefi"):
        boots(sample, data, tmp_path, kind, cache)


def test_repair_on_the_page(rescue: Rescue, sample: Sample, image: Path, cache: Path, tmp_path: Path) -> None:
    disk, port = tmp_path / "disk.img", free_port()
    onebay("restore", image, disk)
    with disk.open("r+b") as file:  # boot code and primary table: what a careless tool overwrites
        file.write(bytes(34 * 512))
    drive = qemu.Drive(disk, serial="HURT-1", boot_index=1)
    with visit(machine_of(rescue, (drive,), "uefi", tmp_path, cache, port), port, tmp_path) as owner:
        owner.log_in()
        owner.open("HURT-1")
        owner.plan("repair")
        owner.confirm("HURT-1")
        owner.power("Power off")
        assert owner.guest.off(120)
    for kind in ("bios", "uefi"):
        boots(sample, disk, tmp_path, kind, cache)
