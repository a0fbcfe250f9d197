"""Btrfs: which bytes it needs, exactly, on one device or several; and how it grows offline on one.

Read: superblocks, chunk tree, root tree, extent tree (docs/format/btrfs.md). Not read, and kept whole with
the reason: RAID0, 10, 5 and 6, a missing device, zoned, extent tree v2, raid stripe tree, a log tree that
waits to be replayed, and every feature that nobody told us of.
"""

from onebay.fs.btrfs.layer import Btrfs, BtrfsFs, probe
from onebay.fs.btrfs.pool import BtrfsPool, assemble

__all__ = ["Btrfs", "BtrfsFs", "BtrfsPool", "assemble", "probe"]
