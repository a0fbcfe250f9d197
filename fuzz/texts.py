"""Targets whose input is bytes and not a disk: texts, images, kits, journals, GRUB cores."""

from __future__ import annotations

import io
import json
import lzma
import struct
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256

from zstandard import ZstdDecompressor

from fuzz.disk import PAGE, Disk, Seed
from fuzz.seeds import seed
from onebay.base.error import Error
from onebay.base.extent import Extent, ExtentSet
from onebay.base.step import Write
from onebay.block import Overlay
from onebay.boot.core import bios_core, pe_machine, read_bios_core, read_efi_core
from onebay.boot.grubcfg import commands, functions, parse_config
from onebay.boot.grubcfg.rewrite import Place, rewrite
from onebay.image.codec import compressor
from onebay.layer import Member
from onebay.ops.foldrecord import parse_record
from onebay.ops.journal import HEAD as JOURNAL_HEAD
from onebay.ops.journal import Journal
from onebay.ops.kitformat import HEAD as KIT_HEAD
from onebay.ops.kitformat import MAGIC, KitFacts, KitPart, Region, pack_kit, parse_kit
from onebay.stack import luks
from onebay.stack.luks import LUKS2
from onebay.stack.lvm import Pv
from onebay.stack.lvm import probe as probe_lvm
from onebay.stack.lvm import text as lvm_text

SECTOR = 512
MIB = 1 << 20

GRUB_CFG = (
    b"""# a comment
set default="0"
set timeout=5
if [ -s $prefix/grubenv ]; then load_env; fi
function lookup { search --no-floppy --fs-uuid --set=root "$1" || return 1 }
for x in a b 'c d'; do echo "${x}" \\$y; done
menuentry 'One' --class os --id one {
    insmod ext2
    search -f -s root /boot/kernel --hint hd0,msdos1
    linux (hd0,msdos1)/boot/vmlinuz root=UUID=1234-abcd ro quiet
    initrd ($root)/boot/rd.gz (hd0,gpt2)/extra
}
submenu "more" { menuentry "two" { set root='hd0,1'; chainloader +1; boot } }
while test "$x" != 3; do x=3; done
if search.fs_label DATA root; then configfile /grub/other.cfg
elif true; then source $prefix/a.cfg; else ls; fi
""",
    b"serial --unit=0; terminal_input serial console\n\nset pager=1 ; save_env -f $prefix/e x\n",
)


def lvm_texts() -> list[bytes]:
    """Return the metadata text of golden volume groups."""
    found = []
    for case in ("lvm/dsm", "lvm/kinds-a", "lvm/wrap"):
        answer = probe_lvm(Disk(seed(case)))
        assert isinstance(answer, Member)
        assert isinstance(answer.detail, Pv)
        assert answer.detail.newest is not None
        found.append(answer.detail.newest.text)
    return found


def lvm(data: bytes) -> None:
    """Parse metadata text; what it holds can be asked, and an error says where."""
    try:
        root = lvm_text.parse(data)
    except Error as error:
        if error.at is None or not 0 <= error.at <= len(data):
            raise AssertionError("an error that does not say where") from error
        return
    walk(root, 0)


def walk(section: lvm_text.Section, depth: int) -> None:
    """Ask every section for every name as every kind."""
    assert depth < 1000
    for name in [*section.items][:64]:
        for method in (section.number, section.string, section.array, section.leaf):
            with suppress(Error):
                method(name)
    for inner in section.sections():
        walk(inner, depth + 1)


def grub(data: bytes) -> None:
    """Parse a configuration, rewrite it, and parse the result: it must still be one."""
    try:
        config = parse_config(data)
    except Error:
        return
    for command in commands(config.script):
        config.place(command.words[0].start)
    list(functions(config.script))
    place = Place(
        1, "1234-abcd", "DATA", "11-22", "onebay_a", "9999-0000", "33-44", lambda path: len(path) % 2 == 0
    )
    with suppress(Error):
        parse_config(rewrite(config, [place, replace(place, number=2, uuid="x")]).data)


def grub_seeds() -> list[bytes]:
    """Return configurations with every construct of the language."""
    return list(GRUB_CFG)


RECORD = json.dumps(
    {
        "boot_disk": "aa",
        "grub": "2.06",
        "menu": {"path": "/grub.cfg"},
        "code_sha256": "cc",
        "core": {"at": 1, "size": 2, "sha256": "dd"},
        "partitions": [{"number": 3, "start": 4, "size": 5, "uuid": "u", "home": True}],
        "files": {"/a": "b"},
    }
).encode()


