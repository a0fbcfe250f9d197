"""A volume as a SCSI disk: what each command moves, and the sense of those that fail.

What a command reads or writes is not done here at once but in pieces, as the transport carries them, so that
a command of 4 GiB needs no memory. Sources: SPC-4 (INQUIRY, MODE SENSE, REPORT LUNS, REQUEST SENSE), SBC-3
(the rest), MMC-4 6.24 (READ FORMAT CAPACITIES). Not supported: VERIFY with data, WRITE SAME, UNMAP,
MODE SELECT, all but logical unit 0.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from onebay.base.error import Error, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onebay.block import Volume

REQUEST_SENSE, READ_FORMAT_CAPACITIES, REPORT_LUNS = 0x03, 0x23, 0xA0
LAST_LBA_32 = 0xFFFFFFFF
CACHING_PAGE, ALL_PAGES, CHANGEABLE = 0x08, 0x3F, 1
WRITE_CACHE = 0x04
FORCE_UNIT_ACCESS = 0x08


@dataclass(frozen=True, slots=True)
class Sense:
    """Why a command failed: sense key, additional sense code and its qualifier (SPC-4 4.5.6)."""

    key: int = 0
    code: int = 0
    qualifier: int = 0

    def fixed(self) -> bytes:
        """Return fixed format sense data (SPC-4 4.5.3)."""
        return struct.pack(">BxB4xB4xBB4x", 0x70, self.key, 10, self.code, self.qualifier)


GOOD = Sense()
READ_ERROR = Sense(3, 0x11)
WRITE_ERROR = Sense(3, 0x0C)
NO_SUCH_COMMAND = Sense(5, 0x20)
OUT_OF_RANGE = Sense(5, 0x21)
INVALID_FIELD = Sense(5, 0x24)
NO_SUCH_UNIT = Sense(5, 0x25)
READ_ONLY = Sense(7, 0x27)


class CheckError(Exception):
    """A command is refused; `sense` says why."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense)
        self.sense = sense


@dataclass(frozen=True, slots=True)
class Identity:
    """What the disk says of itself; ASCII, at most 8, 16, 4 and 126 characters."""

    vendor: str = "USB"
    product: str = "Flash Disk"
    revision: str = "1.00"
    serial: str = "000000000001"

    def __post_init__(self) -> None:
        for text, most in ((self.vendor, 8), (self.product, 16), (self.revision, 4), (self.serial, 126)):
            if not text.isascii() or not text.isprintable() or len(text) > most:
                raise Refused(
                    "a usb stick cannot be called so",
                    expected=f"at most {most} ASCII characters",
                    found=repr(text),
                )


@dataclass(frozen=True, slots=True)
class Job:
    """What a command moves: `data` to the host, or `size` bytes from or to byte `at` of the volume."""

    data: bytes | None = None
    at: int = 0
    size: int = 0
    write: bool = False
    flush: bool = False


NOTHING = Job()


