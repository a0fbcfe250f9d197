"""Whatever a machine says to its stick: nothing outside the disk is touched, at most an Error comes of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from onebay.base.error import Damaged, Error
from onebay.block import Overlay, create_disk
from onebay.machine.scsi import CheckError, Identity, ScsiDisk
from onebay.machine.usbstick import stick

SECTORS = 64
OPCODES = sorted(ScsiDisk.COMMANDS)
ADDRESSES = st.one_of(st.integers(0, SECTORS + 2), st.sampled_from([0xFFFF, 0xFFFFFFFF, (1 << 64) - 1]))

commands = st.one_of(
    st.binary(max_size=16),
    st.builds(lambda code, rest: bytes((code,)) + rest, st.sampled_from(OPCODES), st.binary(max_size=15)),
    st.builds(
        lambda code, lba, count: struct.pack(">BxIxHx", code, lba & 0xFFFFFFFF, count & 0xFFFF),
        st.sampled_from([0x28, 0x2A, 0x2F]),
        ADDRESSES,
        ADDRESSES,
    ),
    st.builds(
        lambda code, lba, count: struct.pack(">BxQIxx", code, lba, count & 0xFFFFFFFF),
        st.sampled_from([0x88, 0x8A, 0x8F]),
        ADDRESSES,
        ADDRESSES,
    ),
)
sizes = st.one_of(st.integers(0, 4 * 512), st.sampled_from([13, 31, 0xFFFF, 1 << 20, 0xFFFFFFFF]))


def wrapper(command: bytes, size: int, flags: int, lun: int) -> bytes:
    head = struct.pack("<4sIIBBB", b"USBC", 1, size, flags, lun, max(len(command), 6))
    return head + command.ljust(16, b"\0")


def bulk(endpoint: int, size: int, data: bytes) -> tuple[int, bytes]:
    return 101, struct.pack("<BBHIH", endpoint, 0, size & 0xFFFF, 0, size >> 16) + data


packets = st.one_of(
    st.tuples(st.sampled_from([0, 3, 6, 7, 9, 10, 21, 100, 101, 102, 4711]), st.binary(max_size=40)),
    st.builds(
        lambda c, s, f, u: bulk(2, 31, wrapper(c, s, f, u)),
        commands,
        sizes,
        st.sampled_from([0, 0x80]),
        st.just(0),
    ),
    st.builds(
        lambda c, s, f, u: bulk(2, 31, wrapper(c, s, f, u)),
        commands,
        sizes,
        st.integers(0, 255),
        st.integers(0, 255),
    ),
    st.builds(lambda size: bulk(0x81, size, b""), sizes),
    st.builds(lambda data: bulk(2, len(data), data), st.sampled_from([512, 1024, 700, 13]).map(bytes)),
    st.builds(bulk, st.integers(0, 255), sizes, st.binary(max_size=40)),
)


@given(commands)
def test_a_command_stays_inside_the_disk(command: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        volume = create_disk(Path(folder) / "disk", SECTORS * 512)
        with contextlib.closing(volume):
            disk = ScsiDisk(volume, Identity())
            try:
                job = disk.start(command)
            except CheckError:
                return
            if job.data is None:
                assert 0 <= job.at <= job.at + job.size <= volume.size
            else:
                assert len(job.data) <= 512


@settings(max_examples=150)
@given(st.lists(packets, max_size=40))
def test_a_conversation(said: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "u"
        with contextlib.closing(create_disk(Path(folder) / "disk", SECTORS * 512)) as base:
            volume = Overlay(base)
            with contextlib.suppress(Damaged), stick(volume, path) as server:
                with contextlib.closing(socket.socket(socket.AF_UNIX)) as port:
                    port.settimeout(60)
                    port.connect(str(path))
                    port.sendall(struct.pack("<III64xI", 0, 68, 0, 0xF7))
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        for number, (kind, body) in enumerate(said):
                            port.sendall(struct.pack("<IIQ", kind, len(body), number) + body)
                        port.shutdown(socket.SHUT_WR)
                        while port.recv(1 << 20):
                            pass
                assert server.thread.is_alive()
                # the volume was never asked for what it does not have
                assert server.disk.failure is None
            assert server.complaint is None or isinstance(server.complaint, Error)
            assert not any(base.data(0, base.size))
