"""An encrypted volume: closed it is kept whole; opened it offers what is inside, for reading only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onebay.base.error import Unsupported
from onebay.base.extent import ExtentSet
from onebay.block import Span
from onebay.block.crypt import Crypt
from onebay.layer import Finding, Whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onebay.block import Volume
    from onebay.layer import Value

CIPHER = "aes-xts-plain64"


@dataclass(frozen=True, slots=True)
class Payload:
    """Where the encrypted bytes are: `size` from byte `start` of the volume, in sectors of `unit` bytes.

    `iv` is the number of the first sector of 512 bytes.
    """

    start: int
    size: int
    unit: int
    iv: int = 0


class Luks(Whole):
    """An encrypted volume: `findings` says what is wrong with its headers.

    `payload` is a text where it cannot be opened, which says why. `inside` has the bytes of the volume above
    as they are on the volume below, which is how they map down: that above maps nothing itself.
    """

    kind = "luks"
    growth = "what is inside, where `--key-file` opens it: LVM, ext4, XFS, btrfs, in a virtual machine"
    inside: Volume | None = None

    def __init__(
        self,
        volume: Volume,
        facts: Mapping[str, Value],
        findings: list[Finding],
        payload: Payload | str,
    ) -> None:
        super().__init__(f"luks{facts['version']}", volume, facts)
        self.findings, self.payload = findings, payload

    def check(self) -> list[Finding]:
        return list(self.findings)

    def used(self) -> tuple[ExtentSet, ...]:
        (whole,) = super().used()
        if self.inside is None or isinstance(self.payload, str):
            return (whole,)
        return (whole - ExtentSet.single(self.payload.start, self.payload.start + self.payload.size),)

    def openable(self) -> Payload:
        """Return where the payload is; raises Unsupported where it cannot be opened."""
        if isinstance(self.payload, str):
            raise Unsupported(self.payload, volume=self.below[0].name)
        return self.payload

    def opened(self, volume_key: bytes) -> Luks:
        """Return the same layer with its payload above, decrypted with `volume_key` (32 or 64 bytes).

        Raises Unsupported where it cannot be opened, ToolMissing without the library.
        """
        payload, volume = self.openable(), self.below[0]
        name = f"{volume.name}:{self.title}"
        layer = Luks(volume, self.known, self.findings, payload)
        layer.inside = Span(f"{name} encrypted", volume, payload.start, payload.size)
        layer.above = (
            Crypt(
                name,
                volume,
                payload.start,
                payload.size,
                key=volume_key,
                unit=payload.unit,
                iv=payload.iv,
            ),
        )
        return layer
