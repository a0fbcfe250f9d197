"""Linux swap areas: header page, identities, hibernation images.

The header is the first page, and the page size is the machine's (4 KiB to 64 KiB, in either byte order); the
signature stands in its last ten bytes. What is swapped means nothing after a shutdown, so only the header
page is used. A hibernated machine replaces the signature: then every byte counts.

Sources: linux include/linux/swap.h (union swap_header), kernel/power/swap.c (v6.12), util-linux
libblkid/src/superblocks/swap.c, mm/swapfile.c for version 0.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from onebay.base.error import Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.record import Layout
from onebay.base.step import Write
from onebay.layer import Layer, Suspect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.base.step import Step
    from onebay.block.volume import Volume
    from onebay.layer import Value

PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
SIGNATURE = 10
# Signatures of a system that sleeps in this area, and who wrote them.
HIBERNATION = {
    b"S1SUSPEND\0": "linux swsusp",
    b"S2SUSPEND\0": "linux swsusp",
    b"ULSUSPEND\0": "uswsusp",
    b"LINHIB0001": "linux hibernation",
}
# TuxOnIce leaves the signature of swap as it is and writes its own at byte 0.
TUX_ON_ICE = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"
OLD, NEW = b"SWAP-SPACE", b"SWAPSPACE2"
INFO_AT = 1024
MAX_BAD_PAGES_AT = 1536


@dataclass(frozen=True, slots=True)
class Header:
    """union swap_header.info, behind 1024 bytes of boot code."""

    version: Annotated[int, "I"]
    last_page: Annotated[int, "I"]
    nr_badpages: Annotated[int, "I"]
    sws_uuid: Annotated[bytes, "16s"]
    sws_volume: Annotated[bytes, "16s"]


HEADERS = {order: Layout(Header, order=order, size=44) for order in ("<", ">")}


class Area(NamedTuple):
    """What the first page says; `order` is the byte order, `header` is None for version 0.

    `sleeper` is who hibernated into the area.
    """

    page_size: int
    signature: bytes
    order: str
    header: Header | None
    sleeper: str | None = None


class Swap(Layer):
    """One swap area on one volume."""

    kind = "swap"
    growth = "one write of the header"

    def __init__(self, volume: Volume, area: Area) -> None:
        self.below = (volume,)
        self.volume, self.area = volume, area

    @property
    def size(self) -> int:
        """Bytes of the area, with its header."""
        header = self.area.header
        return (header.last_page + 1) * self.area.page_size if header else self.volume.size

    def facts(self) -> Mapping[str, Value]:
        header = self.area.header
        label = header.sws_volume.split(b"\0", 1)[0].decode("utf-8", "replace") if header else ""
        known = header is not None and any(header.sws_uuid)
        return {
            "uuid": str(uuid.UUID(bytes=header.sws_uuid)) if header and known else None,
            "label": label or None,
            "size": self.size,
            "page_size": self.area.page_size,
            "version": header.version if header else 0,
            "bad_pages": header.nr_badpages if header else 0,
            "byte_order": "big" if self.area.order == ">" else "little",
            "hibernated": self.area.sleeper,
        }

    def used(self) -> tuple[ExtentSet, ...]:
        """The header page, which has the list of bad pages too."""
        return (ExtentSet.single(0, self.area.page_size),)

    def used_bytes(self) -> int | None:
        return self.area.page_size

    def keep_whole(self) -> str | None:
        return f"a system is hibernated in it ({self.area.sleeper})" if self.area.sleeper else None

    def plan_grow(self) -> list[Step]:
        """Return one write of the header; raises Unsupported for version 0 and a hibernated system."""
        page, header = self.area.page_size, self.area.header
        last = min(self.volume.size // page - 1, 0xFFFFFFFF)
        if header is None or self.area.sleeper:
            reason = self.keep_whole() or "version 0 cannot be larger"
            raise Unsupported(f"swap is not grown: {reason}", volume=self.volume.name)
        if last <= header.last_page:
            return []
        layout = HEADERS[self.area.order]
        raw = layout.pack(header, last_page=last)
        return [Write(self.volume, INFO_AT, raw, f"grow swap to {(last + 1) * page} bytes")]


def read_area(volume: Volume) -> Area | None:
    """Find a signature at the end of a first page of any size; None where there is none."""
    first = volume.read(0, min(volume.size, PAGE_SIZES[-1]))
    tux = "TuxOnIce" if first.startswith(TUX_ON_ICE) else None
    for page_size in PAGE_SIZES:
        signature = first[page_size - SIGNATURE : page_size]
        sleeper = tux or HIBERNATION.get(signature)
        if signature == NEW or (sleeper and signature != OLD):
            return new_area(first, page_size, signature, sleeper)
        if signature == OLD:
            return Area(page_size, OLD, "<", None, sleeper)
    return None


def new_area(first: bytes, page_size: int, signature: bytes, sleeper: str | None) -> Area:
    """Read the header in the byte order in which its version is small."""
    little, big = (HEADERS[order].unpack(first, INFO_AT) for order in ("<", ">"))
    order, header = (">", big) if big.version < little.version else ("<", little)
    return Area(page_size, signature, order, header, sleeper)


def flaw(area: Area, size: int) -> tuple[str, int] | None:
    """Return (sentence, byte) for the first broken rule; as read_swap_header of the kernel."""
    header = area.header
    if header is None:
        return None
    most = (area.page_size - SIGNATURE - MAX_BAD_PAGES_AT) // 4
    pages = size // area.page_size
    if header.version != 1:
        return f"swap version: expected 1, found {header.version}", INFO_AT
    if not 0 < header.last_page < pages:
        return f"last page: expected 1 to {pages - 1}, found {header.last_page}", INFO_AT + 4
    if header.nr_badpages > most:
        return f"number of bad pages: expected at most {most}, found {header.nr_badpages}", INFO_AT + 8
    return None


def probe(volume: Volume) -> Swap | Suspect | None:
    """Recognise a swap area by the signature at the end of its first page."""
    area = read_area(volume) if volume.size >= PAGE_SIZES[0] else None
    if area is None:
        return None
    wrong = flaw(area, volume.size)
    if wrong:
        return Suspect("swap", volume, wrong[0], wrong[1])
    return Swap(volume, area)
