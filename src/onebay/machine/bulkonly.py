"""USB Mass Storage, Bulk-Only Transport: command, data and status of one disk, as bytes out and bytes in.

The host always gets, and may always send, as many bytes as it announced: what the disk has not is zeros, what
it does not want is dropped, and the residue says so (section 6.7 allows it; SeaBIOS does not come back from
short packets and stalls). Source: "USB Mass Storage Class Bulk-Only Transport", revision 1.0; QEMU 7.2,
hw/usb/dev-storage.c.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from onebay.base.record import Layout
from onebay.machine.scsi import NO_SUCH_UNIT, NOTHING, CheckError

if TYPE_CHECKING:
    from onebay.machine.scsi import ScsiDisk, Sense

CBW_SIGNATURE, CSW_SIGNATURE = 0x43425355, 0x53425355
PASSED, FAILED, PHASE_ERROR = range(3)
INWARDS = 0x80


@dataclass(frozen=True, slots=True)
class CommandWrapper:
    """Command Block Wrapper (5.1)."""

    signature: Annotated[int, "I"]
    tag: Annotated[int, "I"]
    data_transfer_length: Annotated[int, "I"]
    flags: Annotated[int, "B"]
    lun: Annotated[int, "B"]
    length: Annotated[int, "B"]
    command: Annotated[bytes, "16s"]


@dataclass(frozen=True, slots=True)
class StatusWrapper:
    """Command Status Wrapper (5.2)."""

    signature: Annotated[int, "I"]
    tag: Annotated[int, "I"]
    data_residue: Annotated[int, "I"]
    status: Annotated[int, "B"]


CBW = Layout(CommandWrapper, order="<", size=31)
CSW = Layout(StatusWrapper, order="<", size=13)


class Phase(enum.Enum):
    """What the host has to do next."""

    COMMAND = "send a command"
    DATA_OUT = "send data"
    DATA_IN = "take data"
    STATUS = "take the status"
    BROKEN = "reset"


class StallError(Exception):
    """The host broke the rules; the endpoint is halted."""


class BulkOnly:
    """The transport to `disk`: call `out` for bytes from the host, `into` for bytes that it asks for."""

    def __init__(self, disk: ScsiDisk) -> None:
        self.disk = disk
        self.reset()

    def reset(self) -> None:
        """Forget the command under way (3.1, and every reset of the bus)."""
        self.phase = Phase.COMMAND
        self.tag = self.left = self.done = self.residue = 0
        self.status = PASSED
        self.job = NOTHING
        self.part = b""  # of a sector; only whole ones are written

    def out(self, data: bytes) -> None:
        """Take bytes from the host; raises StallError where none are expected."""
        if self.phase is Phase.COMMAND:
            self.begin(data)
        elif self.phase is Phase.DATA_OUT:
            self.take(data)
        else:
            raise self.stall()

    def into(self, size: int) -> bytes | None:
        """Return what the host gets that asks for up to `size` bytes; None while there is nothing for it.

        Raises StallError after a broken rule.
        """
        if self.phase is Phase.DATA_IN:
            return self.give(min(size, self.left))
        if self.phase is Phase.STATUS:
            if size < CSW.size:
                raise self.stall()
            self.phase = Phase.COMMAND
            return CSW.pack(StatusWrapper(CSW_SIGNATURE, self.tag, self.residue, self.status))
        if self.phase is Phase.BROKEN:
            raise self.stall()
        return None

    def stall(self) -> StallError:
        """Halt until the host resets the device (5.3.4, 6.6.1)."""
        self.phase = Phase.BROKEN
        return StallError()

    def begin(self, data: bytes) -> None:
        """Start the command of a wrapper; raises StallError where it is none (6.2)."""
        if len(data) != CBW.size:
            raise self.stall()
        wrapper = CBW.unpack(data)
        if wrapper.signature != CBW_SIGNATURE or not 0 < wrapper.length <= 16:
            raise self.stall()
        self.reset()
        self.tag, self.left = wrapper.tag, wrapper.data_transfer_length
        self.residue = self.left
        inwards = bool(wrapper.flags & INWARDS)
        try:
            if wrapper.lun:
                raise CheckError(NO_SUCH_UNIT)
            job = self.disk.start(wrapper.command[: wrapper.length])
            wants = job.size if job.data is None else len(job.data)
            if wants > self.left or (wants and inwards == job.write):
                self.status = PHASE_ERROR
            else:
                self.job = job
        except CheckError as error:
            self.fail(error.sense)
        if self.left:
            self.phase = Phase.DATA_IN if inwards else Phase.DATA_OUT
        else:
            self.phase = Phase.STATUS

    def fail(self, sense: Sense) -> None:
        """Move nothing more; the status will say that the command failed."""
        self.disk.sense = sense
        self.status = FAILED
        self.job = NOTHING

    def give(self, size: int) -> bytes:
        """Return the next bytes for the host."""
        job, data = self.job, b""
        if job.data is not None:
            data = job.data[self.done : self.done + size]
        elif self.done < job.size:
            try:
                data = self.disk.read(job.at + self.done, min(size, job.size - self.done))
            except CheckError as error:
                self.fail(error.sense)
        self.done += len(data)
        self.residue -= len(data)
        self.advance(size)
        return data.ljust(size, b"\0")

    def take(self, data: bytes) -> None:
        """Write whole sectors of what the host sends."""
        if len(data) > self.left:
            raise self.stall()
        job = self.job
        wanted = data[: job.size - self.done - len(self.part)] if job.write else b""
        if wanted:
            whole = self.part + wanted
            size = len(whole) // self.disk.volume.sector_size * self.disk.volume.sector_size
            try:
                self.disk.write(job.at + self.done, memoryview(whole)[:size])
                self.done += size
                self.residue -= size
                self.part = whole[size:]
                if job.flush and self.done == job.size:
                    self.disk.flush()
            except CheckError as error:
                self.fail(error.sense)
        self.advance(len(data))

    def advance(self, size: int) -> None:
        """Count bytes that went over the wire; the status follows the last."""
        self.left -= size
        if not self.left:
            self.phase = Phase.STATUS
