"""A volume whose writes stay in memory: plans are made on it, and tests replay power cuts with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebay.base.extent import Builder, Extent, ExtentSet
from onebay.block.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 4096


class Overlay(Volume):
    """Reads come from `base` except where this volume was written; `base` is never written.

    `size` may be larger than that of `base`: what lies beyond reads as zeros. Memory: the pages written.
    """

    def __init__(self, base: Volume, *, size: int | None = None, name: str | None = None) -> None:
        self.base = base
        self.name = name or base.name
        self.size = base.size if size is None else size
        self.sector_size = base.sector_size
        self.pages: dict[int, bytearray] = {}

    def page(self, number: int) -> bytearray:
        """Return the private copy of a page, made at its first write."""
        page = self.pages.get(number)
        if page is None:
            page = self.pages[number] = bytearray(self.below(number * PAGE, PAGE))
        return page

    def below(self, at: int, size: int) -> bytes:
        """Read from the base, with zeros beyond its end."""
        inside = max(0, min(size, self.base.size - at))
        return (self.base.read(at, inside) if inside else b"").ljust(size, b"\0")

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        first, last = at // PAGE, (at + size - 1) // PAGE
        if size == 0:
            return b""
        touched = [n for n in range(first, last + 1) if n in self.pages] if self.pages else []
        if not touched:
            return self.below(at, size)
        out = bytearray(self.below(at, size))
        for number in touched:
            start, end = max(at, number * PAGE), min(at + size, (number + 1) * PAGE)
            out[start - at : end - at] = self.pages[number][start - number * PAGE : end - number * PAGE]
        return bytes(out)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        self.check_range(at, len(data))
        view = memoryview(data)
        done = 0
        while done < len(view):
            number, skip = divmod(at + done, PAGE)
            size = min(PAGE - skip, len(view) - done)
            self.page(number)[skip : skip + size] = view[done : done + size]
            done += size

    def flush(self) -> None:
        """Nothing to do: an overlay keeps nothing."""

    def data(self, start: int, end: int) -> Iterator[Extent]:
        known = Builder()
        for part in self.base.data(start, min(end, self.base.size)) if start < self.base.size else ():
            known.add(*part)
        mine = ExtentSet.of((n * PAGE, min((n + 1) * PAGE, self.size)) for n in self.pages).clip(start, end)
        yield from known.done() | mine