def record(data: bytes) -> None:
    """Read the record of a fold as `read_record` does."""
    with suppress(KeyError, TypeError, ValueError, AttributeError, RecursionError):
        parse_record(json.loads(data))


def record_text() -> bytes:
    """Return a record."""
    return RECORD


def memory(name: str, size: int, parts: dict[int, bytes]) -> Disk:
    """Return a disk of our own bytes."""
    disk = Disk(Seed(name, (size,), SECTOR, {}))
    for at, data in parts.items():
        disk.put(at, data)
    return disk


def frozen(disk: Disk) -> Disk:
    """Return a disk whose present content is the seed."""
    return Disk(Seed(disk.name, (disk.size,), SECTOR, {n: bytes(page) for n, page in disk.changed.items()}))


@cache
def kit_seeds() -> list[bytes]:
    """Return a kit with two regions, and its facts alone."""
    disk = frozen(memory("kit", 4 * MIB, {0: b"\xeb\x63" * 220, MIB: b"content" * 1000}))
    part = KitPart(
        4, MIB, MIB, "c", "01020304-04", "", active=False, fs="fat", fs_uuid="AAAA-BBBB", home=True
    )
    regions = (
        Region("code", 0, 440, (Extent(0, 440),)),
        Region("p4", MIB, MIB, (Extent(0, PAGE), Extent(8192, 9000))),
    )
    facts = KitFacts(
        disk_size=disk.size,
        sector_size=SECTOR,
        table="mbr",
        identity="01020304",
        first_usable=SECTOR,
        last_usable=disk.size - 1,
        layers={"p1": "uuid"},
        partitions=(part,),
        others=({"number": 1},),
    )
    out = io.BytesIO()
    pack_kit(facts, [(region, disk) for region in regions], out)
    raw = out.getvalue()
    head = KIT_HEAD.unpack(raw)
    text = parse_text(raw, head.facts_stored)
    return [b"\0" + raw, b"\1" + raw, b"\2" + text]


def kit_text() -> bytes:
    """Return the facts of a kit."""
    return kit_seeds()[2][1:]


def kit_facts(data: bytes) -> None:
    """Read a kit with right digests, the content of the seed, and any facts."""
    raw = kit_seeds()[0][1:]
    head = KIT_HEAD.unpack(raw)
    packed = compressor(1).compress(data)
    content = raw[KIT_HEAD.size + head.facts_stored : -32]
    size = KIT_HEAD.size + len(packed) + len(content) + 32
    new = KIT_HEAD.pack(head, size=size, facts_stored=len(packed), facts_size=len(data)) + packed + content
    kit(b"\0" + new + sha256(new).digest())


def parse_text(raw: bytes, stored: int) -> bytes:
    """Return the facts of a kit as text."""
    return ZstdDecompressor().decompress(raw[KIT_HEAD.size : KIT_HEAD.size + stored])


def kit(data: bytes) -> None:
    """Read a kit. First byte: 0 as it is, 1 with the digest mended, 2 only facts, packed into a kit."""
    mode, raw = data[:1], data[1:]
    if mode == b"\1" and len(raw) > 32:
        raw = raw[:8] + raw[8:16] + struct.pack("<Q", len(raw)) + raw[24:-32]
        raw += sha256(raw).digest()
    elif mode == b"\2":
        packed = compressor(1).compress(raw)
        head = struct.pack("<8sIIQIIQI20x", MAGIC, 1, 0, 96 + len(packed), len(packed), len(raw), 0, 0)
        raw = head + packed
        raw += sha256(raw).digest()
    with suppress(Error):
        found = parse_kit(raw, "kit")
        found.read(0, PAGE)
        found.check()


def journal_seeds() -> list[bytes]:
    """Return the head's counts and the body of a journal with two changes."""
    disk = Overlay(frozen(memory("journal", 4 * MIB, {4096: b"old" * 100})))
    found = Journal(disk)
    found.commit(
        [Write(disk, 4096, b"new" * 100, "one"), Write(disk, 8192, bytes(512), "two")],
        ExtentSet.single(0, 512),
    )
    head = JOURNAL_HEAD.unpack(disk.read(found.head_at, JOURNAL_HEAD.size))
    body = disk.read(found.head_at - head.body_size, head.body_size)
    return [struct.pack("<II", head.count, head.witnesses) + body]


