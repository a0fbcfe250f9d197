"""Partition tables: MBR and GPT, found, described, grown, changed, and converted in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Unsupported
from onebay.table import dsm, gpt, kinds, mbr
from onebay.table.convert import plan_convert
from onebay.table.gpt import GptTable
from onebay.table.gpt import write as gpt_write
from onebay.table.mbr import MbrTable
from onebay.table.mbr import write as mbr_write
from onebay.table.mbr.read import is_file_system, is_protective, read_mbr
from onebay.table.model import Table
from onebay.table.partition import Gap, NewPartition, Partition

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onebay.base.step import Step
    from onebay.layer import Suspect, Volume

__all__ = [
    "Gap",
    "GptTable",
    "MbrTable",
    "NewPartition",
    "Partition",
    "Table",
    "dsm",
    "kinds",
    "plan_add",
    "plan_convert",
    "plan_fill",
    "plan_mend",
    "plan_remove",
    "probe",
]


def probe(volume: Volume) -> Table | Suspect | None:
    """Return the partition table of a volume; a Suspect where it claims one that breaks its rules."""
    sector = read_mbr(volume)
    if sector is not None and is_protective(sector):
        # a file system's boot code may hold this byte by chance
        return None if is_file_system(sector) else gpt.probe(volume, sector)
    if sector is not None:
        if (found := mbr.probe(volume, sector)) is not None:
            return found
        if is_file_system(sector):
            return None
    return gpt.probe_unprotected(volume)


def plan_add(table: Table, additions: Sequence[NewPartition]) -> list[Step]:
    """Return the steps that add partitions; what is to be in them must be in the plan before.

    Raises Refused where one overlaps, is off the sectors, outside the usable space, or finds no free slot; in
    an MBR only primary partitions can be added.
    """
    if isinstance(table, GptTable):
        return gpt_write.plan_add(table, additions)
    return mbr_write.plan_add(as_mbr(table), additions)


def plan_fill(table: Table) -> list[Step]:
    """Return the steps that let the table cover a disk that became larger, and change no partition.

    An MBR says nothing of the disk's size. Raises Refused where a GPT is too damaged to be written.
    """
    return gpt_write.plan_fill(table) if isinstance(table, GptTable) else []


def plan_mend(table: Table) -> list[Step]:
    """Return the steps that mend the copy of a GPT that does not count; an MBR has one copy only."""
    return gpt_write.plan_mend(table) if isinstance(table, GptTable) else []


def plan_remove(table: Table, numbers: Collection[int]) -> list[Step]:
    """Return the steps that remove partitions; their bytes stay. Raises Refused or Unsupported."""
    if isinstance(table, GptTable):
        return gpt_write.plan_remove(table, numbers)
    return mbr_write.plan_remove(as_mbr(table), numbers)


def as_mbr(table: Table) -> MbrTable:
    """Return the table as an MBR; raises Unsupported for a table that is neither."""
    if not isinstance(table, MbrTable):
        raise Unsupported(f"cannot write a table of kind {table.kind}", volume=table.volume.name)
    return table
