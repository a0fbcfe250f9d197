"""An owner installs the sample in a browser: Chromium, driven by Playwright, on the page that it is given."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from onebay.machine.install import free_port
from onebay.sample.build import build
from onebay.sample.page import INSTALLER, MANAGER, Page
from onebay.sample.payload import payload
from tests.story import inspect

pytestmark = pytest.mark.vm

PATIENCE = 1800
VERDICT = "ONEBAY-MANIFEST OK"


def wait_for(page: Page, title: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while page.title() != title:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(2)


def test_in_a_browser(tmp_path: Path, cache: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    sync_api = pytest.importorskip("playwright.sync_api")
    sample, package, port = build("v9-gpt-lvm-ext4", cache=cache), payload(cache), free_port()
    disk = tmp_path / "nas.img"
    argv = [
        "install", "--boot", sample.boot, "--size", "14G", "--output", disk, "--forward", f"{port}:5000",
        "--expect", VERDICT, "--cache", cache,
    ]  # fmt: skip
    command = [sys.executable, "-m", "onebay", *map(str, argv)]
    with (
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process,
        sync_api.sync_playwright() as playwright,
    ):
        try:
            wait_for(Page(port), INSTALLER, process)
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 800, "height": 480})
            page.set_default_timeout(PATIENCE * 1000)
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_label("Package (.pat)").set_input_files(package)
            page.get_by_role("button", name="Install").click()
            page.get_by_text("verifying the package").wait_for()
            page.screenshot(path=tmp_path / "installer.png")
            page.get_by_text("installed; the appliance restarts").wait_for()
            wait_for(Page(port), MANAGER, process)
            page.goto(f"http://127.0.0.1:{port}/")
            page.locator("select").select_option("lvm-ext4")
            page.get_by_role("button", name="Create a volume").click()
            page.get_by_text("the volume is made: lvm-ext4").wait_for()
            page.get_by_role("button", name="Power off").click()
            browser.close()
            _, said = process.communicate(timeout=2 * PATIENCE)
        finally:
            process.terminate()
    assert process.returncode == 0, said
    assert "boots by itself" in said
    assert (tmp_path / "installer.png").read_bytes().startswith(b"\x89PNG")
    found = inspect(disk)
    assert found["appliance"]["name"]
    assert {path["firmware"]: path["works"] for path in found["boot"]} == {"bios": True, "uefi": True}
