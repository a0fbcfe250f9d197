"""JSON as fuzzing input: a document with values replaced, removed or moved; or any text.

byte 0   even: the rest is the text itself; odd: the rest are records
record   which node (1 byte), what becomes of it (1 byte)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fuzz.recipe import Tape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_CHANGES = 8
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        5,
        255,
        1 << 32,
        1 << 63,
        1 << 64,
        10**30,
        1.5,
        float("inf"),
        float("nan"),
    ),
    *("", "0", "5", "-1", "x", "\ud800", "\0", "9" * 30, "1e3", "\u0664", "a" * 100),
    *([], {}, [0], [5], ["5"], [[0, 1]], [[1, 0]], [{}], [None], {"0": {}}, {"5": 5}, {"x": "y"}, {"-1": []}),
)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything in a document."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from nodes(value[key])


def change(document: Any, tape: Tape) -> Any:
    """Return the document with one change."""
    places = list(nodes(document))
    number, kind = tape.number(1), tape.number(1)
    value = json.loads(json.dumps(VALUES[kind % len(VALUES)]))
    if not places or number == 255:
        return value
    holder, key = places[number % len(places)]
    if kind < 200:
        holder[key] = value
    elif kind < 220:
        del holder[key]
    elif kind < 240 or not isinstance(holder, dict):
        other, there = places[kind * 7 % len(places)]
        holder[key] = json.loads(json.dumps(other[there]))
    else:
        holder[("", "0", "5", "x", "-1")[kind % 5]] = holder.pop(key)
    return document


def text(data: bytes, seed: Callable[[], bytes]) -> bytes:
    """Return the text that the fuzzer's bytes stand for."""
    tape = Tape(data)
    if tape.number(1) % 2 == 0:
        return data[1:]
    document = json.loads(seed())
    for _ in range(MAX_CHANGES):
        if tape.left:
            document = change(document, tape)
    return json.dumps(document, separators=(",", ":")).encode()


def reader(read: Callable[[bytes], None], seed: Callable[[], bytes]) -> Callable[[bytes], None]:
    """Make what runs an input of something that reads the text."""
    return lambda data: read(text(data, seed))


def starts(seed: Callable[[], bytes]) -> Callable[[], list[bytes]]:
    """Return the inputs to begin with: the text, and no change of it."""
    return lambda: [b"\0" + seed(), b"\1"]
