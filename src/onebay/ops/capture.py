"""capture: the bytes of a whole disk that matter, as one image."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from onebay.base.error import NOTHING_WRITTEN, Refused
from onebay.base.event import silent
from onebay.image import Facts, StreamSink, Summary, write_image
from onebay.ops.inspect import inspect_tree, refuse_no_disk
from onebay.ops.journal import refuse_pending
from onebay.ops.kit import blob_of
from onebay.ops.need import needed
from onebay.ops.run import on_failure
from onebay.ops.unlock import discover_inside
from onebay.table import Table
from onebay.tree import Tree, discover

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.base.extent import ExtentSet
    from onebay.block import Volume

SUFFIX = ".raw.zst"


@dataclass(frozen=True)
class Captured:
    """What a capture will hold: the layer tree, and the bytes that matter.

    `original` is the size in bytes of the disk that `disk` is a smaller view of.
    """

    disk: Volume
    tree: Tree
    keep: ExtentSet
    original: int | None = None


def look(disk: Volume, *, everything: bool = False, key: bytes = b"", report: Report = silent) -> Captured:
    """Find what an image of `disk` must hold; raises Refused where it is in use, half-changed or no disk.

    With a `key` that is of LUKS only what is used inside, as it is on the disk. Raises what `discover_inside`
    raises.
    """
    refuse_unsteady(disk)
    tree = discover([disk])
    refuse_no_disk(tree)
    keep = needed_with(tree, key, everything=everything, report=report)
    return Captured(disk, tree, keep)


def needed_with(tree: Tree, key: bytes, *, everything: bool = False, report: Report = silent) -> ExtentSet:
    """Return what an image of the tree's disk must hold, looking into LUKS with a `key`.

    What was found inside goes no further: the tree that an image tells of ends at LUKS. Raises what
    `discover_inside` raises.
    """
    whole = discover_inside(tree.disks[0], key, report=report) if key else tree
    return needed(whole, everything=everything, ends=True, report=report)


def refuse_unsteady(disk: Volume) -> None:
    """Raise Refused where the disk is in use, or an interrupted change of it waits to be completed."""
    refuse_busy(disk)
    refuse_pending(disk)


def refuse_busy(disk: Volume) -> None:
    """Raise Refused where somebody uses the disk, so that what is read of it would not fit together."""
    if reason := disk.busy():
        raise Refused(
            f"{reason}: it may change while it is read",
            volume=disk.name,
            hint="unmount it, or work from a rescue",
        )


def capture(
    captured: Captured, place: Path | StreamSink, *, level: int = 3, threads: int = 2, report: Report = silent
) -> Summary:
    """Write the image; `level` is zstd's, 1 to 19. An image that was cut short never has its name, or no end.

    Raises Refused where there is no space, and what reading the disk or sending raises.
    """
    disk = captured.disk
    table = captured.tree.on(disk)
    late = [list(extent) for extent in table.used()[0]] if isinstance(table, Table) else []
    document = inspect_tree(captured.tree)
    facts = Facts(
        name=disk.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        layers=document,
        smallest_target=disk.size,
        other={"late": late} | ({} if captured.original is None else {"original_size": captured.original}),
    )
    rest = "the unfinished image was removed"
    if isinstance(place, StreamSink):
        rest = f"what went to {place.name} is no whole image"
    with on_failure(f"{NOTHING_WRITTEN} to the disk; {rest}", disk.name):
        return write_image(
            disk,
            place,
            keep=captured.keep,
            facts=facts,
            blobs=blob_of(captured.tree, report=report),
            level=level,
            threads=threads,
            report=report,
        )