@dataclass
class ScsiDisk:
    """Logical unit 0 on a volume; `failure` is the first error of the volume itself.

    Whoever holds `busy` has the volume to himself. Raises Refused where that is not made of whole sectors.
    """

    volume: Volume
    identity: Identity
    readonly: bool = False
    sense: Sense = GOOD
    failure: Error | None = None
    blocks: int = field(init=False)
    busy: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.blocks, rest = divmod(self.volume.size, self.volume.sector_size)
        if rest or not self.blocks:
            raise Refused(
                "a disk has whole sectors",
                volume=self.volume.name,
                expected=f"a multiple of {self.volume.sector_size} bytes",
                found=self.volume.size,
            )

    def start(self, command: bytes) -> Job:
        """Say what a command block of up to 16 bytes moves; raises CheckError where it fails at once."""
        block = command.ljust(16, b"\0")
        if block[0] != REQUEST_SENSE:
            self.sense = GOOD
        work = self.COMMANDS.get(block[0])
        if work is None:
            raise CheckError(NO_SUCH_COMMAND)
        return work(self, block)

    def read(self, at: int, size: int) -> bytes:
        """Read bytes of the volume; raises CheckError where they cannot be read."""
        try:
            with self.busy:
                return self.volume.read(at, size)
        except Error as error:
            self.failure = self.failure or error
            raise CheckError(READ_ERROR) from error

    def write(self, at: int, data: memoryview) -> None:
        """Write bytes of the volume; raises CheckError where they cannot be written."""
        try:
            with self.busy:
                self.volume.write(at, data)
        except Error as error:
            self.failure = self.failure or error
            raise CheckError(WRITE_ERROR) from error

    def flush(self) -> None:
        """Bring what was written to the medium; raises CheckError where that fails."""
        try:
            with self.busy:
                self.volume.flush()
        except Error as error:
            self.failure = self.failure or error
            raise CheckError(WRITE_ERROR) from error

    def nothing(self, block: bytes) -> Job:  # noqa: ARG002
        """TEST UNIT READY, PREVENT ALLOW MEDIUM REMOVAL: the medium is always there."""
        return NOTHING

    def start_stop(self, block: bytes) -> Job:  # noqa: ARG002
        """START STOP UNIT: whoever stops the disk wants all of it on the medium."""
        self.flush()
        return NOTHING

    def synchronize(self, block: bytes) -> Job:  # noqa: ARG002
        """SYNCHRONIZE CACHE: all of it, whatever part is asked for."""
        self.flush()
        return NOTHING

    def request_sense(self, block: bytes) -> Job:
        """REQUEST SENSE: why the last command failed, once."""
        data, self.sense = self.sense.fixed(), GOOD
        return Job(data[: block[4]])

    def inquiry(self, block: bytes) -> Job:
        """INQUIRY: the standard data, and the pages that name the pages and the serial number."""
        own = self.identity
        length = int.from_bytes(block[3:5], "big")
        pages = {0x00: bytes((0x00, 0x80)), 0x80: own.serial.encode("ascii")}
        if block[1] & 1:
            if block[2] not in pages:
                raise CheckError(INVALID_FIELD)
            page = pages[block[2]]
            return Job((bytes((0, block[2], 0, len(page))) + page)[:length])
        if block[1] or block[2]:
            raise CheckError(INVALID_FIELD)
        names = ((own.vendor, 8), (own.product, 16), (own.revision, 4))
        # a removable disk, SPC-2, format 2
        data = bytes((0, 0x80, 4, 2, 31, 0, 0, 0)) + b"".join(n.encode().ljust(size) for n, size in names)
        return Job(data[:length])

    def report_luns(self, block: bytes) -> Job:
        """REPORT LUNS: there is only number 0."""
        return Job(struct.pack(">I12x", 8)[: int.from_bytes(block[6:10], "big")])

    def capacity_10(self, block: bytes) -> Job:  # noqa: ARG002
        """READ CAPACITY(10)."""
        return Job(struct.pack(">II", min(self.blocks - 1, LAST_LBA_32), self.volume.sector_size))

    def service_action_in(self, block: bytes) -> Job:
        """READ CAPACITY(16), which shares its operation code with others."""
        if block[1] & 0x1F != 0x10:
            raise CheckError(INVALID_FIELD)
        data = struct.pack(">QI20x", self.blocks - 1, self.volume.sector_size)
        return Job(data[: int.from_bytes(block[10:14], "big")])

    def format_capacities(self, block: bytes) -> Job:
        """READ FORMAT CAPACITIES: formatted, and with what."""
        count = min(self.blocks, LAST_LBA_32)
        data = struct.pack(">3xBII", 8, count, 2 << 24 | self.volume.sector_size)
        return Job(data[: int.from_bytes(block[7:9], "big")])

    def mode_sense(self, block: bytes) -> Job:
        """MODE SENSE(6) and (10): whether it may be written, and that it has a write cache."""
        page, control = block[2] & 0x3F, block[2] >> 6
        if page not in (CACHING_PAGE, ALL_PAGES) or block[3]:
            raise CheckError(INVALID_FIELD)
        flags = 0 if control == CHANGEABLE else WRITE_CACHE
        data = bytes((CACHING_PAGE, 18, flags)) + bytes(17)
        protect = 0x80 if self.readonly else 0
        if block[0] == 0x1A:
            return Job((bytes((3 + len(data), 0, protect, 0)) + data)[: block[4]])
        head = struct.pack(">HxB4x", 6 + len(data), protect)
        return Job((head + data)[: int.from_bytes(block[7:9], "big")])

    def move(self, block: bytes) -> Job:
        """READ and WRITE of 6, 10, 12 and 16 bytes, and VERIFY, which moves nothing."""
        lba, count = address(block)
        if lba + count > self.blocks:
            raise CheckError(OUT_OF_RANGE)
        kind = block[0] & 0x1F
        if kind == 0x0F:
            if block[1] & 0x06:
                raise CheckError(INVALID_FIELD)
            return NOTHING
        write = kind == 0x0A
        if write and self.readonly:
            raise CheckError(READ_ONLY)
        unit = self.volume.sector_size
        force = write and block[0] != 0x0A and bool(block[1] & FORCE_UNIT_ACCESS)
        return Job(None, lba * unit, count * unit, write, force)

    COMMANDS: ClassVar[Mapping[int, Callable[[ScsiDisk, bytes], Job]]] = {
        0x00: nothing,
        REQUEST_SENSE: request_sense,
        0x08: move,
        0x0A: move,
        0x12: inquiry,
        0x1A: mode_sense,
        0x1B: start_stop,
        0x1E: nothing,
        READ_FORMAT_CAPACITIES: format_capacities,
        0x25: capacity_10,
        0x28: move,
        0x2A: move,
        0x2F: move,
        0x35: synchronize,
        0x5A: mode_sense,
        0x88: move,
        0x8A: move,
        0x8F: move,
        0x91: synchronize,
        0x9E: service_action_in,
        REPORT_LUNS: report_luns,
        0xA8: move,
        0xAA: move,
        0xAF: move,
    }


def address(block: bytes) -> tuple[int, int]:
    """Return the first block and the number of blocks of a READ, WRITE or VERIFY (SBC-3 5)."""
    match block[0] >> 5:
        case 0:
            return int.from_bytes(block[1:4], "big") & 0x1FFFFF, block[4] or 256
        case 1:
            return int.from_bytes(block[2:6], "big"), int.from_bytes(block[7:9], "big")
        case 4:
            return int.from_bytes(block[2:10], "big"), int.from_bytes(block[10:14], "big")
        case _:
            return int.from_bytes(block[2:6], "big"), int.from_bytes(block[6:10], "big")
