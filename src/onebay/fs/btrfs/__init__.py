"""Btrfs on a single device: which bytes it needs, exactly, and how it grows offline.

Read: superblocks, chunk tree, root tree, extent tree (docs/format/btrfs.md). Not read, and kept whole with
the reason: several devices, RAID profiles, zoned, extent tree v2, raid stripe tree, a log tree that waits to
be replayed, and every feature that nobody told us of.
"""

from onebay.fs.btrfs.layer import BtrfsFs, probe

__all__ = ["BtrfsFs", "probe"]
