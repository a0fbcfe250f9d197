"""Which steps of a plan go through the journal together."""

from __future__ import annotations

import pytest

from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, Step, Write, Zero
from onebay.block import Overlay
from onebay.ops.run import Plan, execute, same_change, sections
from tests.crash.test_crash_journal import Nothing

MIB = 1 << 20
DISK = Overlay(Nothing(8 * MIB))


def step(letter: str, at: int = 0) -> Step:
    """w: ordinary write, z: zeros, c: critical write, f: barrier."""
    match letter:
        case "w":
            return Write(DISK, at, b"w", "ext: ordinary")
        case "z":
            return Zero(DISK, at, 512, "critical: but zeros are never journaled")
        case "c":
            return Write(DISK, at, b"c", "critical: ext: in place")
        case _:
            return Flush(DISK)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("", []),
        ("w", ["w"]),
        ("c", ["C"]),
        ("wfwf", ["wfwf"]),
        ("wfcf", ["wf", "C", "f"]),
        ("cfcf", ["CFC", "f"]),
        ("cffcfwf", ["CFFC", "fwf"]),
        ("cwc", ["C", "w", "C"]),
        ("czc", ["C", "z", "C"]),
        ("fcf", ["f", "C", "f"]),
        ("wwfccfcfwcf", ["wwf", "CCFC", "fw", "C", "f"]),
    ],
)
def test_sections(plan: str, expected: list[str]) -> None:
    """Capitals are critical; barriers between critical writes belong to them, those behind do not."""
    steps = [step(letter) for letter in plan]
    found = list(sections(steps))
    assert [item for _, part in found for item in part] == steps
    names = {id(item): letter for item, letter in zip(steps, plan, strict=True)}
    text = ["".join(names[id(item)] for item in part) for _, part in found]
    assert [t.upper() if critical else t for (critical, _), t in zip(found, text, strict=True)] == expected


def test_what_a_change_stands_on() -> None:
    """Writes whose reason begins as that of the critical one; not its own kind of another layer."""
    done: list[Step] = [
        Write(DISK, 0, b"12345678", "md: the array is larger"),
        Write(DISK, 512, b"12345678", "ext: new block groups"),
        Zero(DISK, 1024, 512, "ext: new block groups"),
        Write(DISK, 2048, b"1234", "critical: ext: an earlier part"),
    ]
    critical = Write(DISK, 4096, b"x", "critical: ext: superblock")
    assert same_change(done, critical) == ExtentSet.of([(512, 520), (2048, 2052)])


def test_without_a_journal_all_is_written() -> None:
    disk = Overlay(Nothing(8 * MIB))
    execute(Plan("grow", disk, [Write(disk, 0, b"abc", "critical: ext: x"), Flush(disk)]))
    assert disk.read(0, 4) == b"abc\0"
