"""The cache builds once, and shows only what is whole."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from onebay.base.error import ToolFailed
from onebay.machine.cache import built, recipe_key


def test_key_changes_with_every_part() -> None:
    keys = {
        recipe_key({"a": "1", "b": "2"}),
        recipe_key({"a": "1", "b": "3"}),
        recipe_key({"a": "12", "b": ""}),
        recipe_key({"a": "1"}),
        recipe_key({"a1": "", "b": "2"}),
    }
    assert len(keys) == 5
    assert recipe_key({"a": "1", "b": "2"}) == recipe_key({"b": "2", "a": "1"})


def test_built_once_by_many(tmp_path: Path) -> None:
    calls: list[Path] = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("x")

    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(built(tmp_path, "n", "k", build))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert set(found) == {tmp_path / "n-k"}
    assert (tmp_path / "n-k" / "x").read_text() == "x"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ToolFailed("no")

    with pytest.raises(ToolFailed):
        built(tmp_path, "n", "k", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["n-k.lock"]
    assert built(tmp_path, "n", "k", lambda folder: None).is_dir()
