"""Swap areas made by mkswap, judged by blkid, swaplabel and the kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onebay.base import step, tool
from onebay.base.error import ToolFailed, Unsupported
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume, Overlay
from onebay.fs.swap import Swap, probe
from onebay.layer import Suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    Golden = Callable[[str, str], FileVolume]

CASES = json.loads((Path(__file__).parent / "expected.json").read_text("utf-8"))


def opened(volume: FileVolume | Overlay) -> Swap:
    layer = probe(volume)
    assert isinstance(layer, Swap)
    return layer


@pytest.mark.parametrize("name", sorted(CASES))
def test_facts(golden: Golden, name: str) -> None:
    layer, said = opened(golden("swap", name)), CASES[name]
    facts = layer.facts()
    asleep = said["TYPE"] == "swsuspend"
    assert (layer.keep_whole() is not None) == asleep
    assert (facts["hibernated"] is not None) == asleep
    assert facts["label"] == said.get("LABEL", facts["label"])
    assert facts["uuid"] == said.get("UUID", facts["uuid"])
    assert facts["size"] == layer.volume.size
    page = {"pages-8k": 8192, "pages-64k": 65536}.get(name, 4096)
    assert facts["page_size"] == page
    assert layer.used() == (ExtentSet.single(0, page),)


@pytest.mark.parametrize("name", ["pages-4k", "pages-64k"])
def test_growing_writes_the_last_page(golden: Golden, name: str, tmp_path: Path) -> None:
    volume = golden("swap", name)
    assert opened(volume).plan_grow() == []
    volume.resize(volume.size + (1 << 20))
    layer = opened(volume)
    for one in layer.plan_grow():
        step.apply(one)
    volume.flush()
    assert opened(volume).facts() == {**layer.facts(), "size": volume.size}
    # a header that is mkswap's own for that size, byte by byte
    twin = tmp_path / "twin.img"
    with twin.open("wb") as out:
        out.truncate(volume.size)
    twin.chmod(0o600)
    said = CASES[name]
    label = ["-L", said["LABEL"]] if "LABEL" in said else []
    page = layer.area.page_size
    tool.run(["mkswap", "-q", "-p", str(page), "-U", said["UUID"], *label, twin])
    assert twin.read_bytes()[:page] == volume.read(0, page)


def test_the_kernel_takes_what_has_grown(golden: Golden) -> None:
    if os.geteuid():
        pytest.skip("swapon needs root")
    volume = golden("swap", "pages-4k")
    volume.resize(volume.size + (1 << 20))
    for one in opened(volume).plan_grow():
        step.apply(one)
    volume.write(4096, b"\xa5" * (volume.size - 4096))  # a swap file must have no holes
    volume.flush()
    Path(volume.name).chmod(0o600)
    try:
        tool.run(["swapon", volume.name])
    except ToolFailed as error:
        pytest.skip(f"this kernel or file system has no swap files: {error}")
    try:
        lines = [line.split() for line in Path("/proc/swaps").read_text().splitlines()]
        size_kib = next(int(words[2]) for words in lines if words[0] == volume.name)
    finally:
        tool.run(["swapoff", volume.name])
    assert size_kib * 1024 == volume.size - 4096


def test_a_hibernated_area_does_not_grow(golden: Golden) -> None:
    volume = golden("swap", "hibernated")
    with pytest.raises(Unsupported, match="hibernated"):
        opened(Overlay(volume, size=volume.size * 2)).plan_grow()


@pytest.mark.parametrize(
    ("at", "raw", "says"),
    [
        (1024, b"\2\0\0\0", "swap version"),
        (1028, b"\0\2\0\0", "last page: expected 1 to 511, found 512"),
        (1028, b"\0\0\0\0", "last page"),
        (1032, b"\xff\xff\0\0", "number of bad pages"),
    ],
)
def test_a_broken_rule_makes_it_a_suspect(golden: Golden, at: int, raw: bytes, says: str) -> None:
    volume = golden("swap", "pages-4k")
    volume.write(at, raw)
    found = probe(volume)
    assert isinstance(found, Suspect)
    assert says in found.evidence


def test_the_other_byte_order(golden: Golden) -> None:
    volume = golden("swap", "pages-4k")
    for at in (1024, 1028, 1032):
        volume.write(at, volume.read(at, 4)[::-1])
    layer = opened(volume)
    assert layer.facts()["byte_order"] == "big"
    assert layer.facts()["size"] == volume.size
    assert tool.run(["swaplabel", volume.name]).text.count("11111111-2222-3333-4444-555555555555") == 1
