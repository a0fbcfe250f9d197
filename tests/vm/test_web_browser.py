"""A user restores, uploads and downloads on the page in a browser: Chromium, driven by Playwright.

With ONEBAY_SHOTS=FOLDER the pictures of docs/web.md are made there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onebay.machine.install import free_port
from tests.web.test_web_jobs import CONTENT, empty, onebay, serving
from tests.web.webclient import MIB, file_system, make_disk

pytestmark = pytest.mark.vm
PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module", autouse=True)
def only_with_matrix(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")


@dataclass
class Server:
    """A running `onebay web`, and what it printed last."""

    url: str
    process: subprocess.Popen[str]

    def code(self) -> str:
        """Return the one-time code that is printed next."""
        assert self.process.stderr is not None
        while line := self.process.stderr.readline():
            if match := re.match(r"one-time code (\S+)", line):
                return match[1]
        raise AssertionError("the server ended")


@contextmanager
def server(*options: str | Path) -> Iterator[Server]:
    port = free_port()
    argv = [sys.executable, "-m", "onebay", "web", "--listen", f"127.0.0.1:{port}", *map(str, options)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Server(f"https://127.0.0.1:{port}/", process)
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What a browser complains of, of its script or of its policy; a test ends without."""
    complaints: list[str] = []
    yield complaints
    # an answer of 403 is one that the tests ask for
    assert [text for text in complaints if "status of 403" not in text] == []


def enter(chromium: Any, site: Server, heard: list[str], **more: Any) -> Any:
    """Return a page that is logged in."""
    code = site.code()
    context = chromium.new_context(ignore_https_errors=True, locale="en-GB", **more)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    page.goto(site.url)
    assert page.title() == "Log in - onebay"
    page.get_by_label("One-time code").fill(code)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Disks").wait_for()
    return page


def picture(page: Any, name: str) -> None:
    """Keep a picture for the documents, where they are being made."""
    if folder := os.environ.get("ONEBAY_SHOTS"):
        page.screenshot(path=Path(folder) / f"web-{name}.png")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    path = folder / "nas.raw.zst"
    onebay("capture", make_disk(folder / "nas.img", 64 * MIB), path)
    return path


def open_action(page: Any, name: str) -> Any:
    """Unfold an action and return its box."""
    box = page.locator("details", has=page.locator("summary", has_text=re.compile(f"^{name}$")))
    box.locator("summary").click()
    return box


def confirm(page: Any, word: str) -> None:
    page.get_by_label(f"Type {word} to confirm").fill(word)
    page.get_by_role("button", name="Do it").click()


def test_restore_from_an_address(chromium: Any, heard: list[str], tmp_path: Path, image: Path) -> None:
    target = empty(tmp_path / "new.img", 192 * MIB)
    disk = make_disk(tmp_path / "nas.img", 96 * MIB)
    with server("--disk", disk, "--disk", target) as site, serving(image.parent) as port:
        page = enter(chromium, site, heard, viewport={"width": 1000, "height": 760})
        shown = page.locator("img").first
        shown.scroll_into_view_if_needed()
        page.wait_for_function("() => [...document.images].every((e) => e.naturalWidth > 0)")
        picture(page, "disks")
        page.get_by_role("link", name="new.img", exact=True).click()
        box = open_action(page, "Restore")
        box.get_by_label("Address").fill(f"http://127.0.0.1:{port}/{image.name}")
        box.get_by_role("button", name="Show the plan").click()
        page.get_by_text("that matter of a disk of").wait_for()
        picture(page, "plan")
        page.get_by_label("Type new.img to confirm").fill("nas.img")
        page.get_by_role("button", name="Do it").click()
        page.get_by_role("alert").filter(has_text="Nothing was written").wait_for()
        assert not any(target.read_bytes())
        confirm(page, "new.img")
        page.locator("#now strong.done").wait_for()
        page.get_by_text("new.img: restored").wait_for()
        picture(page, "job")
    assert file_system(target)[1] == CONTENT


def test_upload_and_download(chromium: Any, heard: list[str], tmp_path: Path, image: Path) -> None:
    target = empty(tmp_path / "new.img", 128 * MIB)
    with server("--disk", target) as site:
        page = enter(chromium, site, heard)
        page.get_by_role("link", name="new.img", exact=True).click()
        box = open_action(page, "Restore from this device")
        box.get_by_label("Image (.raw.zst)").set_input_files(image)
        box.get_by_role("button", name="Show the plan").click()
        page.get_by_text("that matter of a disk of").wait_for()
        confirm(page, "new.img")
        page.locator("#now strong.done").wait_for()
        assert file_system(target)[1] == CONTENT
        page.get_by_role("link", name="Back to the disk").click()
        box = open_action(page, "Capture")
        box.get_by_role("button", name="Show the plan").click()
        page.get_by_role("button", name="Do it").click()
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Start the download").click()
        got = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(got)
    assert got.name == "new.img.raw.zst"
    onebay("verify", got, "--against", target)


def test_without_script_by_keyboard_on_a_phone_in_chinese(
    chromium: Any, heard: list[str], tmp_path: Path
) -> None:
    """Nothing but Tab, Enter and typing, on a narrow dark screen, without JavaScript."""
    disk = make_disk(tmp_path / "nas.img", 96 * MIB)
    with server("--disk", disk) as site:
        page = enter(
            chromium,
            site,
            heard,
            java_script_enabled=False,
            viewport={"width": 360, "height": 740},
            color_scheme="dark",
        )
        page.get_by_role("link", name="简体中文").press("Enter")
        page.get_by_role("heading", name="磁盘").wait_for()
        picture(page, "phone")
        page.get_by_role("link", name="nas.img", exact=True).press("Enter")
        summary = page.locator("summary", has_text=re.compile("^扩容$"))
        summary.press("Enter")
        page.locator("#do-grow").get_by_role("button", name="显示计划").press("Enter")
        field = page.get_by_label("输入 nas.img 以确认")
        field.wait_for()
        field.press_sequentially("nas.img")
        field.press("Enter")
        page.locator("#now strong.done").wait_for()
    assert file_system(disk)[0] > 90 * MIB


def test_names_labels_and_landmarks(chromium: Any, heard: list[str], tmp_path: Path) -> None:
    """Each field has a label, each page its landmarks and one first heading, each picture a text."""
    disk = make_disk(tmp_path / "nas.img", 64 * MIB)
    with server("--disk", disk, "--images", tmp_path) as site:
        page = enter(chromium, site, heard, viewport={"width": 360, "height": 740})
        page.get_by_role("link", name="nas.img", exact=True).click()
        page.get_by_role("heading", name="What to do").wait_for()
        for at in range(page.locator("details").count()):
            page.locator("details > summary").nth(at).click()
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('input:not([type=hidden]), select, button, progress')]
                .filter((e) => !(e.labels && e.labels.length) && !e.textContent && !e.ariaLabel)
                .map((e) => e.outerHTML)"""
        )
        assert unnamed == []
        assert page.locator("h1").count() == 1
        for role in ("main", "banner"):
            assert page.get_by_role(role).count() == 1
        assert page.evaluate("[...document.images].every((e) => e.alt)")
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.keyboard.press("Home")
        page.get_by_role("link", name="Skip to content").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.activeElement.id === 'main'")
