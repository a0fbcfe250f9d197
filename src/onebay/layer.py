"""What is found on volumes: layers, members of groups, suspects; and what can be wrong with them.

A layer answers in its own coordinates and never looks further than its neighbours. A format module offers

    probe(volume) -> Layer | Member | Suspect | None
    assemble(members) -> Layer | Suspect             only formats whose layer stands on several volumes

None means "not mine"; a Suspect means "mine, but damaged" and is a value, not an exception.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from onebay.base.error import Unsupported
from onebay.base.extent import ExtentSet
from onebay.block.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.base.step import Step

__all__ = ["Finding", "Layer", "Member", "Severity", "Suspect", "Value", "Volume", "Whole"]

Value = str | int | bool | None | list["Value"] | dict[str, "Value"]
# "note": worth knowing; "warning": should be mended; "damage": data may be lost, or it does not boot.
Severity = str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that inspect shows: `kind` is a stable word for programs, `text` is for people."""

    severity: Severity
    kind: str
    text: str
    volume: str
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """`volume` claims to be of `kind` but breaks its rules; `evidence` says where and how."""

    kind: str
    volume: Volume
    evidence: str
    at: int | None = None


@dataclass(frozen=True)
class Member:
    """One member of a group: `volume` is number `slot` of the group `key` (a UUID), which wants `of` members.

    `detail` is what the format module wants to see again in `assemble`.
    """

    kind: str
    volume: Volume
    key: str
    slot: int
    of: int
    detail: object = field(default=None, compare=False)


class Layer(abc.ABC):
    """One format found on the volumes `below`, offering the volumes `above` (none for a file system).

    `growth` and `shrinkage` say for people (docs/resize.md) whether it can get another size, and how.
    """

    kind: ClassVar[str]
    growth: ClassVar[str] = "keeps its size"
    shrinkage: ClassVar[str] = "keeps its size"
    below: tuple[Volume, ...]
    above: tuple[Volume, ...] = ()

    @property
    def title(self) -> str:
        """Short name for people, as `ext4` or `md raid1`."""
        return self.kind

    @abc.abstractmethod
    def facts(self) -> Mapping[str, Value]:
        """Documented properties for `inspect --json`: identities, sizes in bytes; cheap to answer."""

    @abc.abstractmethod
    def used(self) -> tuple[ExtentSet, ...]:
        """Bytes of each volume below that the layer needs: own metadata, a file system's allocated blocks.

        The space of `above` is not in it: who stands there answers for that.
        """

    def keep_whole(self) -> str | None:
        """Say why `used` cannot be trusted (journal to replay, log tree, ...), or None where it can."""
        return None

    def used_bytes(self) -> int | None:
        """Allocated bytes by the format's own counters, without a walk; None where it has none."""
        return None

    def check(self) -> list[Finding]:
        """Look for what is wrong, cheaply; an empty list is the good case."""
        return []

    def plan_grow(self) -> list[Step]:
        """Return the steps that make the layer fill its volumes; an empty list where it already does.

        A table gives new space to its last data partition, a volume group to its largest volume. Raises
        Unsupported where the layer cannot grow; nothing above has grown yet and will be asked afterwards.
        """
        return []

    def floor(self) -> int:
        """Bytes that the volume below must have at least when the file system on it shrinks.

        By default what it has: most formats keep their size. Raises Refused where the file system is not fit
        to be changed, ToolMissing or ToolFailed where a program is asked.
        """
        return self.below[0].size

    def fit(self, below: Volume, size: int) -> tuple[Volume, int] | None:
        """Say what is left of the volume above that shrinks when `below` has only `size` bytes.

        None where nothing above would shrink. Raises Unsupported where the layer keeps its size, Refused
        where something else lies beyond `size`.
        """
        if size < below.size:
            raise Unsupported(f"{self.title} keeps its size", volume=below.name)
        return None

    def plan_shrink(self, below: Sequence[Volume]) -> list[Step]:
        """Return the steps that fit the layer to `below`: its volumes as they will be, on another disk.

        They hold what is above already, cut. Raises what `fit` raises.
        """
        for old, new in zip(self.below, below, strict=True):
            self.fit(old, new.size)
        return []


class Whole(Layer):
    """A format that is known by name only: all of it is kept."""

    def __init__(self, kind: str, volume: Volume, facts: Mapping[str, Value] | None = None) -> None:
        self.name_of_kind = kind
        self.below = (volume,)
        self.known = dict(facts or {})

    kind = "whole"

    @property
    def title(self) -> str:
        return self.name_of_kind

    def facts(self) -> Mapping[str, Value]:
        return self.known

    def used(self) -> tuple[ExtentSet, ...]:
        return (ExtentSet.single(0, self.below[0].size),)
