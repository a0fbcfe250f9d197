"""What is inside LUKS against the kernel, and what is not opened: never a wrong byte, never a write."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from onebay.base.error import Error, Refused, ToolMissing, Unsupported
from onebay.base.extent import ExtentSet
from onebay.base.step import Write, Zero
from onebay.block import Concat, Crypt, FileVolume, Overlay, Piece, Volume, locate, lower
from onebay.ops.need import needed, standing
from onebay.ops.run import Planner
from onebay.ops.unlock import discover_inside
from onebay.stack import luks
from onebay.stack.luks import LUKS2, Luks, open_luks

Golden = Callable[[str, str], FileVolume]
Json = dict[str, Any]
HERE = Path(__file__).parent
SAID = json.loads((HERE / "payload.json").read_text())
CASES = ["open-luks1", "open-luks2", "open-luks2-4k"]
MIB = 1 << 20
KEY = b"pass"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go: nothing may be left there, however a test ends."""
    (folder := tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def closed(volume: Volume) -> Luks:
    layer = luks.probe(volume)
    assert isinstance(layer, Luks)
    return layer


def inside(layer: Luks) -> Crypt:
    (found,) = layer.above
    assert isinstance(found, Crypt)
    return found


def digest(volume: Volume) -> str:
    return hashlib.sha256(volume.read(0, volume.size)).hexdigest()


def edit(volume: Volume, change: Callable[[Json], object]) -> None:
    """Change the JSON of both LUKS2 headers and make their checksums right again."""
    size = LUKS2.unpack(volume.read(0, LUKS2.size)).hdr_size
    for at in (0, size):
        header = LUKS2.unpack(volume.read(at, LUKS2.size))
        area = volume.read(at + LUKS2.size, size - LUKS2.size)
        found = json.loads(area.split(b"\0")[0])
        change(found)
        area = json.dumps(found, separators=(",", ":")).encode().ljust(len(area), b"\0")
        blank = LUKS2.pack(header, csum=bytes(64))
        csum = hashlib.sha256(blank + area).digest().ljust(64, b"\0")
        volume.write(at, LUKS2.pack(header, csum=csum) + area)


@pytest.mark.parametrize("case", CASES)
def test_reads_what_the_kernel_reads(golden: Golden, case: str) -> None:
    volume = golden("luks", case)
    before = digest(volume)
    layer = open_luks(closed(volume), KEY)
    crypt, said = inside(layer), SAID[case]
    assert crypt.size == said["size"]
    assert crypt.sector_size == said["sector_size"]
    assert digest(crypt) == said["sha256"]
    whole = crypt.read(0, crypt.size)
    for at, size in ((0, 1), (511, 2), (4095, 4098), (5000, 0), (crypt.size - 700, 700), (1, 99_999)):
        assert crypt.read(at, size) == whole[at : at + size]
    payload = volume.size - crypt.size
    assert layer.used() == (ExtentSet.single(0, payload),)
    assert layer.facts() == closed(volume).facts()
    assert digest(volume) == before


@pytest.mark.parametrize("case", CASES)
def test_what_is_used_inside_maps_to_the_disk(golden: Golden, case: str) -> None:
    """The blocks that are kept, and zeros for the rest, hold the same files."""
    volume = golden("luks", case)
    tree = discover_inside(volume, KEY)
    assert [layer.kind for layer in tree.layers] == ["luks", "ext"]
    keep = needed(tree)
    assert keep.size < volume.size // 2
    copy = Overlay(volume)
    for start, end in ExtentSet.single(0, volume.size) - keep:
        copy.write(start, bytes(end - start))
    fs = inside(open_luks(closed(copy), KEY))
    path = Path(volume.name).with_suffix(".fs")
    path.write_bytes(fs.read(0, fs.size))
    subprocess.run(["/usr/sbin/e2fsck", "-fn", path], check=True, capture_output=True)
    for name, said in SAID["files"].items():
        argv = ["/usr/sbin/debugfs", "-R", f"cat /{name}", path]
        content = subprocess.run(argv, check=True, capture_output=True).stdout
        assert hashlib.sha256(content).hexdigest() == said


@pytest.mark.parametrize("tail", [0, MIB + 4096])
def test_fixed_segment_with_another_first_iv(tmp_path: Path, tail: int) -> None:
    """A key of 512 bits; the header is cryptsetup's own, and it takes what was changed in it."""
    payload = zstandard.ZstdDecompressor().decompressobj().decompress((HERE / "payload-4k.zst").read_bytes())
    path, secret = tmp_path / "luks.img", tmp_path / "volume-key"
    secret.write_bytes(bytes.fromhex(SAID["payload-key"]))
    start = 2 * MIB
    with path.open("wb") as file:
        file.truncate(start + len(payload) + tail)
    options = ["--batch-mode", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"]
    options += [f"--offset={start // 512}", "--sector-size=4096", "--key-size=512"]
    argv = ["/usr/sbin/cryptsetup", "luksFormat", *options, f"--volume-key-file={secret}", path, "-"]
    subprocess.run(argv, input=KEY, check=True, capture_output=True)
    volume = FileVolume(path, writable=True)
    volume.write(start, payload)

    def change(found: Json) -> None:
        found["segments"]["0"] |= {"iv_tweak": str(SAID["payload-iv"]), "size": str(len(payload))}

    edit(volume, change)
    subprocess.run(["/usr/sbin/cryptsetup", "luksDump", path], check=True, capture_output=True)
    layer = open_luks(closed(volume), KEY)
    assert digest(inside(layer)) == SAID["payload-4k"]["sha256"]
    own = ExtentSet.of([(0, start), (start + len(payload), volume.size)])
    assert layer.used() == (own,)
    volume.close()


def test_opens_by_the_second_header(golden: Golden) -> None:
    volume = golden("luks", "open-luks2")
    volume.write(4096, b"\xff")
    layer = open_luks(closed(volume), KEY)
    assert digest(inside(layer)) == SAID["open-luks2"]["sha256"]
    assert [finding.kind for finding in layer.check()] == ["luks-header-bad"]
    assert volume.read(4096, 1) == b"\xff"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", [b"pass\n", b"Pass", b"p" * 5000])
def test_a_wrong_key_opens_nothing(golden: Golden, case: str, key: bytes) -> None:
    volume = golden("luks", case)
    with pytest.raises(Refused, match="opens none of the key slots") as caught:
        discover_inside(volume, key)
    assert key.decode().strip() not in str(caught.value).replace("passphrase", "")


def test_nothing_can_be_written_through_it(golden: Golden) -> None:
    """Neither straight nor by a plan, nor through what stands on it."""
    volume = golden("luks", "open-luks1")
    before = digest(volume)
    planner = Planner("grow", volume)
    tree = discover_inside(planner.view, KEY)
    (layer,) = tree.of_kind("luks")
    (crypt,) = layer.above
    lv = Concat("lv", [Piece(crypt, 4096, 8192)], 512)
    for place in (crypt, lv):
        with pytest.raises(Refused, match="reading only"):
            place.write(0, b"plain")
        with pytest.raises(Refused, match="reading only"):
            place.zero(0, 512)
        assert [piece.volume for piece in locate(place, 0, 4096)] == [crypt]
        for step in (Write(place, 0, b"plain", "why"), Zero(place, 0, 512, "why")):
            for rehearse in (True, False):
                with pytest.raises(Refused):
                    planner.add([step], rehearse=rehearse)
    assert lower(crypt, ExtentSet.single(0, 4096)) == []
    assert not planner.plan.steps
    assert not planner.view.pages
    crypt.flush()
    assert digest(volume) == before
    ((above, encrypted),) = standing(layer)
    assert above is crypt
    assert [(piece.volume, piece.at) for piece in locate(encrypted, 512, 1024)] == [
        (planner.view, 2 * MIB + 512)
    ]


REASONS: list[tuple[Callable[[Json], object], str]] = [
    (
        lambda found: found["config"].update(requirements={"mandatory": ["online-reencrypt-v2"]}),
        "requirement",
    ),
    (lambda found: found["config"].update(requirements={"mandatory": "x"}), "requirement"),
    (lambda found: found["config"].update(requirements=["opal"]), "requirement"),
    (lambda found: found["segments"].update({"1": found["segments"]["0"]}), "2 segments"),
    (lambda found: found["segments"].clear(), "0 segments"),
    (lambda found: found["segments"]["0"].update(integrity={"type": "aead"}), "integrity"),
    (lambda found: found["segments"]["0"].update(integrity=None), "integrity"),
    (lambda found: found["segments"]["0"].update(flags=["backup-final"]), "flags"),
    (lambda found: found["segments"]["0"].update(type="linear"), "another kind"),
    (lambda found: found["segments"]["0"].update(type="hw-opal-crypt"), "another kind"),
    (lambda found: found["segments"]["0"].update(encryption="aes-xts-plain"), "the cipher aes-xts-plain,"),
    (lambda found: found["segments"]["0"].update(encryption="capi:xts(aes)-plain64"), "the cipher"),
    (lambda found: found["segments"]["0"].update(encryption=["aes-xts-plain64"]), "the cipher"),
    (lambda found: found["segments"]["0"].update(offset="0"), "detached"),
    (lambda found: found["segments"]["0"].update(offset="4096"), "inside its headers"),
    (lambda found: found["segments"]["0"].update(offset=str(MIB + 1)), "whole sectors"),
    (lambda found: found["segments"]["0"].update(offset=MIB), "numbers"),
    (lambda found: found["segments"]["0"].update(offset="-1"), "numbers"),
    (lambda found: found["segments"]["0"].update(offset=str(1 << 62)), "behind the volume"),
    (lambda found: found["segments"]["0"].update(offset="9" * 5000), "numbers"),
    (lambda found: found["segments"]["0"].update(offset="²"), "numbers"),
    (lambda found: found["segments"]["0"].update(iv_tweak=None), "numbers"),
    (lambda found: found["segments"]["0"].update(size="0"), "behind the volume"),
    (lambda found: found["segments"]["0"].update(size="513"), "whole sectors"),
    (lambda found: found["segments"]["0"].update(size=str(1 << 62)), "behind the volume"),
    (lambda found: found["segments"]["0"].update(size=4096), "numbers"),
    (lambda found: found["segments"]["0"].update(sector_size=513), "whole sectors"),
    (lambda found: found["segments"]["0"].update(sector_size=0), "whole sectors"),
    (lambda found: found["segments"]["0"].update(sector_size=True), "numbers"),
    (lambda found: found["segments"]["0"].update(sector_size=1 << 70), "whole sectors"),
]


@pytest.mark.parametrize("number", range(len(REASONS)))
def test_what_is_not_opened_is_kept_whole(golden: Golden, number: int) -> None:
    change, why = REASONS[number]
    volume = golden("luks", "open-luks2")
    edit(volume, change)
    layer = closed(volume)
    with pytest.raises(Unsupported, match=why):
        open_luks(layer, KEY)
    with pytest.raises(Unsupported, match=why):
        layer.opened(bytes(range(32)))
    assert not layer.above
    assert layer.used() == (ExtentSet.single(0, volume.size),)


@pytest.mark.parametrize("case", ["luks1", "luks2"])
def test_other_ciphers_are_named(golden: Golden, case: str) -> None:
    with pytest.raises(Unsupported, match="the cipher aes-cbc-essiv:sha256, not aes-xts-plain64"):
        open_luks(closed(golden("luks", case)), KEY)


def test_a_volume_of_half_a_sector_more_is_not_opened(golden: Golden) -> None:
    """No kernel maps it either."""
    volume = golden("luks", "open-luks2-4k")
    volume.resize(volume.size + 512)
    with pytest.raises(Unsupported, match="whole sectors"):
        open_luks(closed(volume), KEY)


def test_headers_that_cryptsetup_does_not_take(golden: Golden) -> None:
    """Its reason is told, and the key is not in it."""
    volume = golden("luks", "open-luks2")
    edit(volume, lambda found: found.update(keyslots={"0": {"type": "luks2", "key_size": -5}}))
    with pytest.raises(Error, match="cryptsetup ended with status") as caught:
        open_luks(closed(volume), b"kept-secret")
    assert "kept-secret" not in f"{caught.value} {caught.value.hint} {caught.value.found}"


def test_volume_keys_that_are_none(golden: Golden) -> None:
    layer = closed(golden("luks", "open-luks1"))
    for key in (b"", bytes(range(16)), bytes(range(48)), bytes(range(128))):
        with pytest.raises(Unsupported, match="does not go with"):
            layer.opened(key)
    layer.opened(bytes(64))


def test_without_the_library(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ToolMissing, match="cryptography is not installed") as caught:
        discover_inside(golden("luks", "open-luks1"), KEY)
    assert "pip install cryptography" in str(caught.value.hint)
