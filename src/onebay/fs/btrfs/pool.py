"""A btrfs on several devices of one disk: RAID1 and its kin, DUP and SINGLE chunks, wherever they lie.

Every device has superblocks of its own, and they are the same but for their places and the device item. Where
they are not, a device was away while the others were written: then nobody can tell what counts on it, and all
are kept whole. So they are where one is missing. A kernel gives out space on all devices at once, so such a
file system keeps its sizes: RAID1 gains nothing by one larger device.

Sources: linux fs/btrfs/disk-io.c (write_all_supers), fs/btrfs/volumes.c (device_list_add, read_one_dev).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import UUID

from onebay.base.error import Damaged, Unsupported
from onebay.fs.btrfs.layer import Btrfs, Trees, read_trees
from onebay.fs.btrfs.record import DEV_ITEM, SUPER
from onebay.fs.btrfs.super import Device
from onebay.layer import Suspect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onebay.base.step import Step
    from onebay.layer import Member, Value


class BtrfsPool(Btrfs):
    """A btrfs on several volumes, or what is here of it; `below` is in the order of the devids."""

    @property
    def title(self) -> str:
        return f"btrfs of {self.sb.num_devices} devices"

    def facts(self) -> Mapping[str, Value]:
        """As of one device, but for `members`: the devices that are here, sizes in bytes."""
        members: list[Value] = []
        for device in self.devices:
            item = self.item(device)
            members.append(
                {
                    "volume": device.volume.name,
                    "devid": item.devid,
                    "device_uuid": str(UUID(bytes=item.uuid)),
                    "size": item.total_bytes,
                    "generation": device.sb.generation,
                }
            )
        return {**super().facts(), "size": self.sb.total_bytes, "members": members}

    def floor(self) -> int:
        """Return the size of the largest volume, for none may become shorter."""
        return max(volume.size for volume in self.below)

    def plan_grow(self) -> list[Step]:
        """Return no steps where it fills its volumes; raises Unsupported."""
        name = ", ".join(volume.name for volume in self.below)
        if (reason := self.why_not_trusted()) is not None:
            raise Unsupported(f"btrfs cannot be grown from outside: {reason}", volume=name)
        sizes = [(self.item(device), device.volume.size) for device in self.devices]
        larger = [item.devid for item, size in sizes if size - item.total_bytes >= self.sb.sectorsize]
        if not larger:
            return []
        commands = " and ".join(f"`btrfs filesystem resize {devid}:max`" for devid in larger)
        raise Unsupported(
            f"a {self.title} keeps its sizes",
            volume=name,
            hint=f"{commands} on the appliance takes the new room, where the profile can use it",
        )


def assemble(members: Sequence[Member]) -> BtrfsPool | Suspect:
    """Join the devices of one file system; two of one devid make a Suspect, and so does a bad chunk tree."""
    found = (member.detail for member in members)
    devices = sorted(
        (each for each in found if isinstance(each, Device)), key=lambda device: device.item.devid
    )
    for left, right in pairwise(devices):
        if left.item.devid == right.item.devid:
            volumes = f"{left.volume.name} and {right.volume.name}"
            evidence = f"{volumes} both claim to be device {left.item.devid}; all devices are kept whole"
            return Suspect(Btrfs.kind, members[0].volume, evidence)
    if (reason := why_not_joined(devices)) is not None:
        return BtrfsPool(devices, Trees(reason=reason))
    try:
        return BtrfsPool(devices, read_trees(devices))
    except Damaged as error:
        return Suspect(Btrfs.kind, members[0].volume, f"chunk tree: {error}", error.at)


def why_not_joined(devices: Sequence[Device]) -> str | None:
    """Say why devices, in the order of their devids, are not read together; None where they can be."""
    first = devices[0].sb
    generations = ", ".join(f"{device.volume.name} at {device.sb.generation}" for device in devices)
    if len({device.sb.generation for device in devices}) > 1:
        return f"the devices are of different generations: {generations}"
    if len({common(device) for device in devices}) > 1:
        return f"the superblocks of the devices differ, although all are of generation {first.generation}"
    if len(devices) < first.num_devices:
        numbers = ", ".join(str(device.item.devid) for device in devices)
        return f"{len(devices)} of {first.num_devices} devices on this disk: devid {numbers}"
    return None


def common(device: Device) -> bytes:
    """Return the superblock without what each device, and each copy, has for itself."""
    own = {"csum": bytes(32), "bytenr": 0, "dev_item": bytes(DEV_ITEM.size)}
    return SUPER.pack(device.sb, **own)
