"""A stick as a machine sees it: what it says it is, what it reads and writes, what it refuses."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from onebay.base.error import Damaged, Refused, Truncated, Unsupported
from onebay.block import FileVolume, Overlay, Volume, create_disk
from onebay.machine.scsi import Identity
from onebay.machine.usbstick import Stick, stick
from tests.unit import usbpeer as usb
from tests.unit.usbpeer import Peer, read_10, write_10

SECTORS = 4096
SIZE = SECTORS * 512
TEST_UNIT_READY = bytes(6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FileVolume:
    path = tmp_path_factory.mktemp("stick") / "boot.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return FileVolume(path)


@pytest.fixture
def volume(base: FileVolume) -> Overlay:
    return Overlay(base)


@pytest.fixture
def server(volume: Overlay, tmp_path: Path) -> Iterator[Stick]:
    with stick(volume, tmp_path / "u") as found:
        yield found


@pytest.fixture
def peer(server: Stick) -> Iterator[Peer]:
    with Peer(server.path) as found:
        found.plugged()
        yield found


@contextmanager
def plugged(volume: Volume, path: Path, **options: Any) -> Iterator[Peer]:
    """A machine that has a stick."""
    with stick(volume, path, **options) as server, Peer(server.path) as found:
        found.plugged()
        yield found


def hung_up(server: Stick, raw: bytes, *, greet: bool) -> None:
    """Say something that ends the connection."""
    with Peer(server.path, greet=greet) as peer:
        peer.plugged()
        peer.port.sendall(raw)
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.receive()


def test_it_is_there_before_the_machine_greets(volume: Overlay, tmp_path: Path) -> None:
    with (
        stick(volume, tmp_path / "u", vendor_id=0x1234, product_id=0xABCD),
        Peer(tmp_path / "u", greet=False) as peer,
    ):
        hello, interfaces, endpoints, connect = peer.plugged()
    assert [answer.kind for answer in (hello, interfaces, endpoints)] == [
        usb.HELLO,
        usb.INTERFACES,
        usb.ENDPOINTS,
    ]
    # without these, QEMU takes no device on an xhci (usbredir_do_attach)
    assert struct.unpack("<I", hello.body[64:])[0] & 0b1110000 == 0b1110000
    assert interfaces.body[:4] == b"\1\0\0\0"
    assert [interfaces.body[at] for at in (36, 68, 100)] == [8, 6, 0x50]
    kinds, sizes = endpoints.body[:32], struct.unpack("<32H", endpoints.body[96:160])
    assert {n: (kinds[n], sizes[n]) for n in range(32) if kinds[n] != 255} == {
        0: (0, 64),
        2: (2, 512),
        16: (0, 64),
        17: (2, 512),
    }
    assert struct.unpack("<BBBBHHH", connect.body) == (2, 0, 0, 0, 0x1234, 0xABCD, 0x0100)


def test_descriptors(volume: Overlay, tmp_path: Path) -> None:
    who = Identity("Maker", "Boot", serial="0123456789AB")
    with plugged(volume, tmp_path / "u", identity=who) as peer:
        status, device = peer.control(0x80, 6, 0x0100)
        assert status == usb.SUCCESS
        assert struct.unpack("<BBHBBBBHHHBBBB", device) == (
            18, 1, 0x0200, 0, 0, 0, 64, 0xF400, 0xF400, 0x0100, 1, 2, 3, 1,
        )  # fmt: skip
        assert peer.control(0x80, 6, 0x0100, size=8) == (usb.SUCCESS, device[:8])
        _, configuration = peer.control(0x80, 6, 0x0200)
        assert struct.unpack("<BBHBBBBB", configuration[:9]) == (9, 2, len(configuration), 1, 1, 0, 0x80, 250)
        assert configuration[9:18] == bytes((9, 4, 0, 0, 2, 8, 6, 0x50, 0))
        assert configuration[18:] == bytes((7, 5, 0x81, 2, 0, 2, 0, 7, 5, 0x02, 2, 0, 2, 0))
        texts = [peer.control(0x80, 6, 0x0300 | n)[1][2:].decode("utf-16-le") for n in (1, 2, 3)]
        assert texts == ["Maker", "Boot", "0123456789AB"]
        for value in (0x0304, 0x03EE, 0x0600, 0x0700, 0x0F00, 0x0201):
            assert peer.control(0x80, 6, value) == (usb.STALL, b"")


def test_requests(peer: Peer) -> None:
    assert peer.control(0xA1, 0xFE, size=1) == (usb.SUCCESS, b"\0")
    assert peer.control(0x80, 0, size=2) == (usb.SUCCESS, b"\0\0")
    assert peer.control(0x02, 1, index=0x81, size=0) == (usb.SUCCESS, b"")
    assert peer.control(0x40, 1, size=0) == (usb.STALL, b"")
    number = peer.send(usb.SET_CONF, b"\1")
    assert [peer.receive().kind for _ in range(2)] == [usb.INTERFACES, usb.ENDPOINTS]
    assert peer.receive() == (usb.CONF_STATUS, number, b"\0\1")
    assert peer.receive_of(usb.GET_CONF) == (usb.CONF_STATUS, b"\0\1")
    assert peer.receive_of(usb.SET_CONF, b"\7") == (usb.CONF_STATUS, b"\4\1")
    assert peer.receive_of(usb.SET_ALT, b"\0\0") == (usb.ALT_STATUS, b"\0\0\0")
    assert peer.receive_of(usb.GET_ALT, b"\0") == (usb.ALT_STATUS, b"\0\0\0")
    assert peer.receive_of(usb.SET_ALT, b"\0\1")[1][0] == usb.STALL


def test_what_the_disk_says_of_itself(peer: Peer) -> None:
    data, status = peer.read(bytes((0x12, 0, 0, 0, 36, 0)), 36)
    assert status == (7, 0, 0)
    assert data == b"\x00\x80\x04\x02\x1f\0\0\0USB     Flash Disk      1.00"
    data, _ = peer.read(bytes((0x12, 1, 0x80, 0, 255, 0)), 255)
    assert data[:16] == b"\x00\x80\x00\x0c000000000001"
    assert peer.read(bytes((0x12, 1, 0x83, 0, 255, 0)), 255)[1].status == 1
    assert peer.sense() == (5, 0x24)
    assert struct.unpack(">II", peer.read(b"\x25" + bytes(9), 8)[0]) == (SECTORS - 1, 512)
    data, _ = peer.read(struct.pack(">BB8xIxx", 0x9E, 0x10, 32), 32)
    assert struct.unpack(">QI", data[:12]) == (SECTORS - 1, 512)
    data, _ = peer.read(struct.pack(">B6xHx", 0x23, 12), 12)
    assert struct.unpack(">IIBBH", data) == (8, SECTORS, 2, 0, 512)
    assert peer.read(struct.pack(">B5xIxx", 0xA0, 16), 16)[0] == struct.pack(">IIQ", 8, 0, 0)
    assert peer.read(bytes((0x1A, 0, 0x3F, 0, 192, 0)), 192)[0][:7] == bytes((23, 0, 0, 0, 8, 18, 4))
    assert peer.read(struct.pack(">BBBx3xHx", 0x5A, 0, 0x08, 28), 28)[0][:11] == bytes(
        (0, 26, 0, 0, 0, 0, 0, 0, 8, 18, 4)
    )
    for block in (
        TEST_UNIT_READY,
        bytes((0x1B, 0, 0, 0, 1, 0)),
        bytes((0x1E, 0, 0, 0, 1, 0)),
        b"\x35" + bytes(9),
    ):
        assert peer.read(block, 0) == (b"", (7, 0, 0))
    assert peer.read(b"\x2f" + bytes(9), 0)[1].status == 0


@pytest.mark.parametrize("step", [512, 999, 7, 1 << 20])
def test_reads(peer: Peer, base: FileVolume, step: int) -> None:
    size = 17 * 512 if step == 7 else SIZE
    data, status = peer.read(read_10(0, size // 512), size, step=step)
    assert status == (7, 0, 0)
    assert data == base.read(0, size)


@pytest.mark.parametrize("step", [512, 999, 7, 1 << 20])
def test_writes(peer: Peer, volume: Overlay, base: FileVolume, step: int) -> None:
    new = random.Random(2).randbytes(9 * 512)
    assert peer.write(write_10(100, 9, 8), new, step=step) == (7, 0, 0)
    assert volume.read(0, SIZE) == base.read(0, 51200) + new + base.read(
        51200 + len(new), SIZE - 51200 - len(new)
    )
    assert peer.read(read_10(100, 9), len(new))[0] == new


@pytest.mark.parametrize(
    ("read", "write"),
    [
        (struct.pack(">BBHBB", 0x08, 0, 300, 2, 0), struct.pack(">BBHBB", 0x0A, 0, 300, 2, 0)),
        (struct.pack(">BBIIxx", 0xA8, 0, 300, 2), struct.pack(">BBIIxx", 0xAA, 0, 300, 2)),
        (struct.pack(">BBQIxx", 0x88, 0, 300, 2), struct.pack(">BBQIxx", 0x8A, 0, 300, 2)),
    ],
    ids=["6", "12", "16"],
)
def test_commands_of_all_lengths(peer: Peer, volume: Overlay, read: bytes, write: bytes) -> None:
    new = random.Random(3).randbytes(1024)
    assert peer.read(read, 1024)[0] == volume.read(300 * 512, 1024)
    assert peer.write(write, new).status == 0
    assert volume.read(300 * 512, 1024) == new


def test_a_count_of_zero_is_256_in_the_oldest_command_only(peer: Peer, base: FileVolume) -> None:
    assert peer.read(bytes((0x08, 0, 0, 1, 0, 0)), 256 * 512)[0] == base.read(512, 256 * 512)
    assert peer.read(read_10(1, 0), 0)[1] == (7, 0, 0)


def test_sectors_of_4096_bytes(tmp_path: Path) -> None:
    disk = create_disk(tmp_path / "4k", 1 << 20, sector_size=4096)
    with plugged(disk, tmp_path / "u") as peer:
        assert struct.unpack(">II", peer.read(b"\x25" + bytes(9), 8)[0]) == (255, 4096)
        assert peer.write(write_10(255, 1), b"x" * 4096, step=1000).status == 0
    assert disk.read(255 * 4096, 4096) == b"x" * 4096


def test_questions_before_there_is_an_answer(peer: Peer, base: FileVolume) -> None:
    first, second, end = peer.ask(512), peer.ask(512), peer.ask(13)
    peer.send(
        usb.BULK,
        struct.pack("<BBHIH", usb.OUT, 0, 31, 0, 0) + peer.wrapper(read_10(5, 2), 1024, inwards=True),
    )
    assert peer.receive().kind == usb.BULK
    assert peer.given(first) == (usb.SUCCESS, base.read(5 * 512, 512))
    assert peer.given(second) == (usb.SUCCESS, base.read(6 * 512, 512))
    assert peer.given(end)[1][:8] == b"USBS\7\0\0\0"


def test_less_than_the_machine_asked_for_is_filled_up(peer: Peer) -> None:
    data, status = peer.read(bytes((0x12, 0, 0, 0, 36, 0)), 512)
    assert data[36:] == bytes(476)
    assert status == (7, 476, 0)


@pytest.mark.parametrize(
    ("block", "size", "inwards", "end"),
    [
        (TEST_UNIT_READY, 512, True, 0),  # 4: Hi > Dn
        (TEST_UNIT_READY, 512, False, 0),  # 9: Ho > Dn
        (read_10(0, 1), 0, True, 2),  # 2: Hn < Di
        (write_10(0, 1), 0, False, 2),  # 3: Hn < Do
        (read_10(0, 2), 512, True, 2),  # 7: Hi < Di
        (write_10(0, 1), 512, True, 2),  # 8: Hi <> Do
        (read_10(0, 1), 512, False, 2),  # 10: Ho <> Di
        (write_10(0, 2), 512, False, 2),  # 13: Ho < Do
    ],
)
def test_disagreement_on_the_data(
    peer: Peer, volume: Overlay, base: FileVolume, block: bytes, size: int, inwards: bool, end: int
) -> None:
    """The cases of Bulk-Only Transport 6.7 in which nothing is moved; the next command works."""
    if inwards:
        data, status = peer.read(block, size)
        assert data == bytes(size)
    else:
        status = peer.write(block, b"x" * size)
    assert status == (7, size, end)
    assert volume.read(0, SIZE) == base.read(0, SIZE)
    assert peer.read(read_10(0, 1), 512)[1] == (7, 0, 0)


def test_more_than_a_write_wants_is_dropped(peer: Peer, volume: Overlay, base: FileVolume) -> None:
    assert peer.write(write_10(8, 1), b"a" * 512 + b"b" * 512, step=300) == (7, 512, 0)  # 11: Ho > Do
    assert volume.read(4096, 1024) == b"a" * 512 + base.read(4096 + 512, 512)


@pytest.mark.parametrize(
    "address", [(SECTORS, 1), (SECTORS - 1, 2), (0, SECTORS + 1), (0xFFFFFFFF, 1), (0xFFFFFFFF, 0xFFFF)]
)
def test_nothing_outside_the_disk(
    peer: Peer, volume: Overlay, base: FileVolume, address: tuple[int, int]
) -> None:
    lba, count = address
    assert peer.write(write_10(lba, count), b"x" * 4096) == (7, 4096, 1)
    assert peer.sense() == (5, 0x21)
    assert peer.sense() == (0, 0)
    assert peer.read(read_10(lba, count), 512) == (bytes(512), (7, 512, 1))
    assert peer.write(struct.pack(">BBQIxx", 0x8A, 0, (1 << 64) - 1, count), b"x" * 512).status == 1
    assert peer.read(struct.pack(">BBIxHx", 0x2F, 0, lba, count), 0)[1].status == 1
    assert volume.read(0, SIZE) == base.read(0, SIZE)


def test_refused_commands(peer: Peer) -> None:
    assert peer.read(b"\x85" + bytes(15), 512)[1].status == 1
    assert peer.sense() == (5, 0x20)
    assert peer.read(bytes((0x9E, 0x12)) + bytes(14), 512)[1].status == 1
    assert peer.sense() == (5, 0x24)
    assert peer.read(b"\x2f\x02" + bytes(8), 0)[1].status == 1
    assert peer.out(peer.wrapper(TEST_UNIT_READY, 0, inwards=False, lun=1)) == usb.SUCCESS
    assert peer.status().status == 1
    assert peer.sense() == (5, 0x25)


def test_read_only(volume: Overlay, base: FileVolume, tmp_path: Path) -> None:
    with plugged(volume, tmp_path / "u", readonly=True) as peer:
        assert peer.read(bytes((0x1A, 0, 0x3F, 0, 192, 0)), 192)[0][2] == 0x80
        assert peer.write(write_10(0, 1), b"x" * 512).status == 1
        assert peer.sense() == (7, 0x27)
    assert volume.read(0, SIZE) == base.read(0, SIZE)


@pytest.mark.parametrize(
    "wrapper", [b"", b"USBC" + bytes(27), b"USBX" + bytes(10) + b"\6" + bytes(16), bytes(512)]
)
def test_no_command_at_all(peer: Peer, wrapper: bytes) -> None:
    """Both endpoints stay halted until the machine resets the stick (6.6.1)."""
    waiting = peer.ask(13)
    number = peer.send(usb.BULK, struct.pack("<BBHIH", usb.OUT, 0, len(wrapper), 0, 0) + wrapper)
    assert peer.given(number)[0] == usb.STALL
    assert peer.given(waiting)[0] == usb.STALL
    assert peer.control(0x02, 1, index=0x81, size=0)[0] == usb.SUCCESS
    assert peer.control(0x82, 0, index=0x81, size=2) == (usb.SUCCESS, b"\1\0")
    assert peer.into(13) == (usb.STALL, b"")
    assert peer.out(peer.wrapper(TEST_UNIT_READY, 0, inwards=False)) == usb.STALL
    assert peer.control(0x21, 0xFF, size=0)[0] == usb.SUCCESS
    assert peer.read(TEST_UNIT_READY, 0)[1] == (7, 0, 0)


def test_data_that_nobody_asked_for(peer: Peer) -> None:
    assert peer.out(peer.wrapper(write_10(0, 1), 512, inwards=False)) == usb.SUCCESS
    assert peer.out(bytes(1024)) == usb.STALL
    peer.send(usb.RESET)
    assert peer.out(peer.wrapper(read_10(0, 1), 512, inwards=True)) == usb.SUCCESS
    assert peer.out(bytes(512)) == usb.STALL
    peer.send(usb.RESET)
    assert peer.read(TEST_UNIT_READY, 0)[1] == (7, 0, 0)
    assert peer.given(peer.send(usb.BULK, struct.pack("<BBHIH", 0x83, 0, 512, 0, 0)))[0] == usb.INVALID
    assert peer.given(peer.send(usb.BULK, struct.pack("<BBHIH", usb.IN, 0, 0, 0, 0x7FFF)))[0] == usb.INVALID
    assert (
        peer.given(peer.send(usb.BULK, struct.pack("<BBHIH", usb.OUT, 0, 9, 0, 0) + b"short"))[0]
        == usb.INVALID
    )


def test_cancelling(peer: Peer, base: FileVolume) -> None:
    first, second = peer.ask(13), peer.ask(512)
    peer.send(usb.CANCEL, number=first)
    assert peer.given(first) == (usb.CANCELLED, b"")
    peer.send(usb.CANCEL, number=first)  # answered already
    peer.send(usb.CANCEL, number=999)
    peer.send(
        usb.BULK, struct.pack("<BBHIH", usb.OUT, 0, 31, 0, 0) + peer.wrapper(read_10(3, 1), 512, inwards=True)
    )
    assert peer.receive().kind == usb.BULK
    assert peer.given(second) == (usb.SUCCESS, base.read(3 * 512, 512))
    assert peer.status() == (7, 0, 0)


def test_a_reset_in_the_middle(peer: Peer, volume: Overlay, base: FileVolume) -> None:
    waiting = peer.ask(13)
    peer.send(usb.RESET)
    assert peer.given(waiting) == (usb.CANCELLED, b"")
    assert peer.out(peer.wrapper(write_10(0, 4), 2048, inwards=False)) == usb.SUCCESS
    assert peer.out(b"x" * 700) == usb.SUCCESS
    peer.send(usb.RESET)
    assert peer.read(read_10(0, 4), 2048)[0] == b"x" * 512 + base.read(512, 1536)
    assert volume.read(0, SIZE) == b"x" * 512 + base.read(512, SIZE - 512)


def test_a_machine_that_goes_in_the_middle(server: Stick, base: FileVolume) -> None:
    with Peer(server.path) as peer:
        peer.plugged()
        peer.ask(13)
        assert peer.out(peer.wrapper(write_10(0, 4), 2048, inwards=False)) == usb.SUCCESS
        assert peer.out(b"x" * 1000) == usb.SUCCESS
    with Peer(server.path) as peer:
        peer.plugged()
        assert peer.read(read_10(0, 4), 2048) == (b"x" * 512 + base.read(512, 1536), (7, 0, 0))
    with server.still() as volume:
        assert volume.read(0, 2048) == b"x" * 512 + base.read(512, 1536)


def test_a_disk_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "boot.img"
    path.write_bytes(b"x" * SIZE)
    volume = FileVolume(path)
    with path.open("r+b") as file:
        file.truncate(SIZE // 2)

    def use() -> None:
        with plugged(volume, tmp_path / "u") as peer:
            data, status = peer.read(read_10(SECTORS // 2 - 1, 2), 1024, step=512)
            assert data == b"x" * 512 + bytes(512)
            assert status == (7, 512, 1)
            assert peer.sense() == (3, 0x11)
            assert peer.read(read_10(0, 1), 512)[1].status == 0

    with pytest.raises(Truncated, match="became shorter"):
        use()
    assert not (tmp_path / "u").exists()


def test_a_disk_that_cannot_be_written(base: FileVolume, tmp_path: Path) -> None:
    def use() -> None:
        with plugged(base, tmp_path / "u") as peer:
            assert peer.write(write_10(0, 1), b"x" * 512).status == 1
            assert peer.sense() == (3, 0x0C)

    with pytest.raises(Refused, match="reading only"):
        use()


class Medium(Overlay):
    """An overlay that counts how often it was flushed, and fails from the third time on."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1
        if self.flushed > 2:
            raise Refused("no space left while writing", volume=self.name)


