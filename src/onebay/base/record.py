"""On-disk records as frozen dataclasses: one `Layout` packs and unpacks, and checks its size at import.

Supported field formats are those of `struct` that yield one value: B H I Q b h i q and Ns. Nesting,
conditionals, bit fields and variable tails are left to the reader of the format.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from onebay.base.error import Truncated

T = TypeVar("T")


class Layout(Generic[T]):
    """Pack and unpack a dataclass whose fields are `Annotated[int, "I"]` or `Annotated[bytes, "16s"]`.

    `order` is "<" or ">"; `size` is the record's length in bytes by its specification. Raises TypeError at
    import where the fields do not add up.
    """

    def __init__(self, record: type[T], *, order: str, size: int) -> None:
        self.record = record
        formats: list[str] = []
        self.at: dict[str, int] = {}
        hints = get_type_hints(record, include_extras=True)
        for field in dataclasses.fields(record):  # type: ignore[arg-type]
            hint = hints[field.name]
            if get_origin(hint) is not Annotated:
                raise TypeError(f"{record.__name__}.{field.name}: no format")
            self.at[field.name] = struct.calcsize(order + "".join(formats))
            formats.append(get_args(hint)[1])
        self.struct = struct.Struct(order + "".join(formats))
        if self.struct.size != size:
            raise TypeError(f"{record.__name__}: fields add up to {self.struct.size} bytes, not {size}")
        self.size = size

    def unpack(self, buf: bytes | bytearray | memoryview, at: int = 0, *, volume: str | None = None) -> T:
        """Read one record at byte `at` of `buf`; raises Truncated where `buf` is too short."""
        if at < 0 or at + self.size > len(buf):
            raise Truncated(
                self.record.__name__.lower(), volume=volume, expected=self.size, found=len(buf) - at
            )
        return self.record(*self.struct.unpack_from(buf, at))

    def unpack_all(self, buf: bytes | bytearray | memoryview) -> list[T]:
        """Read consecutive records; a shorter rest is ignored."""
        whole = len(buf) // self.size * self.size
        return [self.record(*values) for values in self.struct.iter_unpack(memoryview(buf)[:whole])]

    def pack(self, record: T, **changes: Any) -> bytes:
        """Write one record, with named fields changed (the idiom for checksums: `pack(r, crc=0)`)."""
        if changes:
            record = dataclasses.replace(record, **changes)  # type: ignore[type-var]
        return self.struct.pack(*(getattr(record, name) for name in self.at))

    def offset(self, field: str) -> int:
        """Byte offset of a field in the record."""
        return self.at[field]
