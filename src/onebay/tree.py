"""The explicit list of probes, and discovery: a to-do list of volumes run to a fixpoint.

Layers end up in a list in which each stands after everything it stands on, so every verb is one loop over it.
Membership outranks a table or file system on the same volume, and md all the rest (0.90 and 1.0 leave what
stands on the array visible on its members); two hits of one rank are reported as ambiguous, never resolved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from onebay import table
from onebay.base.error import Error
from onebay.fs import btrfs, ext, fat, names, swap, xfs
from onebay.layer import Finding, Layer, Member, Suspect
from onebay.stack import luks, lvm, md

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from onebay.block import Volume

    Unlock = Callable[[luks.Luks], luks.Luks]

__all__ = ["PROBES", "Probe", "Tree", "discover", "walk"]

Hit = Layer | Member | Suspect


class Probe(NamedTuple):
    """A format: its name, its rank (the lowest with a hit wins), how to find it, how to join members."""

    kind: str
    rank: int
    probe: Callable[[Volume], Hit | None]
    assemble: Callable[[Sequence[Member]], Layer | Suspect] | None = None


PROBES = (
    Probe("md", 0, md.probe, md.assemble),
    Probe("lvm", 1, lvm.probe, lvm.assemble),
    Probe("luks", 1, luks.probe),
    Probe("table", 2, table.probe),
    Probe("ext", 2, ext.probe),
    Probe("btrfs", 2, btrfs.probe, btrfs.assemble),
    Probe("xfs", 2, xfs.probe),
    Probe("fat", 2, fat.probe),
    Probe("swap", 2, swap.probe),
    Probe("name", 3, names.probe),
)
RANKS = MappingProxyType({probe.kind: probe.rank for probe in PROBES})
MAX_VOLUMES = 4096  # a hostile disk may nest without end


@dataclass
class Tree:
    """What was found on `disks`: `layers` bottom-up, `suspects`, and volumes that nobody recognised."""

    disks: tuple[Volume, ...]
    layers: list[Layer] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    unknown: list[Volume] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def on(self, volume: Volume) -> Layer | None:
        """Return the layer that stands on `volume`, or None."""
        return next((layer for layer in self.layers if any(below is volume for below in layer.below)), None)

    def of_kind(self, kind: str) -> list[Layer]:
        """Return all layers of a kind."""
        return [layer for layer in self.layers if layer.kind == kind]

    def all_findings(self) -> list[Finding]:
        """Return what discovery, every layer's own check, and looking for journals found, bottom-up."""
        own = [finding for layer in self.layers for finding in layer.check()]
        return self.findings + own + ext.journal_findings(self.layers)


def discover(disks: Iterable[Volume], *, unlock: Unlock | None = None) -> Tree:
    """Find every layer on `disks`; damage becomes suspects and findings, never an exception.

    `unlock` is given each LUKS and returns it opened or as it is; what it raises, this raises. Only who
    reads has one: what is inside cannot be written.
    """
    tree = Tree(tuple(disks))
    waiting: dict[tuple[str, str], list[Member]] = {}
    todo: list[Volume] = list(tree.disks)
    seen = 0
    while todo or waiting:
        while todo:
            seen += 1
            if seen > MAX_VOLUMES:
                tree.findings.append(
                    Finding("damage", "too-deep", f"more than {MAX_VOLUMES} volumes", todo[0].name)
                )
                # nobody looked at the rest, so all of it counts
                tree.unknown += [*todo, *(m.volume for members in waiting.values() for m in members)]
                return tree
            settle(tree, todo.pop(0), todo, waiting, unlock)
        if waiting:
            # groups of a lower rank first: their volumes may hold members of those that wait
            kind, key = min(waiting, key=lambda group: RANKS[group[0]])
            join(tree, kind, waiting.pop((kind, key)), todo)
    return tree


def settle(
    tree: Tree,
    volume: Volume,
    todo: list[Volume],
    waiting: dict[tuple[str, str], list[Member]],
    unlock: Unlock | None,
) -> None:
    """Ask every probe about one volume and file what it answers."""
    match best(tree, volume):
        case Member() as member:
            waiting.setdefault((member.kind, member.key), []).append(member)
        case Suspect() as suspect:
            tree.suspects.append(suspect)
            tree.findings.append(
                Finding(
                    "damage",
                    f"{suspect.kind}-damaged",
                    f"{suspect.kind}: {suspect.evidence}",
                    suspect.volume.name,
                    suspect.at,
                )
            )
        case Layer() as layer:
            if unlock is not None and isinstance(layer, luks.Luks):
                layer = unlock(layer)
            tree.layers.append(layer)
            todo.extend(layer.above)
        case None:
            tree.unknown.append(volume)


def best(tree: Tree, volume: Volume) -> Hit | None:
    """Return the hit of the lowest rank; a whole hit outranks a suspect of its rank."""
    for rank in sorted({probe.rank for probe in PROBES}):
        answers = [ask(tree, probe, volume) for probe in PROBES if probe.rank == rank]
        hits = [answer for answer in answers if answer is not None]
        whole = [hit for hit in hits if not isinstance(hit, Suspect)]
        if len(whole) > 1:
            kinds = " and ".join(hit.title if isinstance(hit, Layer) else hit.kind for hit in whole)
            return Suspect("ambiguous", volume, f"looks like {kinds}; kept whole")
        if hits:
            return whole[0] if whole else hits[0]
    return None


def ask(tree: Tree, probe: Probe, volume: Volume) -> Hit | None:
    """Ask one probe; what it could not read or understand becomes a suspect."""
    try:
        return probe.probe(volume)
    except Error as error:
        if error.volume is None:
            error.volume = volume.name
        tree.findings.append(
            Finding("warning", f"{probe.kind}-unreadable", str(error), volume.name, error.at)
        )
        return Suspect(probe.kind, volume, str(error), error.at)


def join(tree: Tree, kind: str, members: list[Member], todo: list[Volume]) -> None:
    """Assemble a group of members, complete or not."""
    assemble = next(probe.assemble for probe in PROBES if probe.kind == kind)
    assert assemble is not None, kind
    try:
        layer = assemble(members)
    except Error as error:
        layer = Suspect(kind, members[0].volume, str(error), error.at)
    if isinstance(layer, Suspect):
        tree.suspects.append(layer)
        tree.suspects.extend(Suspect(kind, member.volume, layer.evidence) for member in members[1:])
        tree.findings.append(
            Finding("damage", f"{kind}-damaged", f"{kind}: {layer.evidence}", layer.volume.name, layer.at)
        )
        return
    tree.layers.append(layer)
    todo.extend(layer.above)


def walk(tree: Tree, volume: Volume, depth: int = 0) -> Iterator[tuple[int, Volume, Layer | None]]:
    """Yield, top-down from a disk, (depth, volume, layer on it); a group goes on below its first member."""
    layer = tree.on(volume)
    yield depth, volume, layer
    if layer is not None and layer.below[0] is volume:
        for above in layer.above:
            yield from walk(tree, above, depth + 1)
