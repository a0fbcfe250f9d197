"""FAT12, FAT16 and FAT32."""

from onebay.fs.fat.directory import Entry
from onebay.fs.fat.read import Fat, probe

__all__ = ["Entry", "Fat", "probe"]