def test_when_the_medium_has_it(base: FileVolume, tmp_path: Path) -> None:
    medium = Medium(base)
    synchronize, stop = b"\x35" + bytes(9), bytes((0x1B, 0, 0, 0, 2, 0))

    def use() -> None:
        with plugged(medium, tmp_path / "u") as peer:
            assert peer.write(write_10(0, 2), b"x" * 1024, step=512) == (7, 0, 0)
            assert medium.flushed == 0
            assert peer.read(synchronize, 0)[1].status == 0
            assert medium.flushed == 1
            assert peer.write(write_10(0, 2, 8), b"x" * 1024, step=512) == (7, 0, 0)  # forced unit access
            assert medium.flushed == 2
            for number, status in enumerate(
                (
                    peer.read(synchronize, 0)[1],
                    peer.write(write_10(0, 1, 8), b"y" * 512),
                    peer.read(stop, 0)[1],
                )
            ):
                assert status.status == 1, number
            assert peer.sense() == (3, 0x0C)
            assert medium.flushed == 5

    with pytest.raises(Refused, match="no space left"):
        use()
    assert medium.flushed == 6  # at the end of every machine


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (struct.pack("<III", 0, 68, 0) + bytes(64) + struct.pack("<I", usb.QEMU & ~0x20), Unsupported),
        (struct.pack("<III", 0, 64, 0) + bytes(64), Unsupported),
        (struct.pack("<III", 3, 68, 0) + bytes(68), Damaged),
        (b"GET / HTTP/1.1\r\nHost: stick\r\n\r\n", Damaged),
    ],
)
def test_no_usbredir(volume: Overlay, tmp_path: Path, raw: bytes, error: type[Exception]) -> None:
    def use() -> None:
        with stick(volume, tmp_path / "u") as server:
            hung_up(server, raw, greet=False)
            with Peer(server.path) as peer:  # others are served all the same
                peer.plugged()
                assert peer.read(TEST_UNIT_READY, 0)[1] == (7, 0, 0)

    with pytest.raises(error):
        use()


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<IIQ", usb.BULK, 1 << 30, 1),
        struct.pack("<IIQ", usb.BULK, 4, 1) + bytes(4),
        struct.pack("<IIQ", usb.CONTROL, 0, 1),
        b"".join(struct.pack("<IIQBBHIH", usb.BULK, 10, n, usb.IN, 0, 13, 0, 0) for n in range(1025)),
    ],
    ids=["too long", "bulk too short", "control too short", "too many"],
)
def test_a_broken_protocol(volume: Overlay, tmp_path: Path, raw: bytes) -> None:
    def use() -> None:
        with stick(volume, tmp_path / "u") as server:
            hung_up(server, raw, greet=True)

    with pytest.raises(Damaged):
        use()


