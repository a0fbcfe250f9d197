"""Packages of appliances: what is said of sound ones, damaged ones, and of what only looks like one."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from badkit import onebay
from packagekit import FILES, VERSION, make_files, pack, seal, shell

from onebay.base.error import BadChecksum, BadMagic, Damaged, Refused, Truncated
from onebay.ops.payload import Payload, find_payload, read_payload, refuse_bad
from onebay.ops.payload.sums import Digest, grub_differs, sample_at

SUMS = ("checksum.syno", "grub_cksum.syno", "SHA256SUMS")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The members of a sound package, which no test changes."""
    return make_files(tmp_path_factory.mktemp("package") / "files")


@pytest.fixture
def copy(files: Path, tmp_path: Path) -> Path:
    """A copy of the members, to be changed."""
    return shutil.copytree(files, tmp_path / "copy")


def failing(payload: Payload) -> set[tuple[str, str]]:
    return {(check.source, check.name) for check in payload.bad}


@pytest.mark.parametrize(
    "options", [("--format=gnu",), ("--format=ustar",), ("--format=posix",), ("-z",), ("-J",)], ids="".join
)
def test_a_sound_package(files: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    payload = read_payload(pack(files, tmp_path / "DSM.pat", *options))
    assert not payload.encrypted
    assert payload.packing == {"-z": "gzip", "-J": "xz"}.get(options[0], "none")
    assert (payload.model, payload.version, payload.build, payload.update) == (
        "synology_apollolake_918+",
        "6.2.4",
        "25556",
        "2",
    )
    assert payload.facts["builddate"] == "2021/03/18"
    assert [(file.name, file.size) for file in payload.files] == [
        (name, (files / name).stat().st_size) for name in (*FILES, *SUMS)
    ]
    verdicts = {(check.source, check.name): check.verdict for check in payload.checks}
    assert set(verdicts.values()) == {"holds"}
    assert len(verdicts) == len(FILES) + 1 + 2 + len(FILES)
    assert [file.verdict for file in payload.files] == ["holds"] * len(FILES) + [""] * len(SUMS)
    refuse_bad(payload)


def test_names_as_tar_writes_them_for_a_folder(files: Path, tmp_path: Path) -> None:
    payload = read_payload(pack(files, tmp_path / "a.pat", names=(".",)))
    assert not payload.bad
    assert {file.verdict for file in payload.files if file.name.endswith(("zImage", "notes-1.0.spk"))} == {
        "holds"
    }


def test_the_samples_package(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    folder.mkdir()
    (folder / "VERSION").write_text(
        'majorversion="1"\nminorversion="0"\nbuildnumber="1"\nunique="onebay_sample_nas"\n'
    )
    (folder / "zImage").write_bytes(b"kernel" * 5000)
    (folder / "SHA256SUMS").write_text(shell('sha256sum "$@"', folder, "VERSION", "zImage"))
    payload = read_payload(pack(folder, tmp_path / "nas", names=("VERSION", "zImage", "SHA256SUMS")))
    assert (payload.model, payload.version, payload.build) == ("onebay_sample_nas", "1.0", "1")
    assert [check.verdict for check in payload.checks] == ["holds", "holds"]


def test_a_version_without_a_model(copy: Path, tmp_path: Path) -> None:
    (copy / "VERSION").write_text("majorversion='7'\nminorversion=0\nbuildnumber=\"42218\"\n\x1b[2J=1\nx y\n")
    (copy / "GRUB_VER").write_text('PLATFORM="apollolake"\nMODEL="DS918+"\n')
    payload = read_payload(pack(copy, tmp_path / "a.pat", names=("VERSION", "GRUB_VER")))
    assert (payload.model, payload.version, payload.build, payload.update) == ("DS918+", "7.0", "42218", "")
    assert set(payload.facts) == {"majorversion", "minorversion", "buildnumber"}
    assert "no checksums are given" in onebay("inspect", tmp_path / "a.pat").stdout


@pytest.mark.parametrize("at", [0, 40_000, 70_000])
def test_a_flipped_byte(files: Path, copy: Path, tmp_path: Path, at: int) -> None:
    content = bytearray((copy / "zImage").read_bytes())
    content[at] ^= 1
    (copy / "zImage").write_bytes(content)
    payload = read_payload(pack(copy, tmp_path / "bad.pat"))
    assert failing(payload) == {(source, "zImage") for source in SUMS}
    assert {file.name for file in payload.files if file.verdict == "fails"} == {"zImage"}
    with pytest.raises(
        BadChecksum, match=r"checksum\.syno: zImage: crc-32: expected \d+, found \d+ \(and 2 more\)"
    ):
        refuse_bad(payload)


def test_a_missing_member(files: Path, tmp_path: Path) -> None:
    names = tuple(name for name in (*FILES, *SUMS) if name != "rd.gz")
    payload = read_payload(pack(files, tmp_path / "less.pat", names=names))
    assert failing(payload) == {(source, "rd.gz") for source in SUMS}
    assert {check.why for check in payload.bad} == {"is not in the package"}


@pytest.mark.parametrize(
    ("column", "what"),
    [(0, "crc-32"), (1, "size in bytes"), (3, "offset of its sample"), (4, "sum of its sample")],
)
def test_each_column_of_checksum_syno(copy: Path, tmp_path: Path, column: int, what: str) -> None:
    lines = (copy / "checksum.syno").read_text().splitlines()
    fields = lines[3].split(" ")
    fields[column] = str(int(fields[column]) + 1)
    lines[3] = " ".join(fields)
    (copy / "checksum.syno").write_text("\n".join(lines))
    (bad,) = read_payload(pack(copy, tmp_path / "bad.pat")).bad
    assert bad.name == FILES[3]
    assert bad.why.startswith(f"{what}: expected {fields[column]}, found {int(fields[column]) - 1}")


def test_a_total_that_differs_is_not_judged(copy: Path, tmp_path: Path) -> None:
    text = (copy / "checksum.syno").read_text().splitlines()
    (copy / "checksum.syno").write_text("\n".join([*text[:-2], text[-1]]) + "\n")  # a line is lost
    payload = read_payload(pack(copy, tmp_path / "a.pat"))
    assert [check.name for check in payload.checks if check.verdict == "unknown"] == ["its own total"]
    refuse_bad(payload)


def test_what_the_sums_say_in_public_packages() -> None:
    """Lines that others published: DSM_DS918+_25556 (dsm-research), and a virtual DSM (jxcn.org)."""
    for size, x in ((1046607, 2032129), (9142600, 12339783)):
        at = sample_at(size)
        assert at is not None
        assert at + size == x
    for md5, digits in (
        ("9fd8453126fce43fb823c38cf309b1c7", "9d432fe3b2c8f9bc7"),
        ("64aa55d13271c578e19b6b094a6e14df", "6a5d37c7e969461df"),
    ):
        assert not grub_differs(digits, Digest(0, 0, bytes.fromhex(md5), b"", None))
        assert grub_differs("0" + digits[1:], Digest(0, 0, bytes.fromhex(md5), b"", None))


def test_other_kinds_of_grub_sums_are_not_judged(copy: Path, tmp_path: Path) -> None:
    (copy / "grub_cksum.syno").write_text("(hd0,1)/zImage Encrypted: 1a2b3c4d\n(hd0,1)/rd.gz: what\n")
    payload = read_payload(pack(copy, tmp_path / "a.pat"))
    assert {c.name for c in payload.checks if c.verdict == "unknown"} == {"zImage", "line 2"}
    assert not payload.bad


def test_odd_lines_of_sums(copy: Path, tmp_path: Path) -> None:
    tagged = shell('sha256sum --tag "$@"', copy, "zImage")
    (copy / "a\nb\\c").write_bytes(b"odd name")
    escaped = shell('sha256sum -b -- "$@"', copy, "a\nb\\c")
    assert escaped.startswith("\\")
    (copy / "SHA256SUMS").write_text(f"# a comment\n\n{tagged}{escaped}deadbeef  zImage\n")
    (copy / "checksum.syno").write_text("1 2 zImage\n# nothing\n")
    payload = read_payload(pack(copy, tmp_path / "a.pat", names=(*FILES, *SUMS, "a\nb\\c")))
    held = [(check.source, check.name) for check in payload.checks if check.verdict == "holds"]
    assert [name for source, name in held if source == "SHA256SUMS"] == ["zImage", "a\\nb\\c"]
    assert failing(payload) == {("SHA256SUMS", "line 5"), ("checksum.syno", "line 1")}


def test_empty_and_tiny_files(copy: Path, tmp_path: Path) -> None:
    """What the public program writes for an empty file; of tiny ones only size and CRC are judged."""
    (copy / "empty").touch()
    (copy / "tiny").write_bytes(b"ab")
    crc = shell("gzip -c1 tiny | tail -c 8 | od -An -v -tu4 -N4 --endian=little", copy).strip()
    (copy / "checksum.syno").write_text(f"0 0 empty 0 2767\n{crc} 2 tiny 99 99\n")
    payload = read_payload(
        pack(copy, tmp_path / "a.pat", names=("VERSION", "empty", "tiny", "checksum.syno"))
    )
    assert [check.verdict for check in payload.checks] == ["holds", "holds"]


@pytest.mark.parametrize("bin_hash", [True, False])
def test_an_encrypted_package(tmp_path: Path, bin_hash: bool) -> None:
    entries = [b"x" * 700, b"secret" * 100_000, b""]
    path = tmp_path / "any name"
    path.write_bytes(seal(entries, bin_hash=bin_hash))
    payload = read_payload(path)
    assert payload.encrypted
    assert (payload.entries, payload.model, payload.version, payload.files) == (3, "", "", ())
    assert [check.verdict for check in payload.checks] == ["holds"] * 4
    text = onebay("inspect", path).stdout
    assert "encrypted" in text
    assert "3 members; model, version, names and content are not readable without a key" in text
    assert "its header: 4 of 4 hold" in text


def test_a_damaged_encrypted_package(tmp_path: Path) -> None:
    whole = seal([b"x" * 700, b"secret" * 100_000])
    path = tmp_path / "a.pat"
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    path.write_bytes(flipped)
    assert failing(read_payload(path)) == {("its header", "entry 2")}
    path.write_bytes(whole + b"more")
    assert failing(read_payload(path)) == {("its header", "length of the file")}
    path.write_bytes(whole[:-1])
    with pytest.raises(Truncated, match=f"ends early: expected {len(whole)}, found {len(whole) - 1}"):
        read_payload(path)
    path.write_bytes(whole[:100])
    with pytest.raises(Truncated, match="ends in its header"):
        read_payload(path)
    for at, byte in ((8, 0x00), (8, 0x91), (9, 0xC0), (43, 0x80), (47, 0xC4), (52, 0xCC)):
        bad = bytearray(whole)
        bad[at] = byte
        path.write_bytes(bad)
        with pytest.raises(Damaged, match="header of an encrypted package"):
            read_payload(path)


def test_every_cut_is_told(files: Path, tmp_path: Path) -> None:
    whole = pack(files, tmp_path / "whole.tar", "--format=posix").read_bytes()
    end = len(whole.rstrip(b"\0"))
    path = tmp_path / "cut.pat"
    for cut in (512, 513, 1024, 1300, 60_000, end // 2, end - 1, end):
        path.write_bytes(whole[:cut])
        with pytest.raises(Truncated, match="ends early, in ") as caught:
            read_payload(path)
        assert caught.value.at is not None
        assert cut - 512 <= caught.value.at <= cut
    for cut in (0, 1, 511):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadMagic):
            read_payload(path)


@pytest.mark.parametrize("option", ["-z", "-J"])
def test_every_cut_of_a_packed_one_is_told(files: Path, tmp_path: Path, option: str) -> None:
    whole = pack(files, tmp_path / "whole", option).read_bytes()
    path = tmp_path / "cut.pat"
    for cut in (len(whole) - 1, len(whole) - 8, len(whole) * 9 // 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(Truncated, match="the file ends early"):
            read_payload(path)
    flipped = bytearray(whole)
    flipped[-10 if option == "-z" else len(whole) - 20] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(Damaged):
        read_payload(path)


def test_it_may_unpack_to_so_much(files: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pat"
    with gzip.open(bomb, "wb", 1) as out:
        out.write(pack(files, tmp_path / "a.tar").read_bytes().rstrip(b"\0"))
        out.write(bytes(64 << 20))
    with pytest.raises(Refused, match="unpacks to more"):
        read_payload(bomb, max_size=32 << 20)
    done = onebay("inspect", bomb, "--max-size", "32M", status=3)
    assert "--max-size" in done.stderr


def test_what_is_no_package(files: Path, tmp_path: Path) -> None:
    """Tars of other things are disks like any unknown bytes, unless they are called .pat."""
    (tmp_path / "VERSION").write_text("1.2.3\n")
    path = pack(tmp_path, tmp_path / "source.tar", names=("VERSION",))
    assert find_payload(path) is None
    assert find_payload(pack(tmp_path, tmp_path / "source.tar.gz", "-z", names=("VERSION",))) is None
    with pytest.raises(BadMagic, match="no package"):
        read_payload(path)
    with pytest.raises(Damaged, match="there is no VERSION in it"):
        read_payload(path.rename(tmp_path / "source.pat"))
    names = tuple(name for name in (*FILES, *SUMS) if name != "VERSION")
    assert find_payload(pack(files, tmp_path / "other.tar", names=names)) is None
    for content in (b"", b"\x1f\x8b", b"\x1f\x8b" + bytes(600), b"\xfd7zXZ\0", b"text", bytes(1 << 20)):
        (tmp_path / "some").write_bytes(content)
        assert find_payload(tmp_path / "some") is None
    assert find_payload(tmp_path) is None


def table_in(header: bytes) -> bytes:
    """Put a partition table into a tar header, whose checksum is right afterwards."""
    entry = bytes.fromhex("80000000830000000008000000100000")
    block = bytearray(header[:446] + entry + bytes(48) + b"\x55\xaa")
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def test_a_partition_table_wins(files: Path, tmp_path: Path) -> None:
    package = pack(files, tmp_path / "a.pat", "--format=gnu").read_bytes()
    assert find_payload(tmp_path / "a.pat") is not None
    mbr = tmp_path / "mbr.pat"
    mbr.write_bytes(table_in(package[:512]) + package[512:])
    assert subprocess.run(["tar", "-tf", mbr], check=True, capture_output=True).stdout.startswith(b"VERSION")
    assert find_payload(mbr) is None
    packed = tmp_path / "mbr.gz"
    packed.write_bytes(gzip.compress(mbr.read_bytes()))
    assert find_payload(packed) is None
    disk = tmp_path / "gpt"
    disk.write_bytes(bytes(32 << 20))
    subprocess.run(["sgdisk", "-n", "1:40960:+4M", disk], check=True, capture_output=True)
    with disk.open("r+b") as file:  # a tar over its beginning; the copy of the table at the end is left
        file.write(package)
    assert find_payload(disk) is None
    document = onebay("inspect", disk, "--json").document
    assert document["disk"]["size"] == 32 << 20


def test_other_bytes_behind_its_end(files: Path, tmp_path: Path) -> None:
    path = pack(files, tmp_path / "a.pat")
    with path.open("ab") as file:
        file.write(bytes(1 << 20) + b"x")
    payload = read_payload(path)
    assert [(c.name, c.verdict) for c in payload.checks if c.source == "the package"] == [
        ("its end", "unknown")
    ]
    refuse_bad(payload)
    assert find_payload(path.rename(tmp_path / "a.img")) is None  # more likely a disk


def test_inspect_shows_it(files: Path, tmp_path: Path) -> None:
    path = pack(files, tmp_path / "package")  # its content counts, not its name
    before = hashlib.sha256(path.read_bytes()).digest()
    document = onebay("inspect", path, "--json").document
    assert (document["kind"], document["format"], document["sound"]) == ("payload", 1, True)
    assert document["files"][1] == {"name": "zImage", "kind": "file", "size": 70_001, "verdict": "holds"}
    assert document["checks"][0] == {
        "source": "checksum.syno",
        "name": "VERSION",
        "verdict": "holds",
        "why": "",
    }
    assert document["facts"] == dict(line.replace('"', "").split("=") for line in VERSION.splitlines())
    text = onebay("inspect", path).stdout
    assert "version  6.2.4, build 25556, update 2" in text
    assert "checksum.syno: 6 of 6 hold" in text
    assert onebay("inspect", path, "--input-format", "raw", "--json").document["tree"]["state"] == "unknown"
    done = onebay("inspect", path, "--svg", tmp_path / "a.svg", status=3)
    assert "nothing to draw" in done.stderr
    assert not (tmp_path / "a.svg").exists()
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert json.loads(json.dumps(document)) == document
