"""Judge very many states of a disk by few real looks at them.

Whatever looks at a disk is a program whose only input is what it reads. Two states that agree in all sectors
that one look read get the same answer, by reason and not by luck. So answers are kept in a tree: each node is
the next sector that the look reads, each branch one content of it. A state walks down; where it leaves the
tree, the look is really taken and its reads become a new branch.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

from onebay.block import Volume
from tests.crash.recording import GRAIN, Content, Log, Replayed

T = TypeVar("T")
LONG = 2500  # sectors


@dataclass
class Node:
    """The next sector that a look reads."""

    sector: int
    branches: dict[bytes | None, object] = field(default_factory=dict)


class Watched(Replayed):
    """A state that notes which sectors of the log are read, in order."""

    def __init__(self, base: Volume, content: Content, universe: list[int]) -> None:
        super().__init__(base, content, universe)
        self.path: list[int] = []
        self.seen: set[int] = set()

    def read(self, at: int, size: int) -> bytes:
        end = -(-(at + size) // GRAIN)
        index = bisect_left(self.universe, at // GRAIN)
        while index < len(self.universe) and self.universe[index] < end:
            if self.universe[index] not in self.seen:
                self.seen.add(self.universe[index])
                self.path.append(self.universe[index])
            index += 1
        return super().read(at, size)


class Memo(Generic[T]):
    """Answers of `look` for states of one log; `looks` counts those really taken."""

    def __init__(self, log: Log, look: Callable[[Volume], T]) -> None:
        self.log, self.look = log, look
        self.root: object = None
        self.answers: list[T] = []
        self.looks = 0

    def ask(self, content: Content) -> T:
        """Return the answer for a state."""
        node: object = self.root
        while isinstance(node, Node):
            node = node.branches.get(content.get(node.sector))
        if isinstance(node, int):
            return self.answers[node]
        return self.take(content)

    def take(self, content: Content) -> T:
        """Really look, and keep the answer."""
        self.looks += 1
        watched = Watched(self.log.base, dict(content), self.log.universe)
        self.answers.append(self.look(watched))
        number = len(self.answers) - 1
        if len(watched.path) > LONG:  # a journal of megabytes: few states would share the answer
            return self.answers[number]
        if not watched.path:
            self.root = number
            return self.answers[number]
        node = self.root = self.root or Node(watched.path[0])
        assert isinstance(node, Node)
        for here, after in pairwise([*watched.path, None]):
            assert node.sector == here, "a look reads different things in the same state"
            branch = content.get(here)
            if after is None:
                node.branches[branch] = number
                break
            node = node.branches.setdefault(branch, Node(after))
            assert isinstance(node, Node)
        return self.answers[-1]


def digest(content: Content) -> bytes:
    """Return what tells states apart."""
    hashed = hashlib.blake2b(digest_size=16)
    for sector in sorted(content):
        hashed.update(sector.to_bytes(8, "little"))
        hashed.update(content[sector])
    return hashed.digest()