def journal(data: bytes) -> None:
    """Read and replay a journal whose digests are right, whatever its body says."""
    counts, body = data[:8].ljust(8, b"\0"), data[8 : MIB // 2]
    disk = memory("journal", 4 * MIB, {4096: b"old" * 100})
    at = Journal(disk).head_at
    packed = struct.pack("<8sQQ", b"1BYJRNL1", disk.size, len(body)) + counts + sha256(body).digest()
    disk.put(at - len(body), body)
    disk.put(at, packed + sha256(packed).digest())
    found = Journal(Overlay(disk))
    with suppress(Error):
        redo = found.pending()
        if redo is not None:
            assert sum(len(change.new) for change in redo.changes) <= len(body)
            found.replay(redo)


def modules(*, plain: bool) -> bytes:
    """Return module headers as in a core: a module, a configuration, a prefix."""
    parts = b""
    for kind, body in ((0, b"\x7fELF"), (2, b"search.fs_uuid 1234-ABCD root\n\0"), (3, b"/boot/grub\0")):
        parts += struct.pack("<II", kind, 8 + len(body)) + body
    if plain:
        return struct.pack("<4sII", b"mimg", 12, 12 + len(parts)) + parts
    return struct.pack("<8sQQ", b"mimg", 24, 24 + len(parts)) + parts


def core_seeds() -> list[bytes]:
    """Return what is in a core for BIOS, a program for UEFI, and a boot disk with a core."""
    mods = modules(plain=False)
    pe = bytearray(b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<HH", 0x8664, 1))
    pe += (
        bytes(12)
        + struct.pack("<HH", 0, 0)
        + b"mods\0\0\0\0"
        + struct.pack("<IIII", 0, 0, len(mods), 128)
        + bytes(16)
    )
    pe = pe.ljust(128, b"\0") + mods
    return [
        b"\0" + modules(plain=True),
        b"\1" + bytes(pe),
        b"\2" + core_of(modules(plain=True))[:3000],
        b"\3" + boot_disk(),
    ]


def core_of(plain: bytes) -> bytes:
    """Make a core for BIOS of what is in it."""
    filters = [{"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 1 << 16}]
    packed = lzma.compress(plain, lzma.FORMAT_RAW, filters=filters)
    head = bytes(SECTOR - 12) + struct.pack("<QHH", 2, 8, 0x820)
    second = struct.pack("<8xII", len(packed), len(plain)).ljust(0x400 + 16, b"\x90")
    return (head + second + packed).ljust(10 * SECTOR, b"\0")


def boot_disk() -> bytes:
    """Make the first sectors of a disk that boots with GRUB."""
    code = bytearray(b"\xeb\x63\x90" + b"GRUB".rjust(0x180, b"\0")).ljust(SECTOR, b"\0")
    code[0x5C:0x64] = struct.pack("<Q", 1)
    code[510:] = b"\x55\xaa"
    return bytes(code) + core_of(modules(plain=True))[: 4 * SECTOR]


def core(data: bytes) -> None:
    """Look into a core. First byte: 0 its content, 1 a program for UEFI, 2 the packed core, 3 a disk."""
    mode, raw = data[:1], data[1:]
    if mode == b"\0":
        found = read_bios_core(core_of(raw[:65536]))
        assert found is None or isinstance(found.uuid, str)
    elif mode == b"\1":
        pe_machine(raw)
        read_efi_core(raw)
    elif mode == b"\2":
        read_bios_core(raw)
    else:
        disk = memory("boot", max(4 * MIB, len(raw)), {0: raw})
        with suppress(Error):
            found_core, why = bios_core(disk, disk.read(0, SECTOR))
            assert bool(found_core) != bool(why)
            read_bios_core(found_core)


def luks_text() -> bytes:
    """Return the JSON area of a LUKS2 header."""
    return Disk(seed("luks/open-luks2")).peek(0, 16384)[LUKS2.size :].split(b"\0")[0]


def luks_json(data: bytes) -> None:
    """Read a LUKS2 header whose digest is right, whatever its JSON says."""
    header = LUKS2.unpack(Disk(seed("luks/luks2")).peek(0, LUKS2.size))
    area = data[: header.hdr_size - LUKS2.size].ljust(header.hdr_size - LUKS2.size, b"\0")
    blank = LUKS2.pack(header, csum=bytes(64), checksum_alg=b"sha256".ljust(32, b"\0"))
    csum = sha256(blank + area).digest().ljust(64, b"\0")
    disk = memory("luks", 4 * MIB, {0: LUKS2.pack(LUKS2.unpack(blank), csum=csum) + area})
    with suppress(Error):
        found = luks.probe(disk)
        if isinstance(found, luks.Luks):
            json.dumps(found.facts())
            found.check()
            opened = found.opened(bytes(range(64)))
            for above in opened.above:
                above.read(max(0, above.size - 700), min(700, above.size))
            assert opened.used()[0].size + sum(above.size for above in opened.above) == disk.size
