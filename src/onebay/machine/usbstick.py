"""A volume as a USB stick of any vendor and product id, for a virtual machine.

Appliances know their boot stick by those ids, and QEMU's own usb-storage has fixed ones. QEMU's usb-redir
takes any device from a socket, so this is one: high speed, one interface, two bulk endpoints.

    with stick(Overlay(volume), scratch / "stick.sock", vendor_id=0xF400, product_id=0xF400) as usb:
        machine = qemu.Machine(drives, sticks=(usb.plug(boot_index=1),))

The stick stays what it is when the machine ends and another is started with it. A guest's flush is one of
the volume, and so is the end of every machine. The layers are in usbredir.py (the wire), bulkonly.py and
scsi.py. Source: USB 2.0, chapter 9.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Error, Refused
from onebay.block.listen import Listener
from onebay.machine import qemu
from onebay.machine import usbredir as usb
from onebay.machine.bulkonly import BulkOnly, Phase, StallError
from onebay.machine.scsi import CheckError, Identity, ScsiDisk

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from onebay.block import Volume

ENDPOINT_IN, ENDPOINT_OUT = 0x81, 0x02
CONTROL_SIZE, BULK_SIZE = 64, 512  # bytes of a packet at high speed (5.5.3, 5.8.3)
MASS_STORAGE, SCSI_TRANSPARENT, BULK_ONLY = 0x08, 0x06, 0x50
DEVICE, CONFIGURATION, STRING = 1, 2, 3
ENGLISH = 0x0409
MAX_WAITING = 1024  # requests for bytes that have no answer yet

# bRequestType, bRequest (USB 2.0 table 9-3; Bulk-Only Transport 3.1, 3.2)
GET_DESCRIPTOR = (0x80, 6)
GET_STATUS = {(0x80, 0), (0x81, 0), (0x82, 0)}
# halts are not kept: only a reset ends one (Bulk-Only Transport 5.3.4), and remote wakeup there is none
ACCEPTED = {(0x00, 1), (0x01, 1), (0x02, 1), (0x02, 3)}
BULK_ONLY_RESET = (0x21, 0xFF)
GET_MAX_LUN = (0xA1, 0xFE)


class Stick(Listener):
    """A stick at the socket `path`; `failure` is what ended a connection, or what the volume raised first."""

    def __init__(self, disk: ScsiDisk, path: Path, vendor_id: int, product_id: int) -> None:
        self.disk, self.path = disk, path
        self.vendor_id, self.product_id = vendor_id, product_id
        self.complaint: Error | None = None
        super().__init__(path)

    @property
    def failure(self) -> Error | None:
        """What went wrong first, None where all is well."""
        return self.disk.failure or self.complaint

    def plug(self, boot_index: int | None = None) -> qemu.Stick:
        """Return the device for `qemu.Machine`."""
        return qemu.Stick(self.path, boot_index)

    @contextmanager
    def still(self) -> Iterator[Volume]:
        """Let nobody change the volume inside the block, so that it can be looked at while a machine runs."""
        with self.disk.busy:
            yield self.disk.volume

    def serve(self, port: socket.socket) -> None:
        """Plug the stick in and do what the machine asks, until it is gone."""
        session = Session(self, usb.Connection(port))
        try:
            session.introduce()
            while True:
                session.answer(session.connection.receive())
        except Error as error:
            self.complaint = self.complaint or error
        finally:
            session.connection.close()
            with suppress(CheckError):  # which the disk remembers
                self.disk.flush()


class Session:
    """One machine that the stick is plugged into."""

    def __init__(self, stick: Stick, connection: usb.Connection) -> None:
        self.stick, self.connection = stick, connection
        self.transport = BulkOnly(stick.disk)
        self.configuration = 0
        self.waiting: dict[int, usb.BulkHead] = {}

    def introduce(self) -> None:
        """Say what device this is."""
        self.connection.hello()
        self.describe()
        connect = usb.DeviceConnect(
            usb.SPEED_HIGH, 0, 0, 0, self.stick.vendor_id, self.stick.product_id, 0x0100
        )
        self.connection.send(usb.CONNECT, 0, usb.CONNECT_BODY.pack(connect))

    def describe(self) -> None:
        """Say which interface and which endpoints there are."""
        kinds, sizes = [usb.TYPE_NONE] * usb.SLOTS, [0] * usb.SLOTS
        for endpoint, kind, size in (
            (0x00, usb.TYPE_CONTROL, CONTROL_SIZE),
            (0x80, usb.TYPE_CONTROL, CONTROL_SIZE),
            (ENDPOINT_IN, usb.TYPE_BULK, BULK_SIZE),
            (ENDPOINT_OUT, usb.TYPE_BULK, BULK_SIZE),
        ):
            kinds[usb.slot(endpoint)], sizes[usb.slot(endpoint)] = kind, size
        none = bytes(usb.SLOTS)
        classes = (
            bytes((number,)).ljust(32, b"\0") for number in (MASS_STORAGE, SCSI_TRANSPARENT, BULK_ONLY)
        )
        interfaces = usb.InterfaceInfo(1, none, *classes)
        endpoints = usb.EndpointInfo(bytes(kinds), none, none, struct.pack("<32H", *sizes))
        self.connection.send(usb.INTERFACES, 0, usb.INTERFACES_BODY.pack(interfaces))
        self.connection.send(usb.ENDPOINTS, 0, usb.ENDPOINTS_BODY.pack(endpoints))

    def answer(self, packet: usb.Packet) -> None:
        """Do what one packet asks; what is none of ours is let pass, as usbredir says.

        Raises Truncated and Damaged for what breaks the protocol.
        """
        match packet.type:
            case usb.BULK:
                self.bulk(packet)
            case usb.CONTROL:
                self.control(packet)
            case usb.RESET:
                self.reset()
            case usb.CANCEL:
                self.cancel(packet.id)
            case usb.SET_CONFIGURATION | usb.GET_CONFIGURATION:
                self.configure(packet)
            case usb.SET_ALT_SETTING | usb.GET_ALT_SETTING:
                self.alternate(packet)

    def reset(self) -> None:
        """The host resets the bus."""
        self.transport.reset()
        self.configuration = 0
        for number in list(self.waiting):
            self.cancel(number)

    def cancel(self, number: int) -> None:
        """Forget a request that still waits; one that is answered already is answered."""
        head = self.waiting.pop(number, None)
        if head is not None:
            self.complete(number, head, usb.CANCELLED)

    def configure(self, packet: usb.Packet) -> None:
        """SET CONFIGURATION and GET CONFIGURATION."""
        status = usb.SUCCESS
        if packet.type == usb.SET_CONFIGURATION:
            if packet.body[:1] not in (b"\0", b"\1"):
                status = usb.STALL
            else:
                self.configuration = packet.body[0]
                self.transport.reset()
                self.describe()
        self.connection.send(usb.CONFIGURATION_STATUS, packet.id, bytes((status, self.configuration)))

    def alternate(self, packet: usb.Packet) -> None:
        """SET INTERFACE and GET INTERFACE: there is one setting of one interface."""
        interface, setting = packet.body[:1], packet.body[1:2]
        good = interface == b"\0" and setting in (b"", b"\0")
        if packet.type == usb.SET_ALT_SETTING and good:
            self.transport.reset()
        status = usb.SUCCESS if good else usb.STALL
        self.connection.send(
            usb.ALT_SETTING_STATUS, packet.id, bytes((status,)) + (interface or b"\0") + b"\0"
        )

    def control(self, packet: usb.Packet) -> None:
        """Answer a control transfer (USB 2.0, 9.3)."""
        head = usb.CONTROL_HEAD.unpack(packet.body)
        data = self.request((head.requesttype, head.request), head.value)
        status = usb.STALL if data is None else usb.SUCCESS
        inwards = bool(head.requesttype & 0x80)
        data = (data or b"")[: head.length]
        size = len(data) if inwards else head.length
        reply = usb.CONTROL_HEAD.pack(head, status=status, length=0 if status else size)
        self.connection.send(usb.CONTROL, packet.id, reply, data)

    def request(self, kind: tuple[int, int], value: int) -> bytes | None:
        """Return the data of a control transfer, None where it is unknown."""
        if kind == GET_DESCRIPTOR:
            return self.descriptor(value >> 8, value & 0xFF)
        if kind in GET_STATUS:
            halted = kind[0] == 0x82 and self.transport.phase is Phase.BROKEN
            return bytes((halted, 0))
        if kind in ACCEPTED:
            return b""
        if kind == GET_MAX_LUN:
            return b"\0"
        if kind == BULK_ONLY_RESET:
            self.transport.reset()
            return b""
        return None

    def descriptor(self, kind: int, index: int) -> bytes | None:
        """Return a descriptor (USB 2.0, 9.6); None where there is none, as for other speeds."""
        own = self.stick.disk.identity
        strings = ("", own.vendor, own.product, own.serial)
        if kind == DEVICE:
            ids = (self.stick.vendor_id, self.stick.product_id, 0x0100)
            return struct.pack("<BBHBBBBHHHBBBB", 18, DEVICE, 0x0200, 0, 0, 0, CONTROL_SIZE, *ids, 1, 2, 3, 1)
        if kind == CONFIGURATION and index == 0:
            interface = (9, 4, 0, 0, 2, MASS_STORAGE, SCSI_TRANSPARENT, BULK_ONLY, 0)
            rest = bytes(interface)
            for endpoint in (ENDPOINT_IN, ENDPOINT_OUT):
                rest += struct.pack("<BBBBHB", 7, 5, endpoint, usb.TYPE_BULK, BULK_SIZE, 0)
            return struct.pack("<BBHBBBBB", 9, CONFIGURATION, 9 + len(rest), 1, 1, 0, 0x80, 250) + rest
        if kind == STRING and index < len(strings):
            text = struct.pack("<H", ENGLISH) if index == 0 else strings[index].encode("utf-16-le")
            return bytes((2 + len(text), STRING)) + text
        return None

    def bulk(self, packet: usb.Packet) -> None:
        """Take bytes from the host, or note that it asks for some; then give what can be given."""
        head = usb.BULK_HEAD.unpack(packet.body)
        data = packet.body[usb.BULK_HEAD.size :]
        if head.endpoint == ENDPOINT_OUT and head.size == len(data):
            try:
                self.transport.out(data)
                self.complete(packet.id, head, usb.SUCCESS, size=head.size)
            except StallError:
                self.complete(packet.id, head, usb.STALL)
        elif head.endpoint == ENDPOINT_IN and not data and head.size <= usb.MAX_BODY:
            if len(self.waiting) >= MAX_WAITING:
                raise Damaged("usbredir requests that wait", expected=f"<= {MAX_WAITING}", found="more")
            self.waiting[packet.id] = head
        else:
            self.complete(packet.id, head, usb.INVALID)
        self.give()

    def give(self) -> None:
        """Answer requests in their order, as long as there is something for them."""
        while self.waiting:
            number, head = next(iter(self.waiting.items()))
            try:
                data = self.transport.into(head.size)
                if data is None:
                    return
                self.complete(number, head, usb.SUCCESS, data, size=len(data))
            except StallError:
                self.complete(number, head, usb.STALL)
            del self.waiting[number]

    def complete(
        self, number: int, head: usb.BulkHead, status: int, data: bytes = b"", *, size: int = 0
    ) -> None:
        """Tell how a bulk transfer ended, of which `size` bytes went over the wire."""
        length = {"length": size & 0xFFFF, "length_high": size >> 16}
        self.connection.send(usb.BULK, number, usb.BULK_HEAD.pack(head, status=status, **length), data)


@contextmanager
def stick(
    volume: Volume,
    path: Path,
    *,
    vendor_id: int = 0xF400,
    product_id: int = 0xF400,
    identity: Identity | None = None,
    readonly: bool = False,
) -> Iterator[Stick]:
    """Offer `volume` as a USB stick at the socket `path` inside the block.

    Inside it only the stick touches the volume, or whoever holds `Stick.still`. The socket belongs into a
    folder of ours alone, for whoever may connect may write. Raises Refused for ids that are none, a volume of
    broken sectors, or where there can be no socket; raises afterwards what the volume raised, and Damaged or
    Unsupported where the other side spoke no usbredir.
    """
    for number in (vendor_id, product_id):
        if not 0 <= number <= 0xFFFF:
            raise Refused("a usb id has 16 bits", found=hex(number))
    server = Stick(ScsiDisk(volume, identity or Identity(), readonly), path, vendor_id, product_id)
    try:
        yield server
    except Error as error:
        server.stop()
        if server.failure is not None:
            raise server.failure from error
        raise
    finally:
        server.stop()
        path.unlink(missing_ok=True)
    if server.failure is not None:
        raise server.failure
