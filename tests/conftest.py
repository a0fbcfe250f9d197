"""Options and fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="run the whole boot matrix, not one of each")


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where sample appliances and worker machines are kept between runs, outside the repository."""
    base = os.environ.get("ONEBAY_CACHE") or Path.home() / ".cache" / "onebay"
    path = Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path
