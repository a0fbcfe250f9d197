"""LVM2: physical volumes, volume groups, and logical volumes made of linear segments.

Sources: lvm2 lib/format_text, lib/label, lib/misc/crc.c, libdm/libdm-config.c. Not supported, only
named: segment types other than linear, LVM1, and groups that a cluster or another system owns (not grown).
"""

from onebay.stack.lvm.layer import VolumeGroup, assemble
from onebay.stack.lvm.read import LonePv, Pv, probe

__all__ = ["LonePv", "Pv", "VolumeGroup", "assemble", "probe"]
