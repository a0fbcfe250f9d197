"""What is inside dm-crypt's aes-xts-plain64, for reading only.

Sources: linux drivers/md/dm-crypt.c (`crypt_iv_plain64_gen`; without `iv_large_sectors`, as LUKS2 sets it up,
the IV counts sectors of 512 bytes whatever the sector size), IEEE 1619 (XTS).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebay.base.error import Refused, ToolMissing, Unsupported
from onebay.block.volume import Volume

if TYPE_CHECKING:
    from types import ModuleType

IV_SECTOR = 512  # bytes that the IV counts in
KEY_SIZES = (32, 64)  # bytes; XTS takes two AES keys, and dm-crypt's users make no others
UNITS = (512, 1024, 2048, 4096)
MASK = (1 << 64) - 1  # plain64 counts in 64 bits


class Crypt(Volume):
    """`size` bytes of `parent` from byte `start`, decrypted: `unit` bytes at a time with `key`.

    `iv` is the number of the first sector of 512 bytes. The volume stands on nothing as far as `pieces`
    says, on purpose: whoever maps a write down to a disk must end here, lest plaintext gets there. Who asks
    where the bytes lie asks the layer. Raises Unsupported for other units and keys, ToolMissing without the
    library.
    """

    def __init__(
        self, name: str, parent: Volume, start: int, size: int, *, key: bytes, unit: int, iv: int = 0
    ) -> None:
        parent.check_range(start, size)
        if unit not in UNITS or size % unit or len(key) not in KEY_SIZES:
            raise Unsupported(
                "sector, size or key that does not go with aes-xts-plain64",
                volume=name,
                found=f"{unit}, {size}, {len(key)} bytes",
            )
        self.name, self.parent, self.start, self.size = name, parent, start, size
        self.unit, self.iv = unit, iv
        self.sector_size = max(parent.sector_size, unit)
        self.ciphers = library()
        self.algorithm: Any = self.ciphers.algorithms.AES(key)

    def read(self, at: int, size: int) -> bytes:
        self.check_range(at, size)
        low = at // self.unit * self.unit
        high = -(-(at + size) // self.unit) * self.unit
        return self.decrypted(low, self.parent.read(self.start + low, high - low))[at - low :][:size]

    def decrypted(self, at: int, data: bytes) -> bytes:
        """Decrypt whole units that stand at byte `at`."""
        out = bytearray()
        for done in range(0, len(data), self.unit):
            number = (self.iv + (at + done) // IV_SECTOR) & MASK
            mode = self.ciphers.modes.XTS(number.to_bytes(16, "little"))
            decryptor = self.ciphers.Cipher(self.algorithm, mode).decryptor()
            out += decryptor.update(data[done : done + self.unit])
        return bytes(out)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002
        raise Refused("decrypted for reading only", volume=self.name, at=at)

    def zero(self, at: int, size: int) -> None:
        self.write(at, bytes(min(size, 1)))

    def flush(self) -> None:
        """Nothing to do: nothing is written."""


def library() -> ModuleType:
    """Return the ciphers of the package cryptography; raises ToolMissing with the commands that add it."""
    try:
        from cryptography.hazmat.primitives import ciphers  # noqa: PLC0415 - only who has a key needs it
    except ImportError as error:
        raise ToolMissing(
            "the Python package cryptography is not installed",
            hint="pip install cryptography (or apt-get install python3-cryptography)",
        ) from error
    return ciphers
