"""The benchmark's statistics and verdicts: pure functions, and what they refuse to make up."""

from __future__ import annotations

from typing import Any

import pytest

from bench.goals import Verdict, best, values, verdicts
from bench.quick import compare, relative
from bench.stats import interleaved, ratio, spread
from bench.work import free_runs


def rounds(*walls: float, failure: str = "") -> dict[str, Any]:
    """Return an entry with rounds of these seconds."""
    numbers = [
        {"wall": wall, "user": wall, "system": 0.0, "size": 100 * wall, "largest": 1000} for wall in walls
    ]
    return {"rounds": numbers, "checks": [], "failure": failure, "skipped": ""}


def judged(entries: dict[str, Any]) -> list[Verdict]:
    """Return the verdicts on a restore."""
    found = verdicts({"works": {"x": {"verbs": {"restore": entries}}}})
    return [each for each in found if "memory" not in each.goal]


def test_spread() -> None:
    assert (spread([3, 1, 2]).median, spread([3, 1, 2]).least, spread([3, 1, 2]).most) == (2, 1, 3)
    assert spread([1, 2]).median == 1.5
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


def test_a_ratio_is_of_medians() -> None:
    assert ratio([1, 2, 900], [4, 1, 4]) == 0.5
    with pytest.raises(ValueError, match="no rounds"):
        ratio([], [1])
    with pytest.raises(ValueError, match="nothing to compare"):
        ratio([1], [0, 0])


def test_turns() -> None:
    assert list(interleaved(["a", "b"], 2)) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


def test_a_failed_entry_has_no_numbers() -> None:
    """Also where rounds were left behind: it is never the best peer, and reaches no goal."""
    entries = {
        "onebay": rounds(2, 2),
        "zstd-dd": rounds(1, failure="what it made is wrong"),
        "casync": rounds(4),
    }
    assert values(entries, "zstd-dd", "wall") == []
    assert best(entries) == ("casync", 0.5)
    broken = {"onebay": rounds(1, failure="no"), "qemu-img": rounds(4)}
    assert best(broken) is None
    assert judged(broken) == []


def test_the_floor_is_no_peer_and_its_slower_half_counts() -> None:
    entries = {
        "onebay": rounds(2),
        "floor-decode": rounds(1),
        "floor-write": rounds(1.7),
        "qemu-img": rounds(2),
    }
    assert best(entries) == ("qemu-img", 1.0)
    found = {(each.goal, each.reached): each.found for each in judged(entries)}
    assert found["restore: time at most 0.9 of qemu-img", False] == 1.0
    assert found["restore: time at most 1.25 of floor-decode or floor-write", True] == pytest.approx(2 / 1.7)
    del entries["floor-write"]
    texts = [each.goal for each in judged(entries)]
    assert not [text for text in texts if "floor" in text], "half a floor is none"


def test_memory_is_the_peak_of_all() -> None:
    high = rounds(1)
    high["rounds"][0]["largest"] = 301_000_000
    result = {
        "works": {
            "a": {"verbs": {"verify": {"onebay": rounds(1)}}},
            "b": {"verbs": {"grow": {"onebay": high}}},
        }
    }
    (verdict,) = verdicts(result)
    assert (verdict.work, verdict.found, verdict.reached) == ("b, grow", 301, False)


def test_the_guard() -> None:
    found = {"data": rounds(2, 3), "python": rounds(1), "help": rounds(0.5), "capture": rounds(9, 4)}
    now = relative(found)
    assert now == {"help": 0.5, "capture": 2.0}
    said: list[str] = []
    assert compare(now, {"help": 0.5, "capture": 1.5}, said.append) == ["capture"]
    assert compare(now, {"help": 0.41}, said.append) == []
    with pytest.raises(ValueError, match="verify failed: broken"):
        relative({**found, "verify": rounds(failure="broken")})


def test_free_blocks_of_dumpe2fs() -> None:
    text = "  Free blocks: 5-7, 9\n  Free inodes: 1-3\n  Free blocks: \n  Free blocks: 10-10, 20-29\n"
    assert free_runs(text) == [(5, 8), (9, 11), (20, 30)]
