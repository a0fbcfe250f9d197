"""PCI devices that no driver took: what a machine has and Linux cannot use.

Source: Documentation/ABI/testing/sysfs-bus-pci of the kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DEVICES = Path("/sys/bus/pci/devices")
MOST = 4096  # functions of a machine that are looked at


class Device(NamedTuple):
    """A PCI function: where it is, and vendor:device as lspci -n writes it."""

    slot: str
    id: str


def without_driver(base_class: int, devices: Path = DEVICES) -> list[Device]:
    """Return the devices of a base class (0x02: network) without a driver, by slot."""
    found = []
    for place in sorted(devices.iterdir())[:MOST] if devices.is_dir() else ():
        try:
            kind = int((place / "class").read_text(), 16)
            vendor, device = (int((place / name).read_text(), 16) for name in ("vendor", "device"))
        except (OSError, ValueError):
            continue
        if kind >> 16 == base_class and not (place / "driver").exists():
            found.append(Device(place.name, f"{vendor:04x}:{device:04x}"))
    return found
