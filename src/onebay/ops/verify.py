"""verify: an image against itself, or a disk against an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.error import Inconsistent, Refused
from onebay.base.event import Began, Ended, Moved, silent
from onebay.ops.readback import Seen, matches

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.image import Image

OP = "verify"


def verify_against(image: Image, disk: Volume, *, report: Report = silent) -> int:
    """Compare every byte that matters of `disk` with the image; return how many bytes that are.

    Raises Refused where the disk is smaller, Inconsistent with the first place and the number of frames
    that differ.
    """
    if disk.size < image.disk_size:
        raise Refused(
            "smaller than the image's disk", volume=disk.name, expected=image.disk_size, found=disk.size
        )
    report(Began(OP, disk.name, image.disk_size))
    bad: list[int] = []
    for frame in image.frames():
        if not matches(disk, image.keep, Seen(frame.at, frame.size, frame.state, frame.content_sha)):
            bad.append(frame.at)
        report(Moved(OP, frame.at + frame.size))
    if bad:
        raise Inconsistent(
            f"differs from the image in {len(bad)} frames, the first here", volume=disk.name, at=bad[0]
        )
    report(Ended(OP, 0.0, "equal"))
    return image.keep.size