def test_unknown_packets_are_let_pass(peer: Peer) -> None:
    for kind in (2, 12, 25, 99, 102, 4711):
        peer.send(kind, b"whatever")
    assert peer.read(TEST_UNIT_READY, 0)[1] == (7, 0, 0)


def test_what_no_stick_can_be(volume: Overlay, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="16 bits"), stick(volume, tmp_path / "u", vendor_id=0x10000):
        pass
    with pytest.raises(Refused, match="ASCII"):
        Identity("too long a name")
    with pytest.raises(Refused, match="ASCII"):
        Identity(product="Stöckchen")
    for size in (0, 1000):
        with pytest.raises(Refused, match="sectors"), stick(Overlay(volume, size=size), tmp_path / "u"):
            pass
    (tmp_path / "u").touch()
    with pytest.raises(Refused, match="in use"), stick(volume, tmp_path / "u"):
        pass
    with pytest.raises(Refused, match="long"), stick(volume, tmp_path / ("u" * 200)):
        pass


def test_two_tebibytes_and_more(tmp_path: Path, base: FileVolume) -> None:
    size = 3 << 40
    with stick(Overlay(base, size=size), tmp_path / "u") as server, Peer(server.path) as peer:
        peer.plugged()
        assert struct.unpack(">II", peer.read(b"\x25" + bytes(9), 8)[0]) == (0xFFFFFFFF, 512)
        data, _ = peer.read(struct.pack(">BB8xIxx", 0x9E, 0x10, 12), 12)
        assert struct.unpack(">QI", data) == (size // 512 - 1, 512)
        last = struct.pack(">BBQIxx", 0x8A, 0, size // 512 - 1, 1)
        assert peer.write(last, b"z" * 512).status == 0
        with server.still() as volume:
            assert volume.read(size - 512, 512) == b"z" * 512
