"""shrink: how small a disk can be, and what each of its layers is then; nothing is written here.

What shrinks is what `grow` grows: the last data partition, what stands on it, and the file system at the top.
Nothing below it moves. A candidate for the disk's size is asked from the table up: each layer says what is
left of the volume above, and at the top the file system must still fit. The floor is the fewest sectors that
pass, so that a disk goes back to one of exactly its size; the first layer that says no below it gives the
reason. Who asks for no size gets the floor rounded up to a whole MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import Error, Refused, Unsupported
from onebay.base.extent import ExtentSet
from onebay.block import lower
from onebay.fs.btrfs import BtrfsFs
from onebay.fs.ext import ExtFs
from onebay.ops.inspect import refuse_no_disk
from onebay.ops.journal import BEHIND, MIB, ROOM, refuse_pending
from onebay.ops.kit import find_copies
from onebay.ops.need import TAIL, standing
from onebay.table import Table
from onebay.table.model import STALE
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import Volume
    from onebay.layer import Layer, Value
    from onebay.ops.kit import Copy
    from onebay.table import Partition
    from onebay.tree import Tree


class Link(NamedTuple):
    """A layer that is cut, and its volume below that becomes shorter."""

    layer: Layer
    below: Volume


@dataclass(frozen=True)
class Route:
    """From the table up to what ends the disk: `links` (md, LVM), then `fs` on the volume `top`.

    `part` is the partition that becomes shorter, `kit` a copy of the boot kit behind it.
    """

    disk: Volume
    tree: Tree
    table: Table | None
    part: Partition | None
    links: tuple[Link, ...]
    top: Volume
    fs: Layer | None
    kit: Copy | None

    @property
    def volumes(self) -> list[Volume]:
        """The volumes that become shorter, bottom-up; none where only free space is cut."""
        if self.table is not None and self.part is None:
            return []
        return [*(link.below for link in self.links), self.top]

    @property
    def fs_size(self) -> int:
        """Bytes that the file system has now."""
        if isinstance(self.fs, ExtFs):
            return self.fs.geometry.size
        return self.fs.dev_item.total_bytes if isinstance(self.fs, BtrfsFs) else self.top.size

    @property
    def name(self) -> str:
        """The file system and where it is."""
        return f"{self.fs.title if self.fs else 'what is there'} on {self.top.name}"

    def fs_on(self, size: int) -> int:
        """Bytes that the file system would have on `size` bytes, never more than now."""
        if isinstance(self.fs, ExtFs):
            return self.fs.blocks_on(size) * self.fs.geometry.block_size
        if isinstance(self.fs, BtrfsFs):
            return min(self.fs_size, size // self.fs.sb.sectorsize * self.fs.sb.sectorsize)
        return size


@dataclass(frozen=True)
class Cut:
    """A disk of `size` bytes: where its last partition ends, and the sizes of the route's volumes."""

    size: int
    end: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class ShrinkPlan:
    """What a disk becomes; `floor` are the fewest bytes that it could have, `reason` says why no fewer.

    `exact` says whether the floor is one: only its kernel knows how far a btrfs gets. `losses` name bytes
    that are no layer's and would be gone, `remarks` what else the user should know.
    """

    route: Route
    cut: Cut
    floor: int
    reason: str
    exact: bool
    losses: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def fs_size(self) -> int:
        """Bytes of the file system afterwards."""
        return self.route.fs_on(self.cut.sizes[-1]) if self.cut.sizes else self.route.fs_size

    @property
    def fs_shrinks(self) -> bool:
        """Whether the file system itself has to become smaller."""
        return isinstance(self.route.fs, ExtFs | BtrfsFs) and self.fs_size < self.route.fs_size

    @property
    def notes(self) -> tuple[str, ...]:
        """All that the user should know."""
        return self.remarks + self.losses

    @property
    def smallest(self) -> bool:
        """Whether the disk gets its floor, or the whole MiB that this lies in."""
        return self.cut.size - self.floor < MIB

    @property
    def same(self) -> bool:
        """Whether the disk stays as it is."""
        return self.cut.size == self.route.disk.size

    def scratch(self) -> int:
        """Bytes of scratch space that shrinking needs at most, where the file system shrinks."""
        if not self.fs_shrinks or self.route.fs is None:
            return 0
        used = self.route.fs.used()[0].align(4096).size
        if isinstance(self.route.fs, BtrfsFs):  # chunks are copied before the old ones are given back
            used = min(2 * used, self.route.fs_size)
        return used + used // 16 + (64 << 20)

    def document(self) -> dict[str, Value]:
        """Return the plan for programs, sizes in bytes."""
        layers: list[Value] = [
            {"volume": volume.name, "size": volume.size, "new_size": size}
            for volume, size in zip(self.route.volumes, self.cut.sizes, strict=True)
        ]
        return {
            "disk": self.route.disk.name,
            "size": self.route.disk.size,
            "new_size": self.cut.size,
            "floor": self.floor,
            "floor_exact": self.exact,
            "floor_reason": self.reason,
            "scratch": self.scratch(),
            "volumes": layers,
            "notes": list(self.notes),
        }


