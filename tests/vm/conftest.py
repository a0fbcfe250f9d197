"""Fixtures of the tests in virtual machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebay.rescue.build import Choice, Rescue, build


@pytest.fixture(scope="session")
def only_with_matrix(request: pytest.FixtureRequest) -> None:
    """Skip what takes too long for every run."""
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")


@pytest.fixture(scope="session")
def rescue(only_with_matrix: None, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Rescue:
    """Build the rescue system, once for all tests."""
    return build(tmp_path_factory.mktemp("rescue") / "out", Choice(), cache=cache)
