"""What only a kernel can grow: XFS, and what stands inside LUKS. The kernel works on a copy-on-write view.

Somebody above us (`Kernel`) lets a kernel grow the volume on an overlay of the disk and says which bytes it
changed; here these become a plan like any other. So the disk is written by us alone: new content beyond the
old file system first, everything that changes in place through the journal, and a cut leaves what was there
or what the same command completes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Refused, Unsupported
from onebay.base.extent import Extent, ExtentSet
from onebay.base.step import Flush, Write
from onebay.block import locate
from onebay.fs.xfs import Xfs
from onebay.ops.grow import chain, refuse_damage
from onebay.ops.run import CRITICAL, Plan, Planner
from onebay.stack.luks import Luks
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onebay.block import Volume

__all__ = ["Kernel", "Request", "find_request", "locked", "plan_in_kernel"]

GRAIN = 512  # bytes; what is compared, and what a power cut leaves whole


@dataclass(frozen=True, slots=True)
class Request:
    """What to grow: the volume `name` of kind xfs or luks that consists of `pieces` of the disk, in order.

    `disk` is the path of an image file or device; `size` is what the file system has now, in bytes (0 where
    only the kernel can tell); `key` opens LUKS.
    """

    disk: str
    sector_size: int
    kind: str
    name: str
    pieces: tuple[Extent, ...]
    size: int = 0
    key: bytes = b""


Kernel = Callable[[Request], Iterable[tuple[int, bytes]]]


def find_request(disk: Volume, key: bytes = b"") -> Request | None:
    """Return what a kernel would have to grow, None where there is nothing; `key` is for LUKS.

    Raises Refused where a key is given and there is no LUKS to open, Unsupported for a detached header.
    """
    tree = discover([disk])
    refuse_damage(tree)
    for layer in chain(tree):
        volume = layer.below[0]
        if isinstance(layer, Luks) and key:
            refuse_detached(layer)
            return Request(disk.name, disk.sector_size, "luks", volume.name, pieces(volume), key=key)
        if isinstance(layer, Xfs) and layer.short and not layer.why_unknown:
            return Request(disk.name, disk.sector_size, "xfs", volume.name, pieces(volume), layer.size)
    if key:
        raise Refused("no LUKS volume where the disk grows, so the key opens nothing", volume=disk.name)
    return None


def locked(disk: Volume) -> str | None:
    """Return the volume of the LUKS that the disk's growth ends at, or None where there is none."""
    found = [layer for layer in chain(discover([disk])) if isinstance(layer, Luks)]
    return found[0].below[0].name if found else None


def refuse_detached(layer: Luks) -> None:
    """Raise Unsupported for a header whose payload is elsewhere."""
    offset = layer.facts().get("payload_offset")
    if not isinstance(offset, int) or offset == 0:
        raise Unsupported("the LUKS header is detached from its payload", volume=layer.below[0].name)


def pieces(volume: Volume) -> tuple[Extent, ...]:
    """Return where a volume lies on the disk."""
    return tuple(Extent(piece.at, piece.at + piece.size) for piece in locate(volume, 0, volume.size))


def plan_in_kernel(disk: Volume, request: Request, kernel: Kernel) -> Plan:
    """Return the steps that leave on `disk` what the kernel made of its view of it.

    Raises Refused where it changed anything outside the volume, Damaged where the result does not hold, and
    what `kernel` raises.
    """
    planner = Planner("grow", disk)
    inside = ExtentSet.of(request.pieces)
    fresh: list[Write] = []
    critical: list[Write] = []
    for at, content in kernel(request):
        for write in differences(planner.view, at, content, request):
            if not inside.covers(write.at, write.at + write.size):
                raise Refused("the kernel changed bytes outside the volume", volume=disk.name, at=write.at)
            (critical if write.why.startswith(CRITICAL) else fresh).append(write)
    if not critical and not fresh:
        return planner.plan
    if not critical:
        raise Damaged("the kernel wrote nothing that would make its work count", volume=request.name)
    planner.add([*fresh, Flush(planner.view), *critical, Flush(planner.view)])
    planner.plan.after = planner.view
    again = find_request(planner.view, request.key)
    if request.kind == "xfs" and again is not None:
        raise Damaged("the file system has not grown in the kernel", volume=request.name, found=again.size)
    return planner.plan


def differences(disk: Volume, at: int, content: bytes, request: Request) -> Iterator[Write]:
    """Yield a write for every stretch of sectors in which `content`, meant for byte `at`, is another.

    What lies beyond the old end of the file system is free space until the change counts.
    """
    free = beyond(request)
    size = min(len(content), disk.size - at)
    old = disk.read(at, size)
    if old == content[:size]:
        return
    start = None
    for low in range(0, size + GRAIN, GRAIN):
        differs = low < size and old[low : low + GRAIN] != content[low : min(low + GRAIN, size)]
        cut = start is not None and free.covers(at + low, at + low + 1) != free.covers(
            at + start, at + start + 1
        )
        if start is not None and (not differs or cut):
            new = free.covers(at + start, at + start + 1)
            why = (
                f"{request.kind}: new groups" if new else f"{CRITICAL} {request.kind}: as its kernel grew it"
            )
            yield Write(disk, at + start, content[start : min(low, size)], why)
            start = None
        if differs and start is None:
            start = low


def beyond(request: Request) -> ExtentSet:
    """Return the bytes of the disk that the file system did not have before, as far as anybody can tell."""
    found: list[tuple[int, int]] = []
    done = 0
    for start, end in request.pieces:
        skip = max(0, request.size - done)
        if request.size and skip < end - start:
            found.append((start + skip, end))
        done += end - start
    return ExtentSet.of(found)
