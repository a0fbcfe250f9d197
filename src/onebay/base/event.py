"""What a running verb tells the outside: events, a contract with version (docs/events.md).

The core emits freely; whoever renders limits the rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Began:
    """Work `op` on `what` starts; `total` is in bytes, 0 where it is not known."""

    op: str
    what: str
    total: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """Of work `op`, `done` bytes are done."""

    op: str
    done: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Work `op` is done after `seconds`."""

    op: str
    seconds: float
    result: str = ""


@dataclass(frozen=True, slots=True)
class Noted:
    """Something worth a line."""

    text: str
    volume: str = ""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user must know although work goes on."""

    text: str
    volume: str = ""


Event = Began | Moved | Ended | Noted | Warned
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event; the default of every `report` argument."""
