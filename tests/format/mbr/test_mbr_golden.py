"""MBR disks made by sfdisk, read as sfdisk reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from onebay import table
from onebay.block import FileVolume

HERE = Path(__file__).parent
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_text())


def unpack(name: str, folder: Path) -> FileVolume:
    path = folder / f"{name}.img"
    with (HERE / f"{name}.img.zst").open("rb") as packed, path.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(packed, out)
    sector = EXPECTED[name]["partitiontable"]["sectorsize"]
    return FileVolume(path, sector_size=sector)


@pytest.mark.parametrize("name", EXPECTED)
def test_partitions_are_those_of_sfdisk(name: str, tmp_path: Path) -> None:
    want = EXPECTED[name]["partitiontable"]
    found = table.probe(unpack(name, tmp_path))
    assert isinstance(found, table.MbrTable)
    assert f"0x{found.identity}" == want["id"]
    sector = want["sectorsize"]
    have = [(p.number, p.start, p.size, int(p.type, 16), p.active) for p in found.partitions]
    assert have == [
        (
            int(part["node"].split("img")[-1].split("p")[-1]),
            part["start"] * sector,
            part["size"] * sector,
            int(part["type"], 16),
            part.get("bootable", False),
        )
        for part in want.get("partitions", ())
    ]
    kinds = {finding.kind for finding in found.check() if finding.severity != "note"}
    assert kinds == ({"ebr-order"} if name == "order" else set())


def test_logical_partitions_and_gaps(tmp_path: Path) -> None:
    found = table.probe(unpack("chain", tmp_path))
    assert isinstance(found, table.MbrTable)
    assert [(p.number, p.is_extended, p.inside) for p in found.partitions] == [
        (1, False, None),
        (2, True, None),
        (5, False, 2),
        (6, False, 2),
        (7, False, 2),
    ]
    assert [volume.name.rsplit(":", 1)[1] for volume in found.above] == ["p1", "p5", "p6", "p7"]
    # in sectors; sfdisk puts the boot record of a logical partition 2048 sectors before it
    assert [(g.start // 512, g.end // 512, g.kind, g.inside) for g in found.gaps()] == [
        (1, 2048, "before-first", None),
        (10240, 16384, "between", None),
        (16385, 18432, "between", 2),
        (26624, 28672, "between", 2),
        (28673, 30720, "between", 2),
        (38912, 63488, "between", 2),
        (63489, 65536, "between", 2),
        (73728, 114688, "tail", 2),
        (114688, 131072, "tail", None),
    ]
    assert [extent.start // 512 for extent in found.used()[0]] == [0, 16384, 28672, 63488]
    inside = sum(p.size for p in found.partitions if not p.is_extended)
    assert found.outside().size == found.volume.size - inside
