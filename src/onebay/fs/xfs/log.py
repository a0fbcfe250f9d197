"""Whether the log of XFS is clean: its last record says that the file system was unmounted.

As linux fs/xfs/xfs_log_recover.c (xlog_find_head, xlog_find_tail, xlog_check_unmount_rec) decides, and
xfs_repair with it. Each 512-byte block of the log begins with the number of the pass (cycle) that wrote it,
except the first of a record, which has it in its second word. The head is where the cycle changes. We look
only at a clean log: whatever is not exactly that is reported as dirty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.fs.xfs.record import (
    BASIC_BLOCK,
    LOG_MAGIC,
    LOG_RECORD,
    LOG_VERSION_2,
    UNMOUNT_TRANS,
    LogRecord,
)

if TYPE_CHECKING:
    from onebay.block.volume import Volume

# Up to 8 buffers of 256 KiB may be on their way to the disk when power fails (XLOG_TOTAL_REC_SHIFT).
IN_FLIGHT = 8 << 18 >> 9
HEADER_COVERS = 32 << 10
MAX_RECORD = 512 + 8
OP_FLAGS_AT = 9


class Log:
    """The internal log: `blocks` basic blocks of 512 bytes from byte `at` of `volume`."""

    def __init__(self, volume: Volume, at: int, blocks: int) -> None:
        self.volume, self.at, self.blocks = volume, at, blocks

    def read(self, block: int, count: int = 1) -> bytes:
        """Read basic blocks; a negative number counts from the end."""
        return self.volume.read(self.at + block % self.blocks * BASIC_BLOCK, count * BASIC_BLOCK)

    def cycle(self, block: int) -> int:
        """Return the cycle number of one block."""
        return cycle_of(self.read(block))

    def find_head(self) -> int:
        """Return the first block that the current pass has not written, by bisection."""
        first = self.cycle(0)
        low, high = 0, self.blocks - 1
        if self.cycle(high) == first:
            return 0
        while high - low > 1:
            middle = (low + high) // 2
            if self.cycle(middle) == first:
                low = middle
            else:
                high = middle
        return high

    def why_dirty(self, uuid: bytes) -> str | None:
        """Say why the log must be replayed, or None where it is clean; `uuid` is the file system's."""
        head, now = self.find_head(), self.cycle(0)
        done = min(head or self.blocks, IN_FLIGHT)
        current = self.read(head - done, done)
        ahead = self.read(head, min(self.blocks - head, IN_FLIGHT)) if head else b""
        # near its start, what was written last stands at the end, as blocks of the pass before
        wrapped = min(self.blocks - head, IN_FLIGHT - done) if head else 0
        behind = self.read(self.blocks - wrapped, wrapped) if wrapped else b""
        if set(cycles(current)) != {now}:
            return "blocks of another pass stand before its head"
        # a new log is zero up to the first pass; xfs_admin and xfs_repair leave zeros behind their record
        if not set(cycles(ahead) + cycles(behind)) <= {0, now - 1}:
            return "blocks of another pass stand behind its head"
        window = behind + current
        at = last_record(window)
        return "it has no record before its head" if at is None else why_no_unmount(window[at:], uuid)


def why_no_unmount(tail: bytes, uuid: bytes) -> str | None:
    """Say why the last record, which with its data is `tail`, is not a valid mark of unmounting."""
    record = LOG_RECORD.unpack(tail)
    if record.h_fs_uuid not in (uuid, bytes(16)):
        return "it belongs to another file system"
    headers = header_blocks(record)
    if (headers + -(-record.h_len // BASIC_BLOCK)) * BASIC_BLOCK != len(tail):
        return "its last record does not end at its head"
    data = tail[headers * BASIC_BLOCK :]
    if record.h_num_logops != 1 or not data or not data[OP_FLAGS_AT] & UNMOUNT_TRANS:
        return "it was not unmounted"
    return None


def header_blocks(record: LogRecord) -> int:
    """Number of basic blocks that the header of a record takes."""
    if record.h_version & LOG_VERSION_2 and record.h_size > HEADER_COVERS:
        return -(-record.h_size // HEADER_COVERS)
    return 1


def cycle_of(block: bytes) -> int:
    """Return the cycle number in the first words of a basic block."""
    first = int.from_bytes(block[:4], "big")
    return int.from_bytes(block[4:8], "big") if first == LOG_MAGIC else first


def cycles(raw: bytes) -> list[int]:
    """Return the cycle numbers of consecutive basic blocks."""
    return [cycle_of(raw[at : at + 8]) for at in range(0, len(raw), BASIC_BLOCK)]


def last_record(raw: bytes) -> int | None:
    """Return the byte at which the last record header in `raw` starts; None where it is too far back."""
    magic = LOG_MAGIC.to_bytes(4, "big")
    lowest = max(0, len(raw) - MAX_RECORD * BASIC_BLOCK)
    for at in range(len(raw) - BASIC_BLOCK, lowest - 1, -BASIC_BLOCK):
        if raw[at : at + 4] == magic:
            return at
    return None
