"""Which boot paths a disk has: joins what tables and file systems know for boot.paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.boot.paths import BootPart, BootPath
from onebay.boot.paths import boot_paths as paths
from onebay.fs.fat import Fat
from onebay.table import Table

if TYPE_CHECKING:
    from onebay.block import Volume
    from onebay.tree import Tree


def boot_paths(tree: Tree) -> list[BootPath]:
    """Return what BIOS and UEFI would run from the tree's disk; damage becomes a reason."""
    disk = tree.disks[0]
    table = tree.on(disk)
    if not isinstance(table, Table):
        return []
    return paths(disk, [BootPart(part, *seen(tree, part.volume)) for part in table.partitions])


def seen(tree: Tree, volume: Volume) -> tuple[str, Fat | None]:
    """Return the UUID of the file system on a partition, and the file system where it is a FAT."""
    layer = tree.on(volume)
    if layer is None:
        return "", None
    uuid = layer.facts().get("uuid")
    return str(uuid or ""), layer if isinstance(layer, Fat) else None
