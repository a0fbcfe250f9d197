"""The rules of the house, as tests: imports go down only, programs run in one place, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "onebay"
# Lowest first; what stands on one line does not import from its neighbours.
FLOORS = (
    ("base",),
    ("block",),
    ("layer",),
    ("table", "stack", "fs", "boot"),
    ("tree",),
    ("image", "source"),
    ("ops",),
    ("machine",),
    ("sample",),
    ("rescue", "web"),
    ("cli",),
)
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__main__.py")
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
BROAD_ALLOWED = 0  # `except Exception` is allowed at the CLI's top and in a job runner; neither needs it yet


def room(path: Path) -> str:
    """The folder or top-level module that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms of onebay that a file imports from, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "onebay":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("onebay.")}
    return found & set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        assert not imports(path)
        return
    wrong = {other for other in imports(path) if other != here and FLOOR[other] >= FLOOR[here]}
    assert not wrong, f"{path}: {here} imports {sorted(wrong)}"


def test_every_room_has_its_floor() -> None:
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert rooms == set(FLOOR)


def test_programs_run_in_one_place() -> None:
    users = [path for path in FILES if "import subprocess" in path.read_text()]
    assert users == [SOURCE / "base" / "tool.py"]


def test_devices_are_touched_in_block_only() -> None:
    for path in FILES:
        if room(path) == "block":
            continue
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        # guest paths inside worker scripts and docstrings are not ours to touch; an exact path would be
        bad = [text for text in strings if text.startswith("/sys/") or text in ("/dev", "/proc/swaps")]
        assert not bad, f"{path}: {bad}"


def test_broad_excepts_are_counted() -> None:
    count = 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                name = getattr(node.type, "id", None)
                count += node.type is None or name in ("Exception", "BaseException")
    assert count == BROAD_ALLOWED


def test_environment_is_read_in_cli_only() -> None:
    allowed = {SOURCE / "base" / "tool.py"}  # passes the environment on to programs
    for path in FILES:
        if room(path) != "cli" and path not in allowed:
            assert "os.environ" not in path.read_text(), path


def test_files_and_functions_stay_readable(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = sorted(((len(path.read_text().splitlines()), path) for path in FILES), reverse=True)
    with capsys.disabled():
        text = ", ".join(f"{path.relative_to(SOURCE)} {lines}" for lines, path in sizes[:10])
        print(f"\nlargest files: {text}")
    assert sizes[0][0] <= 450
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 70, f"{path}: {node.name} has {length} lines"


@pytest.mark.parametrize(
    "argv",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=lambda argv: " ".join(argv[:2]),
)
def test_linters(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_files_of_tests_share_a_name() -> None:
    """Pytest imports a file of tests by its bare name, and refuses the second."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
