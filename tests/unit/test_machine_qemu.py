"""The command lines of virtual machines, and what can be told before one runs."""

from __future__ import annotations

import gzip
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from onebay.base.error import Missing, Unsupported
from onebay.machine import boot, cpio, qemu


def options(argv: list[str], name: str) -> list[str]:
    """Values of every option `name`."""
    return [value for key, value in pairwise(argv) if key == name]


def argv(*drives: qemu.Drive, **changes: object) -> list[str]:
    machine = qemu.Machine(drives, **changes)  # type: ignore[arg-type]
    return qemu.machine_argv(machine, serial=Path("/x/serial.log"), socket=Path("/x/s"), monitor=Path("/x/m"))


def test_software_emulation_unless_proved() -> None:
    assert options(argv(), "-accel") == ["tcg,thread=multi"]
    assert options(argv(), "-cpu") == ["max"]
    assert options(argv(accel="kvm"), "-accel") == ["kvm"]


def test_no_network_and_no_display() -> None:
    line = argv(qemu.Drive(Path("/d")))
    assert "-nodefaults" in line
    assert not {"-nic", "-net", "-netdev"} & set(line)
    assert options(line, "-display") == ["none"]


def test_a_network_only_lets_forwarded_connections_in() -> None:
    line = argv(forwards=((5001, 5000), (2222, 22)))
    (net,) = options(line, "-netdev")
    assert "restrict=on" in net
    assert "hostfwd=tcp:127.0.0.1:5001-:5000" in net
    assert "hostfwd=tcp:127.0.0.1:2222-:22" in net


def test_flushes_reach_a_disk_that_is_kept() -> None:
    assert "cache=unsafe" in options(argv(qemu.Drive(Path("/d"))), "-drive")[0]
    assert "cache=writeback" in options(argv(qemu.Drive(Path("/d"), kept=True)), "-drive")[0]
    alone = boot.drives(qemu.Drive(Path("/d")), None, boot.Setup(write=True))
    two = boot.drives(qemu.Drive(Path("/d")), qemu.Drive(Path("/b")), boot.Setup(write=True))
    assert [drive.kept for drive in (*alone, *two)] == [True, False, True]


def test_serial_port_goes_to_log_and_socket() -> None:
    chardev = options(argv(), "-chardev")[0]
    assert "logfile=/x/serial.log" in chardev
    assert "path=/x/s" in chardev


@pytest.mark.parametrize(
    ("bus", "device"),
    [("virtio", "virtio-blk-pci"), ("sata", "ide-hd,bus=ide.0"), ("nvme", "nvme"), ("usb", "usb-storage")],
)
def test_bus(bus: qemu.Bus, device: str) -> None:
    line = argv(qemu.Drive(Path("/d"), bus=bus, boot_index=1))
    devices = [value for value in options(line, "-device") if value.startswith(device)]
    assert len(devices) == 1
    assert devices[0].endswith("bootindex=1")
    assert ("qemu-xhci" in options(line, "-device")) == (bus == "usb")


def test_a_stick_from_a_socket_is_on_usb() -> None:
    line = argv(qemu.Drive(Path("/d")), sticks=(qemu.Stick(Path("/a,b"), 1), qemu.Stick(Path("/c"))))
    assert options(line, "-chardev")[1:] == ["socket,id=u0,path=/a,,b", "socket,id=u1,path=/c"]
    devices = options(line, "-device")
    assert devices.index("qemu-xhci") < devices.index("usb-redir,chardev=u0,bootindex=1")
    assert devices[-1] == "usb-redir,chardev=u1"


def test_sectors_of_4096_bytes() -> None:
    line = argv(qemu.Drive(Path("/d"), sector_size=4096))
    assert any("logical_block_size=4096" in value for value in options(line, "-device"))
    with pytest.raises(Unsupported):
        argv(qemu.Drive(Path("/d"), bus="sata", sector_size=4096))


def test_commas_in_paths_are_doubled() -> None:
    assert "file=/a,,b" in options(argv(qemu.Drive(Path("/a,b"))), "-drive")[0]


def test_readonly_disks() -> None:
    assert "readonly=on" in options(argv(qemu.Drive(Path("/d"), readonly=True)), "-drive")[0]
    assert "readonly=on" not in options(argv(qemu.Drive(Path("/d"))), "-drive")[0]


def test_firmware_code_is_read_only() -> None:
    code, variables = options(argv(firmware=(Path("/code"), Path("/vars"))), "-drive")
    assert "readonly=on" in code
    assert "readonly=on" not in variables


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vhdx", "vpc", "vdi", "raw"])
def test_image_format(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, path, "2M"], check=True)
    assert qemu.image_format(path) == kind


def test_packed_images_do_not_boot(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(bytes(4096)))
    with pytest.raises(Unsupported, match="gzip"):
        qemu.image_format(path)


def test_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        qemu.image_format(tmp_path / "none")


def test_firmware_starts_from_the_boot_disk() -> None:
    disk, first = qemu.Drive(Path("/d")), qemu.Drive(Path("/b"))
    alone = boot.drives(disk, None, boot.Setup(bus="nvme"))
    assert [(drive.path, drive.boot_index, drive.bus) for drive in alone] == [(Path("/d"), 1, "nvme")]
    two = boot.drives(disk, first, boot.Setup(sector_size=4096))
    assert [(drive.path, drive.boot_index, drive.sector_size) for drive in two] == [
        (Path("/b"), 1, 512),
        (Path("/d"), None, 4096),
    ]


def test_bios_does_not_read_large_sectors() -> None:
    with pytest.raises(Unsupported):
        boot.drives(qemu.Drive(Path("/d")), None, boot.Setup(firmware="bios", sector_size=4096))
    assert boot.drives(qemu.Drive(Path("/d")), None, boot.Setup(firmware="uefi", sector_size=4096))


def test_last_lines() -> None:
    assert qemu.last_lines("a\n\n b \r\nc\n", 2) == "b | c"


def test_dead_end() -> None:
    assert "No bootable device" in boot.dead_end("Booting...\nNo bootable device.\n")
    assert boot.dead_end("all is well") == ""


def test_cpio_is_what_the_format_says() -> None:
    raw = cpio.archive({"job.sh": b"true\n", "x": b""})
    assert len(raw) % 4 == 0
    assert raw.startswith(b"070701")
    at, found = 0, {}
    while True:
        fields = [int(raw[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = raw[at + 110 : at + 110 + length - 1].decode()
        at += -(-(110 + length) // 4) * 4
        if name == cpio.TRAILER:
            break
        assert fields[1] == 0o100755
        found[name] = raw[at : at + size]
        at += -(-size // 4) * 4
    assert found == {"job.sh": b"true\n", "x": b""}
