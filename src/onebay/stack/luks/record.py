"""What is on disk: the binary headers of LUKS1 and LUKS2, big endian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from onebay.base.record import Layout

MAGIC = b"LUKS\xba\xbe"
SECOND_MAGIC = b"SKUL\xba\xbe"
SECTOR = 512
# Sizes that LUKS2 allows for header and JSON area together; the second copy stands at such an offset.
HEADER_SIZES = tuple(1 << shift for shift in range(14, 23))
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]


@dataclass(frozen=True, slots=True)
class Luks1Header:
    """struct luks_phdr without its key slots; `payloadOffset` is in 512-byte sectors."""

    magic: Annotated[bytes, "6s"]
    version: U16
    cipher_name: Annotated[bytes, "32s"]
    cipher_mode: Annotated[bytes, "32s"]
    hash_spec: Annotated[bytes, "32s"]
    payload_offset: U32
    key_bytes: U32
    mk_digest: Annotated[bytes, "20s"]
    mk_digest_salt: Annotated[bytes, "32s"]
    mk_digest_iter: U32
    uuid: Annotated[bytes, "40s"]


@dataclass(frozen=True, slots=True)
class Luks2Header:
    """struct luks2_hdr_disk: `hdr_size` counts the JSON area too, in bytes."""

    magic: Annotated[bytes, "6s"]
    version: U16
    hdr_size: U64
    seqid: U64
    label: Annotated[bytes, "48s"]
    checksum_alg: Annotated[bytes, "32s"]
    salt: Annotated[bytes, "64s"]
    uuid: Annotated[bytes, "40s"]
    subsystem: Annotated[bytes, "48s"]
    hdr_offset: U64
    padding: Annotated[bytes, "184s"]
    csum: Annotated[bytes, "64s"]
    padding4096: Annotated[bytes, "3584s"]


LUKS1 = Layout(Luks1Header, order=">", size=208)
LUKS2 = Layout(Luks2Header, order=">", size=4096)
