"""How far a child is that speaks events (docs/events.md): what a status file and a webhook say of it."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any

WINDOW = 20.0  # seconds over which the rate is measured
LINES = 12  # of what it says that are kept


class Heard:
    """What a child has said so far: the work under way, in bytes, and its last lines for people."""

    def __init__(self) -> None:
        self.op = self.note = ""
        self.total = self.done = 0
        self.marks: deque[tuple[float, int]] = deque(maxlen=256)
        self.lines: deque[str] = deque(maxlen=LINES)

    def hear(self, line: str) -> bool:
        """Take a line of its standard error; returns whether somebody should be told at once."""
        event = parse(line)
        match event:
            case {"event": "began", "op": str(op), "total": int(total)}:
                self.op, self.total, self.done, self.note = op, total, 0, ""
                self.marks.clear()
                self.marks.append((time.monotonic(), 0))
                return True
            case {"event": "moved", "done": int(done)}:
                self.move(done)
                return False
            case {"event": "noted" | "warned", "text": str(text)}:
                self.note = text
                return True
            case {}:
                return False
        if line.strip():
            self.lines.append(line.strip())
        return False

    def move(self, done: int) -> None:
        """Note how far it is."""
        now = time.monotonic()
        self.done = done
        if now - self.marks[-1][0] >= WINDOW / 200 if self.marks else True:
            self.marks.append((now, done))
        while len(self.marks) > 2 and now - self.marks[0][0] > WINDOW:
            self.marks.popleft()

    def rate(self) -> float:
        """Bytes per second, 0 where that is not known."""
        if not self.marks:
            return 0.0
        (first, start), last = self.marks[0], time.monotonic()
        return max(0.0, (self.done - start) / (last - first)) if last > first else 0.0

    def figures(self) -> dict[str, Any]:
        """Return share (0 to 1), rate (bytes per second), time left (seconds), done and total (bytes)."""
        rate = self.rate()
        left = (self.total - self.done) / rate if rate >= 1 and self.total else None
        return {
            "share": min(1.0, self.done / self.total) if self.total else None,
            "rate": round(rate),
            "left": None if left is None else round(max(0.0, left)),
            "done": self.done,
            "total": self.total,
        }


def parse(line: str) -> dict[str, Any] | None:
    """Return the event in a line, None where it is text."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "event" in event else None
