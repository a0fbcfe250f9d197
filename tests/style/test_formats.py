"""Whoever adds a format adds real images of it, their recipe, and a page that says what is done with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebay.tree import PROBES

ROOT = Path(__file__).parents[2]
FORMATS = ROOT / "tests" / "format"
PAGES = ROOT / "docs" / "format"
FOLDERS = {"table": ("mbr", "gpt"), "name": ("names",)}
OTHER_PAGES = ("grub", "settings")  # what is read and written, but is no layer
KINDS = sorted({folder for probe in PROBES for folder in FOLDERS.get(probe.kind, (probe.kind,))})
# What every page must speak of: what we read, what we write, what we do not do, what was read to know it.
TOPICS = (("read",), ("writ",), ("refuse", "kept whole", "not supported"), ("source",))


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_has_golden_images(kind: str) -> None:
    """Made by the field's own tools: the recipe and what the tools say of them lie beside them."""
    folder = FORMATS / kind
    images = sorted(folder.glob("*.img.zst"))
    assert images, f"{folder.relative_to(ROOT)} has no golden image"
    assert (folder / "make.sh").is_file()
    assert (folder / "expected.json").is_file()
    tests = [path.read_text("utf-8") for path in folder.glob("test_*.py")]
    looked_at = any(".zst" in test or "golden(" in test for test in tests)
    assert looked_at, f"no test in {folder.relative_to(ROOT)} looks at the images"
    for image in images:
        assert image.stat().st_size < 200_000, f"{image.name} is too large to be committed"


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_has_a_page(kind: str) -> None:
    page = PAGES / f"{kind}.md"
    assert page.is_file(), f"{page.relative_to(ROOT)} is missing"
    text = page.read_text("utf-8").lower()
    missing = [topic for topic in TOPICS if not any(word in text for word in topic)]
    assert not missing, f"{page.name} does not say what is {missing}"


def test_no_folder_without_a_probe() -> None:
    """A folder or page without one is a leftover, or the probe was forgotten."""
    folders = {path.name for path in FORMATS.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders <= set(KINDS)
    assert {path.stem for path in PAGES.glob("*.md")} <= {*KINDS, *OTHER_PAGES}
