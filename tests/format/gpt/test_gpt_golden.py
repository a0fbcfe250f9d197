"""GPT disks made by sgdisk, whole and damaged, read as sfdisk reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from onebay import table
from onebay.block import FileVolume
from onebay.layer import Suspect

HERE = Path(__file__).parent
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_text())
FINDINGS = {
    "primary-bad": {"gpt-primary-bad"},
    "primary-array-bad": {"gpt-primary-bad"},
    "backup-bad": {"gpt-backup-bad"},
    "grown": {"gpt-backup-misplaced"},
}


def unpack(name: str, folder: Path) -> FileVolume:
    path = folder / f"{name}.img"
    with (HERE / f"{name}.img.zst").open("rb") as packed, path.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(packed, out)
    return FileVolume(path, sector_size=4096 if name == "sector4096" else 512)


@pytest.mark.parametrize("name", EXPECTED)
def test_partitions_are_those_of_sfdisk(name: str, tmp_path: Path) -> None:
    want = EXPECTED[name]["sfdisk"]["partitiontable"]
    found = table.probe(unpack(name, tmp_path))
    assert isinstance(found, table.GptTable)
    assert found.identity == want["id"]
    sector = want["sectorsize"]
    header = found.gpt.chosen.header
    assert (header.first_usable_lba, header.last_usable_lba) == (want["firstlba"], want["lastlba"])
    have = [(p.number, p.start, p.size, p.type, p.uuid, p.name, p.active) for p in found.partitions]
    assert have == [
        (
            int(part["node"].split("img")[-1].split("p")[-1]),
            part["start"] * sector,
            part["size"] * sector,
            part["type"],
            part["uuid"],
            part.get("name", ""),
            "LegacyBIOSBootable" in part.get("attrs", ""),
        )
        for part in want["partitions"]
    ]
    kinds = {finding.kind for finding in found.check() if finding.severity != "note"}
    assert kinds == FINDINGS.get(name, set())
    assert EXPECTED[name]["sound"] == (not kinds)


def test_hybrid_is_told(tmp_path: Path) -> None:
    found = table.probe(unpack("hybrid", tmp_path))
    assert isinstance(found, table.GptTable)
    assert found.facts()["hybrid"] is True
    assert "hybrid-mbr" in {finding.kind for finding in found.check()}


def test_both_headers_bad_is_a_suspect(tmp_path: Path) -> None:
    found = table.probe(unpack("both-bad", tmp_path))
    assert isinstance(found, Suspect)
    assert found.kind == "gpt"
    assert "no valid gpt header" in found.evidence


def test_backup_is_found_where_the_protective_mbr_remembers_it(tmp_path: Path) -> None:
    found = table.probe(unpack("grown-primary-bad", tmp_path))
    assert isinstance(found, table.GptTable)
    assert [part.uuid for part in found.partitions] == [
        part["uuid"] for part in EXPECTED["plain"]["sfdisk"]["partitiontable"]["partitions"]
    ]
    assert {"gpt-primary-bad", "gpt-backup-misplaced"} <= {finding.kind for finding in found.check()}


def test_used_is_the_table_and_gaps_are_what_may_be_used(tmp_path: Path) -> None:
    found = table.probe(unpack("plain", tmp_path))
    assert isinstance(found, table.GptTable)
    assert [(e.start // 512, e.end // 512) for e in found.used()[0]] == [(0, 34), (131072 - 33, 131072)]
    gaps = [(g.start // 512, g.end // 512, g.kind) for g in found.gaps()]
    assert gaps == [(10240, 32768, "between"), (98304, 131039, "tail")]
