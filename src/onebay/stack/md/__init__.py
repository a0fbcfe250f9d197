"""Linux md RAID: superblocks 0.90 and 1.x; RAID1 with at least one member in sync is read and grown.

Sources: linux drivers/md/md.c, md-bitmap.c, include/uapi/linux/raid/md_p.h (at 02b5a6031ba7), mdadm
super0.c and super1.c. Levels other than RAID1, reshapes and write journals are named and kept whole;
external metadata (DDF, IMSM) is not md's and only known by name elsewhere.
"""

from onebay.stack.md.array import MdArray, assemble
from onebay.stack.md.read import Superblock, probe

__all__ = ["MdArray", "Superblock", "assemble", "probe"]
