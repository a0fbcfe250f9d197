"""MBR partition tables: records, reading, changes, and the layer."""

from onebay.table.mbr.layer import MbrTable, probe

__all__ = ["MbrTable", "probe"]
