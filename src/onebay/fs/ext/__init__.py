"""ext2, ext3 and ext4."""

from onebay.fs.ext.filesystem import ExtFs, probe

__all__ = ["ExtFs", "probe"]
