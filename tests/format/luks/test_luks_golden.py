"""LUKS against cryptsetup: headers, and what becomes of them when bytes are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from onebay.block import FileVolume
from onebay.layer import Suspect
from onebay.stack import luks

Golden = Callable[[str, str], FileVolume]
EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text())


@pytest.mark.parametrize("case", EXPECTED)
def test_says_what_cryptsetup_says(golden: Golden, case: str) -> None:
    said = EXPECTED[case]
    volume = golden("luks", case)
    layer = luks.probe(volume)
    assert isinstance(layer, luks.Luks)
    facts = layer.facts()
    assert facts["version"] == int(said["Version"])
    assert facts["uuid"] == said["UUID"]
    if facts["version"] == 1:
        assert facts["cipher"] == f"{said['Cipher name']}-{said['Cipher mode']}"
        assert facts["payload_offset"] == int(said["Payload offset"]) * 512
    else:
        assert facts["label"] == ("" if said["Label"] == "(no label)" else said["Label"])
        assert facts["cipher"] == said["cipher"]
        assert facts["payload_offset"] == int(said["offset"].split()[0])
        assert facts["sector_size"] == int(said["sector"].split()[0])
    assert layer.title == f"luks{said['Version']}"
    assert layer.used()[0].covers(0, volume.size)
    assert layer.check() == []


@pytest.mark.parametrize("at", [100, 4096 + 30])
@pytest.mark.parametrize("second", [False, True])
def test_one_bad_luks2_header_is_a_finding(golden: Golden, at: int, *, second: bool) -> None:
    volume = golden("luks", "luks2")
    place = at + (16384 if second else 0)
    volume.write(place, bytes([volume.read(place, 1)[0] ^ 1]))
    layer = luks.probe(volume)
    assert isinstance(layer, luks.Luks)
    assert layer.facts()["uuid"] == EXPECTED["luks2"]["UUID"]
    assert {finding.kind for finding in layer.check()} == {"luks-header-bad"}


def test_two_bad_luks2_headers_are_a_suspect(golden: Golden) -> None:
    volume = golden("luks", "luks2")
    for place in (100, 16384 + 100):
        volume.write(place, b"\xff")
    assert isinstance(luks.probe(volume), Suspect)


def test_second_header_alone_is_nothing(golden: Golden) -> None:
    volume = golden("luks", "luks2")
    volume.write(0, bytes(4096))
    assert luks.probe(volume) is None


def test_volume_cut_short(golden: Golden) -> None:
    volume = golden("luks", "luks1")
    volume.resize(65536)
    layer = luks.probe(volume)
    assert isinstance(layer, luks.Luks)
    assert {finding.kind for finding in layer.check()} == {"luks-truncated"}
