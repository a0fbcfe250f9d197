"""How much is replayed, the miniature appliances, and the count of it all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from onebay.sample.build import Sample, build_mini

CASES = [
    ("v9-gpt-lvm-ext4", 512),
    ("v8-mbr-btrfs", 512),
    ("shr-mbr-lvm-btrfs", 512),
    ("v9-gpt-lvm-ext4", 4096),
]
# What make test replays of each module; make crash replays all.
QUICK = {
    "grow": {("v9-gpt-lvm-ext4", 4096), ("shr-mbr-lvm-btrfs", 512)},
    "fold": {("v8-mbr-btrfs", 512), ("v9-gpt-lvm-ext4", 512)},
    "togpt": {("shr-mbr-lvm-btrfs", 512)},
    "restore": {("tiny", 512), ("v9-gpt-lvm-ext4", 4096)},
}
QUICK_DAMAGE = {("v8-mbr-btrfs", 512, "manager"), ("v9-gpt-lvm-ext4", 512, "fats")}
TALLY: dict[str, Counter[str]] = {}


@pytest.fixture(scope="session")
def thorough() -> bool:
    """Whether everything is replayed (make crash) or a seeded part of it (make test)."""
    return bool(os.environ.get("ONEBAY_CRASH"))


def verb(request: pytest.FixtureRequest) -> str:
    """Name of the verb that a test module is about."""
    return str(request.module.__name__).rpartition(".")[2].removeprefix("test_crash_")


def wanted(request: pytest.FixtureRequest) -> tuple[str, int]:
    """Return layout and sector size of a case; skips what only make crash replays."""
    if not os.environ.get("ONEBAY_CRASH") and request.param not in QUICK[verb(request)]:
        pytest.skip("only with make crash")
    name, sector_size = request.param
    return name, sector_size


def wanted_damage(request: pytest.FixtureRequest) -> tuple[str, int, str]:
    """Return layout, sector size and damage of a case; skips what only make crash replays."""
    if not os.environ.get("ONEBAY_CRASH") and request.param not in QUICK_DAMAGE:
        pytest.skip("only with make crash")
    name, sector_size, what = request.param
    return name, sector_size, what


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """Counts by what was counted; printed at the end, for each test module."""
    return TALLY.setdefault(verb(request), Counter())


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def sample(request: pytest.FixtureRequest, cache: Path) -> Sample:
    name, sector_size = wanted(request)
    return build_mini(name, cache=cache, sector_size=sector_size)


@pytest.fixture(scope="session", autouse=True)
def still_clock() -> Iterator[None]:
    """Let e2fsprogs write the same time always, so that two runs can be compared to the byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2FSPROGS_FAKE_TIME", "1700000000")
        patch.setenv("E2FSCK_TIME", "1700000000")
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts."""
    total = sum(counts["states"] for counts in TALLY.values())
    if not total:
        return
    terminalreporter.section("power cuts replayed")
    for name, counts in sorted(TALLY.items()):
        text = ", ".join(f"{counts[what]} {what}" for what in sorted(counts, key=counts.__getitem__)[::-1])
        terminalreporter.line(f"{name}: {text}")
    terminalreporter.line(f"together: {total} states of a disk after a power cut, none lost")
