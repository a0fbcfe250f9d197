"""What the benchmark measures of real programs: all of a pipeline, orphans too, no number for a failure."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from bench.measure import Job, Pipeline, adopt, measure, one

SPIN = "import time\nwhile time.process_time() < {}: pass"


def spin(seconds: float) -> tuple[str, ...]:
    """Return a program that takes so many processor seconds."""
    return sys.executable, "-c", SPIN.format(seconds)


def test_every_process_of_a_pipeline_counts() -> None:
    done = measure(Job((Pipeline((spin(0.4), spin(0.4))), one(*spin(0.2)))))
    assert not done.failure
    assert done.cpu >= 1.0


def test_an_orphan_counts_too() -> None:
    """A program that ends before its child: the child's time is waited for, and added."""
    adopt()
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SPIN.format(0.5)!r}])"
    began = time.monotonic()
    done = measure(Job((one(sys.executable, "-c", code),)))
    assert not done.failure
    assert done.cpu >= 0.5
    assert time.monotonic() - began >= 0.5


def test_memory(tmp_path: Path) -> None:
    """The peak, of a program that held it for a moment; and of two that hold it at once."""
    hold = (sys.executable, "-c", "import time; held = b'x' * (60 << 20); time.sleep(0.6)")
    done = measure(Job((Pipeline((hold, hold)),)))
    assert 60 << 20 < done.largest < 110 << 20
    assert done.together > 120 << 20


def test_bytes_written(tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = measure(Job((Pipeline((("head", "-c", "8M", "/dev/zero"),), target),), (target,)))
    assert target.stat().st_size == 8 << 20
    assert 8 << 20 <= done.written < 9 << 20


@pytest.mark.parametrize(
    ("programs", "text"),
    [
        ((("false",), ("cat",)), "false ended with status 1"),
        ((("echo",), ("sh", "-c", "cat >/dev/null; echo why >&2; exit 3")), "sh ended with status 3; why"),
        ((("no-such-program-of-ours",),), "no-such-program-of-ours: No such file"),
        ((("sleep", "30"), ("no-such-program-of-ours",)), "no-such-program-of-ours: No such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failure_is_told(programs: tuple[tuple[str, ...], ...], text: str) -> None:
    began = time.monotonic()
    assert text in measure(Job((Pipeline(programs), one("sleep", "30")))).failure
    assert time.monotonic() - began < 20, "what follows a failure is not run"


def test_what_does_not_end_is_ended() -> None:
    done = measure(Job((Pipeline((("sh", "-c", "sleep 60 & sleep 60"), ("cat",))),)), timeout=0.5)
    assert "did not end" in done.failure
    assert done.wall < 20
