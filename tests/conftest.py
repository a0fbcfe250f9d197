"""Options and fixtures of all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="run the whole boot matrix, not one of each")


def pytest_configure() -> None:
    # a busy machine is slow, and that is no finding
    settings.register_profile("onebay", deadline=None)
    settings.load_profile("onebay")
    # what starts in the background of a script ignores Ctrl-C, and so would the programs that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where sample appliances and worker machines are kept between runs, outside the repository."""
    base = os.environ.get("ONEBAY_CACHE") or Path.home() / ".cache" / "onebay"
    path = Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path
