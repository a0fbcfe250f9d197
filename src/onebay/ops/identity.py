"""Two disks that look the same: GUIDs, UUIDs and labels by which boot loaders and appliances find a disk.

A copy of a disk has all of them. Where both are in one machine, which one is booted, assembled or mounted is
chance. Members of one array, volume group or btrfs rightly share its UUID; told apart are the members. Only
what stands on a partition or on the disk itself is compared: what stands on an array is found through it.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from onebay.base.error import Error
from onebay.base.event import Noted, Warned
from onebay.block.device import DeviceVolume, other_disks
from onebay.layer import Finding
from onebay.table import Table
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.tree import Tree

__all__ = ["Sign", "Twin", "signs_in", "signs_of", "twin_findings", "twins", "warn_twins"]

LABEL = "label"
TABLES = ("gpt", "mbr")
LABELLED = ("fat", "ext")  # what boot loaders search by label
SHOWN = 3  # values of one kind that a message lists
MAX_NODES = 10_000


class Sign(NamedTuple):
    """One thing that a disk is known by: `what` it is, for people, and its `value`."""

    what: str
    value: str


class Twin(NamedTuple):
    """Another disk with the same signs; `known` is its model and serial."""

    name: str
    known: str
    shared: tuple[Sign, ...]

    @property
    def labels_only(self) -> bool:
        """Whether nothing but labels is the same."""
        return all(sign.what == LABEL for sign in self.shared)

    @property
    def text(self) -> str:
        """What is the same, what may come of it, and what to do."""
        values: dict[str, list[str]] = {}
        for sign in sorted(self.shared):
            values.setdefault(sign.what, []).append(sign.value)
        parts = []
        for what, all_of_them in values.items():
            more = f" and {len(all_of_them) - SHOWN} more" if len(all_of_them) > SHOWN else ""
            parts.append(f"{what} {', '.join(all_of_them[:SHOWN])}{more}")
        known = f" ({self.known})" if self.known else ""
        return (
            f"{self.name}{known} has the same {'; '.join(parts)}: whoever looks for a disk by these, boot "
            "loader or appliance, may take either; detach one of the two before booting"
        )


def signs_of(tree: Tree) -> frozenset[Sign]:
    """Return what the disk of a tree is known by."""
    disk = tree.disks[0]
    on_table = {id(above) for layer in tree.layers if isinstance(layer, Table) for above in layer.above}
    found: set[Sign] = set()
    for layer in tree.layers:
        below = {id(volume) for volume in layer.below}
        if below <= on_table | {id(disk)}:
            found.update(signs(layer.kind, layer.facts(), labelled=below <= on_table))
    return frozenset(found)


def signs_in(document: Any) -> frozenset[Sign]:
    """Return what a disk is known by, from a document of `inspect`; that of an image may say anything."""
    found: set[Sign] = set()
    root = document.get("tree") if isinstance(document, dict) else None
    todo = [(root, True, False)]
    for _ in range(MAX_NODES):
        if not todo:
            break
        node, direct, labelled = todo.pop()
        if not isinstance(node, dict):
            continue
        kind, facts, parts = node.get("kind"), node.get("facts"), node.get("parts")
        if direct and isinstance(kind, str) and isinstance(facts, dict):
            found.update(signs(kind, facts, labelled=labelled))
        if kind in TABLES and isinstance(parts, list):
            todo += [(part.get("node"), True, True) for part in parts if isinstance(part, dict)]
    return frozenset(found)


def signs(kind: str, facts: Mapping[str, Any], *, labelled: bool) -> Iterator[Sign]:
    """Yield what one layer is known by; zeros are no identity."""
    for sign in candidates(kind, facts, labelled=labelled):
        if isinstance(sign.value, str) and sign.value.strip("0-: "):
            yield sign


def candidates(kind: str, facts: Mapping[str, Any], *, labelled: bool) -> Iterator[Sign]:
    """Yield the identities that a layer states, whatever stands there."""
    uuid = facts.get("uuid")
    match kind:
        case "gpt":
            yield Sign("disk GUID", facts.get("identity", ""))
            yield from (Sign("partition GUID", p.get("uuid", "")) for p in entries(facts, "partitions"))
        case "mbr":
            yield Sign("MBR signature", facts.get("identity", ""))
        case "md":
            slots = facts.get("slots")
            slots = slots if isinstance(slots, list) else []
            yield from (Sign("md member", f"{uuid} number {slot}") for slot in slots)
        case "lvm":
            here = (pv for pv in entries(facts, "pvs") if pv.get("volume") is not None)
            yield from (Sign("LVM physical volume", pv.get("uuid", "")) for pv in here)
        case "btrfs" if facts.get("devices") != 1:
            uuids = [each.get("device_uuid", "") for each in (facts, *entries(facts, "members"))]
            yield from (Sign("btrfs device UUID", each) for each in uuids)
        case _:
            yield Sign(f"{kind} UUID", uuid or "")
    if labelled and kind in LABELLED:
        yield Sign(LABEL, facts.get("label", ""))


def entries(facts: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a list in facts."""
    found = facts.get(key)
    yield from (one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def twins(disk: Volume, own: Collection[Sign], beside: Collection[Volume] = ()) -> list[Twin]:
    """Return the disks that have signs of `own`, which are or will be those of `disk`.

    Looked at are the volumes `beside` and, where `disk` is a block device, the other disks of this machine;
    one that cannot be read is left out. Only heads are read.
    """
    wanted = frozenset(own)
    found = [twin_of(other, wanted) for other in beside]
    named = {other.number for other in beside if isinstance(other, DeviceVolume)}
    for path in other_disks(disk) if isinstance(disk, DeviceVolume) and wanted else ():
        try:
            with closing(DeviceVolume(path)) as other:
                if other.number not in named:
                    found.append(twin_of(other, wanted))
        except (Error, OSError):
            continue
    return [twin for twin in found if twin is not None]


def twin_of(other: Volume, own: frozenset[Sign]) -> Twin | None:
    """Return what a disk shares with `own`, or None."""
    shared = own & signs_of(discover([other]))
    if not shared:
        return None
    identity = other.identity if isinstance(other, DeviceVolume) else {}
    return Twin(other.name, ", ".join(identity.values()), tuple(sorted(shared)))


def twin_findings(disk: Volume, tree: Tree) -> list[Finding]:
    """Return a finding for each other disk of this machine that may be taken for this one."""
    return [
        Finding("note" if twin.labels_only else "warning", "twin-disk", twin.text, disk.name)
        for twin in (twins(disk, signs_of(tree)) if isinstance(disk, DeviceVolume) else ())
    ]


def warn_twins(
    disk: Volume,
    *,
    report: Report,
    own: Collection[Sign] | None = None,
    beside: Collection[Volume] = (),
) -> None:
    """Report the disks that may be taken for `disk`, before it is written.

    `own` is what it will be known by, where that is not what is on it now.
    """
    if not beside and not isinstance(disk, DeviceVolume):
        return
    for twin in twins(disk, signs_of(discover([disk])) if own is None else own, beside):
        event = Noted if twin.labels_only else Warned
        report(event(twin.text, disk.name))
