"""capture refuses a disk whose last change was cut short: its image would hold neither state."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebay.base.error import Refused
from onebay.base.step import Write
from onebay.block import create_disk
from onebay.ops.capture import look
from onebay.ops.journal import Journal

MIB = 1 << 20


def test_a_half_changed_disk_is_not_captured(tmp_path: Path) -> None:
    disk = create_disk(tmp_path / "disk.img", 16 * MIB)
    assert look(disk).keep.size == disk.size
    journal = Journal(disk)
    journal.commit([Write(disk, MIB, b"new" * 171, "critical: a change")], [])
    with pytest.raises(Refused, match="must be completed first"):
        look(disk)
    journal.erase()
    assert look(disk).keep.size == disk.size
