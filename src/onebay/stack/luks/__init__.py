"""LUKS1 and LUKS2 by their headers: named and kept whole, or opened with a key for reading.

Sources: LUKS1 On-Disk Format Specification 1.2.3, table 1; LUKS2 On-Disk Format Specification 1.1.4,
section 2 (binary header, checksum) and 3 (JSON area); cryptsetup lib/luks2/luks2_disk_metadata.c. Not opened:
ciphers other than aes-xts-plain64, several segments, integrity, re-encryption, detached headers.
"""

from onebay.stack.luks.key import open_luks
from onebay.stack.luks.layer import Luks
from onebay.stack.luks.read import probe
from onebay.stack.luks.record import LUKS1, LUKS2, Luks1Header, Luks2Header

__all__ = ["LUKS1", "LUKS2", "Luks", "Luks1Header", "Luks2Header", "open_luks", "probe"]
