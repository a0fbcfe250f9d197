"""GUID partition tables: records, reading, changes, and the layer."""

from onebay.table.gpt.layer import GptTable, probe, probe_unprotected

__all__ = ["GptTable", "probe", "probe_unprotected"]
