"""inspect: everything that is known about a disk as one document (docs/inspect.md), version 1.

    {"onebay": "0.1.0", "format": 1,
     "disk": {"name", "size", "sector_size", "model"?, "serial"?, "wwn"?},
     "tree": NODE, "boot": [{"firmware", "works", "what", "why"}],
     "appliance": {"name", "shr", ...} or null,
     "findings": [{"severity", "kind", "text", "volume", "at"}]}
    NODE = {"name", "size", "state": "known" | "unknown" | "damaged" | "member", "kind", "title", "facts",
            "used_bytes", "parts": [{"start", "end", "role", "label", "node"}]}

All sizes and positions are in bytes; `start` and `end` are half-open and count from the start of the node.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from onebay import __version__
from onebay.base.error import Refused
from onebay.base.event import silent
from onebay.block import DeviceVolume
from onebay.layer import Finding, Value
from onebay.ops.bootpaths import boot_paths
from onebay.ops.identity import twin_findings
from onebay.ops.journal import refuse_pending
from onebay.ops.unlock import discover_inside
from onebay.table import Table, dsm
from onebay.tree import Tree, discover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.layer import Layer

FORMAT = 1
SECTOR = 512
Document = dict[str, Value]


def inspect(disk: Volume, *, key: bytes = b"", report: Report = silent) -> Document:
    """Look at a disk, with a `key` into LUKS too, and return the document; no allocation map is walked.

    Of a block device, the heads of the machine's other disks are read too, to find those that may be taken
    for it. Raises Refused where it is no disk at all, and what `discover_inside` raises.
    """
    tree = discover_inside(disk, key, report=report) if key else discover([disk])
    refuse_no_disk(tree)
    return inspect_tree(tree, interrupted(disk) + twin_findings(disk, tree))


def interrupted(disk: Volume) -> list[Finding]:
    """Return a finding where a change of the disk waits to be completed."""
    try:
        refuse_pending(disk)
    except Refused as error:
        hint = f" ({error.hint})" if error.hint else ""
        return [Finding("damage", "interrupted-change", f"{error.what}{hint}", disk.name, error.at)]
    return []


def refuse_no_disk(tree: Tree) -> None:
    """Raise Refused for a file that no disk can look like: nothing recognised, and not made of sectors."""
    disk = tree.disks[0]
    if disk.size % SECTOR and any(volume is disk for volume in tree.unknown):
        raise Refused(
            "not a disk: nothing is recognised, and the size is no whole number of sectors",
            volume=disk.name,
            expected=f"a multiple of {SECTOR}",
            found=disk.size,
        )


def cut_short(disk: Volume) -> list[Finding]:
    """Return a finding where the size of an image says that its end is missing."""
    if not disk.size % SECTOR:
        return []
    text = f"the size, {disk.size} bytes, is no whole number of sectors: the end is missing"
    return [Finding("damage", "cut-short", text, disk.name, disk.size)]


def inspect_tree(tree: Tree, findings: Sequence[Finding] = ()) -> Document:
    """Return the document of a tree with one disk; `findings` about the disk as a whole come first."""
    disk = tree.disks[0]
    table = tree.on(disk)
    head: Document = {"name": disk.name, "size": disk.size, "sector_size": disk.sector_size}
    if isinstance(disk, DeviceVolume):
        head.update(disk.identity)
    appliance: Document | None = None
    if isinstance(table, Table) and (generation := dsm.generation(table)):
        appliance = {**as_value(generation), "shr": dsm.is_shr(table)}
    return {
        "onebay": __version__,
        "format": FORMAT,
        "disk": head,
        "tree": node(tree, disk),
        "boot": [as_value(path) for path in boot_paths(tree)],
        "appliance": appliance,
        "findings": [as_value(finding) for finding in [*findings, *cut_short(disk), *tree.all_findings()]],
    }


def as_value(record: object) -> Document:
    """Return a dataclass as a JSON object."""
    return dict(asdict(record))  # type: ignore[call-overload]


def node(tree: Tree, volume: Volume) -> Document:
    """Return what stands on a volume, and on what stands there."""
    found: Document = {"name": volume.name, "size": volume.size}
    suspect = next((suspect for suspect in tree.suspects if suspect.volume is volume), None)
    layer = tree.on(volume)
    if suspect is not None:
        kind = suspect.kind
        found |= {"state": "damaged", "kind": kind, "title": kind, "evidence": suspect.evidence}
    elif layer is None:
        found |= {"state": "unknown"}
    else:
        first = layer.below[0] is volume
        found |= {
            "state": "known" if first else "member",
            "kind": layer.kind,
            "title": layer.title,
            "facts": dict(layer.facts()) if first else {},
            "used_bytes": layer.used_bytes(),
        }
        if first:
            found["parts"] = list(parts(tree, layer))
    return found


def parts(tree: Tree, layer: Layer) -> list[Value]:
    """Return partitions with the gaps between them, or the volumes that a group offers."""
    if not isinstance(layer, Table):
        return [
            {"start": None, "end": None, "role": "volume", "label": above.name, "node": node(tree, above)}
            for above in layer.above
        ]
    found: list[tuple[int, int, Document]] = []
    for part in layer.partitions:
        facts: Document = {
            "start": part.start,
            "end": part.start + part.size,
            "role": "extended" if part.is_extended else "partition",
            "label": f"p{part.number}",
            "type": part.type,
            "type_name": part.type_name,
            "uuid": part.uuid,
            "partition_name": part.name,
            "active": part.active,
        }
        if not part.is_extended:
            facts["node"] = node(tree, part.volume)
        found.append((part.start, 0 if part.is_extended else 1, facts))
    found.extend(
        (gap.start, 2, {"start": gap.start, "end": gap.end, "role": "gap", "label": gap.kind})
        for gap in layer.gaps()
    )
    return [facts for _, _, facts in sorted(found, key=lambda item: item[:2])]
