"""XFS, superblock versions 4 and 5."""

from onebay.fs.xfs.read import Xfs, probe

__all__ = ["Xfs", "probe"]
