"""Open LUKS for a verb that only reads; what the key does not open is kept whole as ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Error, Refused, ToolMissing
from onebay.base.event import Noted, silent
from onebay.stack.luks import open_luks
from onebay.tree import Tree, discover

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.stack.luks import Luks

__all__ = ["discover_inside"]


def discover_inside(disk: Volume, key: bytes, *, report: Report = silent) -> Tree:
    """Find every layer on a disk, and in each LUKS that `key` opens: a passphrase, or what a key file holds.

    A LUKS that it does not open is reported and stays closed. Raises what opening the first one raised where
    it opens none: Refused for a wrong key, Unsupported, Damaged, ToolFailed; Refused where there is none,
    ToolMissing.
    """
    opened = 0
    failures: list[tuple[str, Error]] = []

    def unlock(layer: Luks) -> Luks:
        nonlocal opened
        try:
            found = open_luks(layer, key)
        except ToolMissing:
            raise
        except Error as error:
            failures.append((layer.below[0].name, error))
            return layer
        opened += 1
        return found

    tree = discover([disk], unlock=unlock)
    if not opened and failures:
        raise failures[0][1]
    if not opened:
        raise Refused("no LUKS volume, so the key opens nothing", volume=disk.name)
    for name, error in failures:
        report(Noted(f"stays closed: {error}", name))
    return tree
