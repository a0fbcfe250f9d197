"""MBR to GPT in place: partitions keep their bytes, their numbers and, mapped, their types.

The disk stays the MBR disk it is until the last write, 66 bytes of LBA 0, makes it a GPT disk; boot code and
disk signature in LBA 0 stay. What stands in the sectors behind LBA 0 (GRUB's core) is overwritten on the way:
from the first write on, a BIOS boot path through it is gone until the caller installs another one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4
from zlib import crc32

from onebay.base.error import Refused, Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.step import Flush, Step, Write
from onebay.table.gpt.read import Copy, Gpt
from onebay.table.gpt.record import PRIMARY_LBA, REVISION_1_0, SIGNATURE, Header
from onebay.table.gpt.write import put_copy, put_new
from onebay.table.kinds import GPT_OF_MBR
from onebay.table.mbr.record import TABLE_AT, pack_entries
from onebay.table.mbr.write import protective_entries
from onebay.table.partition import NewPartition
from onebay.table.room import check_additions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.block import Volume
    from onebay.table.mbr import MbrTable

ENTRY_COUNT = 128
ENTRY_SIZE = 128


def plan_convert(table: MbrTable, *, additions: Sequence[NewPartition] = ()) -> list[Step]:
    """Return the steps that turn an MBR disk into a GPT disk, with `additions` (in GPT types) in it.

    Logical partitions keep their numbers as entries; the extended one and its chain are no more. What is to
    be in additions must be in the plan before. Raises Refused without room for the table (34 sectors before
    the first partition and 33 behind the last, at 512 bytes), Unsupported for a type without counterpart.
    """
    table.refuse_writing()
    volume = table.volume
    primary, backup = make_headers(volume)
    refuse_crowded(table, primary, backup)
    kept = [mapped(table, number) for number in numbers(table)]
    sector = volume.sector_size
    usable = (primary.first_usable_lba * sector, primary.end_usable_lba * sector)
    parts = [part for part in table.partitions if not part.is_extended]
    check_additions(volume, parts, usable, additions)
    metadata = table.metadata()
    for new in additions:
        if metadata.overlaps(new.start, new.end):
            raise Refused(
                "a new partition would overwrite the MBR's chain while it still counts",
                volume=volume.name,
                at=new.start,
            )
    array = bytearray(primary.array_size)
    blank = Gpt(volume, None, Copy(primary, b"", bytes(array)), None, ())
    put_new(array, blank, {}, [*kept, *additions], primary)
    entries = bytes(array)
    rest = bytes(sector - 92)
    crc = crc32(entries)
    return [
        Flush(volume),
        *put_copy(volume, with_crc(backup, crc), rest, entries, "write the backup gpt"),
        *put_copy(volume, with_crc(primary, crc), rest, entries, "write the primary gpt"),
        Write(
            volume,
            TABLE_AT,
            pack_entries(protective_entries(volume.size // sector)),
            "make the mbr a protective one",
        ),
        Flush(volume),
    ]


def numbers(table: MbrTable) -> list[int]:
    """Numbers of the partitions that stay."""
    return [part.number for part in table.partitions if not part.is_extended]


def mapped(table: MbrTable, number: int) -> NewPartition:
    """Return partition `number` as a GPT entry to be; raises Unsupported for a type without counterpart."""
    part = table.partition(number)
    assert part is not None
    kind = GPT_OF_MBR.get(part.type)
    if kind is None:
        raise Unsupported(
            f"p{number} has type {part.type}, which has no counterpart in a GPT", volume=table.volume.name
        )
    return NewPartition(part.start, part.size, kind, active=part.active, number=number)


def make_headers(volume: Volume) -> tuple[Header, Header]:
    """Return the two headers of an empty table with the usual 128 entries and a new disk GUID."""
    sector = volume.sector_size
    lbas = -(-ENTRY_COUNT * ENTRY_SIZE // sector)
    last = volume.size // sector - 1
    guid = uuid4().bytes_le

    def header(my_lba: int, alternate_lba: int, array_lba: int) -> Header:
        return Header(
            signature=SIGNATURE,
            revision=REVISION_1_0,
            header_size=92,
            header_crc32=0,
            reserved1=0,
            my_lba=my_lba,
            alternate_lba=alternate_lba,
            first_usable_lba=PRIMARY_LBA + 1 + lbas,
            last_usable_lba=max(0, last - lbas - 1),
            disk_guid=guid,
            partition_entry_lba=array_lba,
            num_partition_entries=ENTRY_COUNT,
            sizeof_partition_entry=ENTRY_SIZE,
            partition_entry_array_crc32=0,
        )

    return header(PRIMARY_LBA, last, PRIMARY_LBA + 1), header(last, PRIMARY_LBA, last - lbas)


def with_crc(header: Header, crc: int) -> Header:
    """Return the header with the checksum of its entries."""
    return replace(header, partition_entry_array_crc32=crc)


def refuse_crowded(table: MbrTable, primary: Header, backup: Header) -> None:
    """Raise Refused where a partition, or the MBR's own chain, stands where the GPT has to go."""
    volume, sector = table.volume, table.volume.sector_size
    low, high = primary.first_usable_lba * sector, backup.partition_entry_lba * sector
    if high < low:
        raise Refused("the disk is too small for a GPT", volume=volume.name)
    chain = table.metadata() - ExtentSet.single(0, sector)
    bounds = [(part.start, part.end, f"p{part.number}") for part in table.partitions if not part.is_extended]
    bounds += [(start, end, "an extended boot record") for start, end in chain]
    for start, end, what in bounds:
        if start < low:
            raise Refused(
                f"{what} starts too early for a GPT",
                volume=volume.name,
                at=start,
                expected=f">= {low} bytes",
                found=start,
            )
        if end > high:
            raise Refused(
                f"{what} ends too late for a GPT",
                volume=volume.name,
                at=start,
                expected=f"<= {high} bytes",
                found=end,
            )
