"""A GPT for a shorter copy of its disk: the same entries, the last one cut, the backup at the new end.

Source: UEFI 2.10 section 5.3.2 (places of both copies), table 5.4 (protective MBR).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onebay.base.error import Refused
from onebay.table.gpt.write import (
    Places,
    entry_at,
    plan_protective,
    plan_table,
    primary_array,
    put_entry,
    refuse_hybrid,
)

if TYPE_CHECKING:
    from onebay.base.step import Step
    from onebay.block import Volume
    from onebay.table.gpt.layer import GptTable


def plan_end(table: GptTable, disk: Volume, end: int) -> list[Step]:
    """Return the steps that put the table on `disk`, where the data partition ends at byte `end`.

    Raises Refused where the table must be mended first, Unsupported for a hybrid MBR.
    """
    table.refuse_writing()
    if table.gpt.primary is None:
        raise Refused("the primary gpt is not valid", volume=table.volume.name, hint="onebay repair")
    refuse_hybrid(table.gpt, "shrink")
    # the old backup is not on the new disk
    gpt = replace(table.gpt, volume=disk, backup=None, findings=())
    array = bytearray(gpt.chosen.array)
    part = table.data_partition
    if part is not None and end < part.end:
        entry = entry_at(gpt, part.number)
        put_entry(gpt, array, part.number, replace(entry, ending_lba=end // disk.sector_size - 1))
    backup_array = gpt.last_lba - gpt.chosen.header.array_lbas(disk.sector_size)
    places = Places(primary_array(gpt), gpt.last_lba, backup_array, backup_array)
    return plan_table(gpt, bytes(array), places, f"end at {disk.size}") + plan_protective(gpt)
