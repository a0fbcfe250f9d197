"""The usbredir protocol as the side speaks it that has the USB device: packets and their heads.

Everything is said at once, before QEMU has greeted, so that the device is there when the firmware looks; what
that takes of QEMU is checked when its greeting comes. Source: usbredir 0.13 (protocol 0.7), usbredirproto.h
and docs/usb-redirection-protocol.md; QEMU 7.2, hw/usb/redirect.c. Not supported: bulk streams, buffered bulk
input, interrupt and isochronous endpoints, filters; peers without ids of 64 bits (QEMU before 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from onebay.base.error import Damaged, Unsupported
from onebay.base.record import Layout
from onebay.block.listen import GoneError

if TYPE_CHECKING:
    import socket

(
    HELLO,
    CONNECT,
    DISCONNECT,
    RESET,
    INTERFACES,
    ENDPOINTS,
    SET_CONFIGURATION,
    GET_CONFIGURATION,
    CONFIGURATION_STATUS,
    SET_ALT_SETTING,
    GET_ALT_SETTING,
    ALT_SETTING_STATUS,
) = range(12)
CANCEL = 21
CONTROL, BULK = 100, 101

SUCCESS, CANCELLED, INVALID, IO_ERROR, STALL = range(5)
SPEED_HIGH = 2
TYPE_CONTROL, TYPE_BULK, TYPE_NONE = 0, 2, 255
SLOTS = 32  # endpoints 0 to 15 outwards, then 0 to 15 inwards

# capabilities: device version in CONNECT, packet sizes in ENDPOINTS, ids of 64 bits, bulk lengths of 32 bits
CAPABILITIES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6
NAME = b"onebay"
MAX_BODY = 16 << 20  # bytes; drivers transfer 1 MiB at most


@dataclass(frozen=True, slots=True)
class ShortHeader:
    """Head of every packet until both sides have greeted."""

    type: Annotated[int, "I"]
    length: Annotated[int, "I"]
    id: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class Header:
    """Head of every packet afterwards."""

    type: Annotated[int, "I"]
    length: Annotated[int, "I"]
    id: Annotated[int, "Q"]


@dataclass(frozen=True, slots=True)
class Hello:
    """The greeting."""

    version: Annotated[bytes, "64s"]
    capabilities: Annotated[int, "I"]


@dataclass(frozen=True, slots=True)
class DeviceConnect:
    """What is plugged in."""

    speed: Annotated[int, "B"]
    device_class: Annotated[int, "B"]
    device_subclass: Annotated[int, "B"]
    device_protocol: Annotated[int, "B"]
    vendor_id: Annotated[int, "H"]
    product_id: Annotated[int, "H"]
    device_version_bcd: Annotated[int, "H"]


@dataclass(frozen=True, slots=True)
class InterfaceInfo:
    """The interfaces of a device, each field an array."""

    interface_count: Annotated[int, "I"]
    interface: Annotated[bytes, "32s"]
    interface_class: Annotated[bytes, "32s"]
    interface_subclass: Annotated[bytes, "32s"]
    interface_protocol: Annotated[bytes, "32s"]


@dataclass(frozen=True, slots=True)
class EndpointInfo:
    """The endpoints of a device, each field an array; packet sizes of 16 bits."""

    type: Annotated[bytes, "32s"]
    interval: Annotated[bytes, "32s"]
    interface: Annotated[bytes, "32s"]
    max_packet_size: Annotated[bytes, "64s"]


@dataclass(frozen=True, slots=True)
class ControlHead:
    """A control transfer; data follows."""

    endpoint: Annotated[int, "B"]
    request: Annotated[int, "B"]
    requesttype: Annotated[int, "B"]
    status: Annotated[int, "B"]
    value: Annotated[int, "H"]
    index: Annotated[int, "H"]
    length: Annotated[int, "H"]


@dataclass(frozen=True, slots=True)
class BulkHead:
    """A bulk transfer; data follows. Its length in bytes is in two parts."""

    endpoint: Annotated[int, "B"]
    status: Annotated[int, "B"]
    length: Annotated[int, "H"]
    stream_id: Annotated[int, "I"]
    length_high: Annotated[int, "H"]

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.length_high << 16 | self.length


SHORT_HEADER = Layout(ShortHeader, order="<", size=12)
HEADER = Layout(Header, order="<", size=16)
HELLO_BODY = Layout(Hello, order="<", size=68)
CONNECT_BODY = Layout(DeviceConnect, order="<", size=10)
INTERFACES_BODY = Layout(InterfaceInfo, order="<", size=132)
ENDPOINTS_BODY = Layout(EndpointInfo, order="<", size=160)
CONTROL_HEAD = Layout(ControlHead, order="<", size=10)
BULK_HEAD = Layout(BulkHead, order="<", size=10)


class Packet(NamedTuple):
    """A packet; an answer has the `id` of what it answers."""

    type: int
    id: int
    body: bytes


def slot(endpoint: int) -> int:
    """Return the place of an endpoint address in the arrays of `EndpointInfo`."""
    return (endpoint & 0x80) >> 3 | endpoint & 0x0F


class Connection:
    """A connection to QEMU; `hello` is our first word."""

    def __init__(self, port: socket.socket) -> None:
        self.port = port
        self.stream = port.makefile("rb", 1 << 16)
        self.greeted = False

    def close(self) -> None:
        """Let go of the socket, which is closed once its owner has done so, too."""
        self.stream.close()

    def hello(self) -> None:
        """Greet; raises OSError where nobody listens."""
        body = HELLO_BODY.pack(Hello(NAME.ljust(64, b"\0"), CAPABILITIES))
        self.port.sendall(SHORT_HEADER.pack(ShortHeader(HELLO, len(body), 0)) + body)

    def send(self, kind: int, number: int, *body: bytes) -> None:
        """Send a packet; raises OSError where nobody listens."""
        size = sum(map(len, body))
        self.port.sendall(b"".join((HEADER.pack(Header(kind, size, number)), *body)))

    def receive(self) -> Packet:
        """Return the next packet, the first of which must be a greeting that fits ours.

        Raises GoneError where the connection ends, Damaged and Unsupported for what is no usbredir.
        """
        layout: Layout[Header] | Layout[ShortHeader] = HEADER if self.greeted else SHORT_HEADER
        head = layout.unpack(self.take(layout.size))
        if head.length > MAX_BODY:
            raise Damaged("length of a usbredir packet", expected=f"<= {MAX_BODY}", found=head.length)
        packet = Packet(head.type, head.id, self.take(head.length))
        if not self.greeted:
            check_hello(packet)
            self.greeted = True
        return packet

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes; raises GoneError where the connection ends."""
        data: bytes = self.stream.read(size)
        if len(data) < size:
            raise GoneError
        return data


def check_hello(packet: Packet) -> None:
    """Raise Damaged where a packet is no greeting, Unsupported where the peer can do too little."""
    if packet.type != HELLO or len(packet.body) < 64:
        raise Damaged("usbredir does not begin with a greeting", expected=HELLO, found=packet.type)
    found = int.from_bytes(packet.body[64:68], "little")
    if found & CAPABILITIES != CAPABILITIES:
        raise Unsupported(
            "this qemu's usbredir is too old",
            expected=f"capabilities {CAPABILITIES:#x}",
            found=hex(found),
            hint="qemu 1.5 or later",
        )
