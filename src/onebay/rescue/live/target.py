"""Which disk is meant, by few words: a serial number, a size, or the only one. In doubt, none.

What nobody named must be the one disk that could be meant: built in, and not the medium that the rescue
system came from. A disk that is on USB, or removable, is somebody's backup until it is named. One in use
may be what was meant, so it counts: it must not make another disk the only one.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.rescue.iso import LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onebay.block.disks import Disk

ONLY, SERIAL, SIZE = "only", "serial:", "size:"
BOUND = re.compile(r"(\d{1,18})([kmgtp]?)(i?b)?", re.ASCII)
POWERS = ("", "k", "m", "g", "t", "p")
QUIET, LONGEST = 10.0, 60.0  # seconds: without a new disk, and at most
INTERVAL = 0.5


class NoneMeant(Refused):
    """No disk is the one that is meant; it may still come."""


def bounds(text: str) -> tuple[int, int]:
    """Return the least and the greatest size, in bytes, of "256G" or "200G-300G".

    Makers count by 1000, systems by 1024: of the least the unit is the smaller one, of the greatest the
    larger one. Raises Refused.
    """
    low, dash, high = text.strip().lower().partition("-")
    first, last = BOUND.fullmatch(low), BOUND.fullmatch(high if dash else low)
    if not first or not last:
        raise Refused("size of the target", expected="for example size:256G or size:200G-300G", found=text)
    least = int(first[1]) * 1000 ** POWERS.index(first[2])
    most = int(last[1]) * 1024 ** POWERS.index(last[2])
    if least > most or not most:
        raise Refused("size of the target: no disk is so", found=text)
    return least, most


def apart(disk: Disk) -> str:
    """Say why a disk is never meant unless it is named, "" where it could be."""
    return "a medium of the rescue system" if disk.label == LABEL else disk.loose


def against(disk: Disk) -> str:
    """Say what speaks against a disk that nobody named, "" where nothing does."""
    return apart(disk) or disk.use


def listed(disks: Sequence[Disk], *, why: bool = False) -> str:
    """Name disks, each with what speaks against it where `why`."""
    if not disks:
        return "none"
    return "; ".join(f"{disk}: {against(disk) or 'other size'}" if why else str(disk) for disk in disks)


def choose(target: str, disks: Sequence[Disk]) -> Disk:
    """Return the disk that "serial:TEXT", "size:SIZE", "size:MIN-MAX" or "only" means.

    Raises Refused, naming the disks, where it is none of them or could be several, or where it is in use.
    """
    if target.startswith(SERIAL):
        wanted = target.removeprefix(SERIAL).strip()
        found = [disk for disk in disks if wanted and disk.identity.get("serial") == wanted]
        if not found:
            raise NoneMeant("no disk has this serial number", expected=wanted, found=listed(disks))
    else:
        least, most = bounds(target.removeprefix(SIZE)) if target.startswith(SIZE) else (0, 1 << 63)
        if not target.startswith(SIZE) and target != ONLY:
            raise Refused("target", expected="serial:.. or size:.. or only", found=target)
        found = [disk for disk in disks if least <= disk.size <= most and not apart(disk)]
        if not found:
            raise NoneMeant(f"no disk is meant by {target}", expected="one", found=listed(disks, why=True))
    if len(found) > 1:
        raise Refused(f"more than one disk could be meant by {target}", expected="one", found=listed(found))
    if found[0].use:
        raise Refused(found[0].use, volume=str(found[0]))
    return found[0]


def settled(
    target: str, read: Callable[[], Sequence[Disk]], *, quiet: float = QUIET, longest: float = LONGEST
) -> Disk:
    """Choose once no disk has come for `quiet` seconds: some take their time after a machine starts.

    A disk that is named by its serial number is taken when it is there; where none is meant, one is waited
    for, `longest` seconds in all. Raises what `choose` raises.
    """
    began = since = time.monotonic()
    known: list[str] = []
    while True:
        disks = read()
        now = time.monotonic()
        if (names := [str(disk) for disk in disks]) != known:
            known, since = names, now
        late = now - began >= longest
        if target.startswith(SERIAL) or now - since >= quiet or late:
            try:
                return choose(target, disks)
            except NoneMeant:
                if late:
                    raise
        time.sleep(INTERVAL)