def find_route(disk: Volume) -> Route:
    """Find what would shrink; raises Refused where the disk is damaged, half-changed, or no disk."""
    refuse_pending(disk)
    tree = discover([disk])
    refuse_no_disk(tree)
    for suspect in tree.suspects:
        if suspect.volume is disk:
            what = f"{suspect.kind} is damaged: {suspect.evidence}"
            raise Refused(what, volume=disk.name, hint="onebay repair")
    bottom = tree.on(disk)
    table = bottom if isinstance(bottom, Table) else None
    if table is not None and (bad := [one for one in table.check() if one.severity == "damage"]):
        raise Refused(bad[0].text, volume=disk.name, at=bad[0].at)
    part = table.data_partition if table else None
    volume = part.volume if part else disk
    links: list[Link] = []
    layer = tree.on(volume) if part or table is None else None
    while layer is not None:
        above = layer.fit(volume, volume.size)
        if above is None:
            break
        links.append(Link(layer, volume))
        volume = above[0]
        layer = tree.on(volume)
    kit = None
    if table is not None:
        last = max((each.end for each in table.partitions), default=0)
        copies = [copy for copy in find_copies(disk, table) if copy.kit is not None and copy.at >= last]
        kit = copies[0] if copies else None
    return Route(disk, tree, table, part, tuple(links), volume, layer, kit)


def cut_to(route: Route, size: int, least: int) -> Cut:
    """Return the disk at `size` bytes; raises Refused or Unsupported with what keeps it from being so small.

    `least` are the fewest bytes that the file system can have.
    """
    if size >= route.disk.size:
        end = route.part.end if route.part else size
        return Cut(route.disk.size, end, tuple(volume.size for volume in route.volumes))
    end = current = size
    if route.table is not None:
        end = route.table.shrunk_end(size, tail=kit_room(route.kit))
        if route.part is None:
            return Cut(size, end, ())
        current = end - route.part.start
    sizes = [current]
    for layer, below in route.links:
        above = layer.fit(below, current)
        assert above is not None, layer.title
        current = min(above[1], above[0].size)
        sizes.append(current)
    if route.fs_on(current) < least:
        says = "needs" if isinstance(route.fs, ExtFs | BtrfsFs) else "keeps its size of"
        raise Refused(f"{route.name} {says} {least} bytes")
    return Cut(size, end, tuple(sizes))


def kit_room(kit: Copy | None) -> int:
    """Bytes that must be free behind the last partition so that a copy of the boot kit fits."""
    if kit is None or kit.kit is None:
        return 0
    return -(-len(kit.kit.raw) // MIB) * MIB + ROOM + BEHIND + MIB


def floor_of(route: Route, least: int) -> tuple[int, str]:
    """Return the fewest bytes that the disk can have, in whole sectors, and why it cannot have fewer."""
    sector = route.disk.sector_size
    low, high = 0, -(-route.disk.size // sector)  # the disk as it is always passes
    while high - low > 1:
        middle = (low + high) // 2
        if why_not(route, middle * sector, least):
            low = middle
        else:
            high = middle
    return min(high * sector, route.disk.size), why_not(route, low * sector, least)


def why_not(route: Route, size: int, least: int) -> str:
    """Say what keeps the disk from having `size` bytes, or ""."""
    try:
        cut_to(route, size, least)
    except (Refused, Unsupported) as error:
        return str(error)
    return ""


def plan_shrink(route: Route, to: int | None = None, *, least: int | None = None) -> ShrinkPlan:
    """Return what the disk is at `to` bytes, rounded down to whole sectors.

    Without `to` it gets its floor, rounded up to a MiB. `least` is what the file system was found to need.
    Raises Refused where `to` is below the floor, or the file system has errors; ToolMissing or ToolFailed
    where nobody can say what it needs.
    """
    disk = route.disk
    if least is None:
        # what stands on other volumes too keeps the sizes of all of them
        alone = route.fs if route.fs is not None and len(route.fs.below) == 1 else None
        least = alone.floor() if alone is not None else route.top.size
        exact = not isinstance(route.fs, BtrfsFs) or least == route.fs_size
    else:
        exact = True
    floor, reason = floor_of(route, least)
    if to is None:
        to = min(-(-floor // MIB) * MIB, disk.size)
    elif to < floor:
        raise too_small(disk.name, floor, to, reason)
    elif to > disk.size:
        raise Refused("larger than the disk", volume=disk.name, expected=f"<= {disk.size}", found=to)
    cut = cut_to(route, to if to == disk.size else to // disk.sector_size * disk.sector_size, least)
    losses = tuple(losses_of(route, cut)) if cut.size != disk.size else ()
    return ShrinkPlan(route, cut, floor, reason, exact, losses, tuple(remarks_of(route, cut, exact=exact)))


def too_small(name: str, floor: int, to: int, reason: str) -> Error:
    """Return the refusal of a size below the floor."""
    return Refused("cannot be so small", volume=name, expected=f">= {floor} bytes", found=to, hint=reason)


def remarks_of(route: Route, cut: Cut, *, exact: bool) -> list[str]:
    """Return what the user should know of a cut."""
    notes: list[str] = []
    if not exact and cut.sizes and cut.sizes[-1] < route.fs_size:
        notes.append("a btrfs gets as small as its kernel manages; what is said here is the least")
    if route.part is None and route.table is not None and cut.size != route.disk.size:
        notes.append(f"only free space behind the partitions is cut: {route.table.growth_block()}")
    return notes


def losses_of(route: Route, cut: Cut) -> Iterator[str]:
    """Yield what the smaller disk lacks, although a capture of the disk would keep it."""
    if lost := dropped(route):
        yield f"{lost} bytes behind the last partition, which nothing speaks of, are left out"
    owners = [*(link.layer for link in route.links), route.fs]
    # without a data partition there are no volumes
    for volume, size, layer in zip(route.volumes, cut.sizes, owners, strict=False):
        if layer is None or size >= volume.size:
            continue
        end = ExtentSet.single(max(0, volume.size - STALE), volume.size)
        own = ExtentSet.single(0, route.fs_size) if layer is route.fs else claimed(layer, volume)
        if lost := filled(volume, end - own):
            yield (
                f"{lost} bytes in the last {STALE >> 10} KiB of {volume.name}, behind its {layer.title}, "
                "which nothing speaks of, are left out"
            )


def claimed(layer: Layer, volume: Volume) -> ExtentSet:
    """Return the bytes of a volume below that are the layer's own, or what stands on it."""
    found = ExtentSet()
    for below, extents in zip(layer.below, layer.used(), strict=True):
        found |= extents if below is volume else ExtentSet()
    for _, mapping in standing(layer):
        for below, extents in lower(mapping, ExtentSet.single(0, mapping.size)):
            found |= extents if below is volume else ExtentSet()
    return found


def dropped(route: Route) -> int:
    """Return how many bytes of data behind the last partition are neither the table's nor a boot kit."""
    if route.table is None:
        return 0
    disk, table = route.disk, route.table
    last = max((part.end for part in table.partitions), default=table.usable.start)
    kits = find_copies(disk, table)
    known = ExtentSet.of((copy.at, copy.at + len(copy.kit.raw)) for copy in kits if copy.kit is not None)
    known |= table.metadata()
    return filled(disk, ExtentSet.single(last, min(disk.size, last + TAIL)) - known)


def filled(volume: Volume, extents: ExtentSet) -> int:
    """Return how many bytes of `extents` are not zero."""
    count = 0
    for start, stop in extents:
        for low, high in volume.data(start, stop):
            for at in range(low, high, MIB):
                piece = volume.read(at, min(MIB, high - at))
                count += len(piece) - piece.count(0)
    return count
