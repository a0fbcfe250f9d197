"""The list of targets: what each starts from and what it asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz import ask, images, mend, packages, texts, trees
from fuzz.disk import Disk, dump, load, parse
from fuzz.recipe import Window, cook
from fuzz.seeds import DISKS, FOLDED, GROUPS, cases, seed
from onebay import table
from onebay.fs import btrfs, ext, fat, names, swap, xfs
from onebay.stack import luks, lvm, md

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.disk import Seed
    from fuzz.mend import Mender


# Words that libFuzzer may put into a text.
JSON_WORDS = (
    "[]",
    "{}",
    "[0]",
    "[5]",
    "null",
    "true",
    "1e999",
    "NaN",
    "-1",
    '""',
    "[[",
    "\\ud800",
    "99999999999999999999",
)
LVM_WORDS = (
    "{",
    "}",
    "[",
    "]",
    "=",
    '"',
    "#",
    "-1",
    "18446744073709551616",
    "id",
    "seqno",
    "segment1",
    "stripes",
)
GRUB_WORDS = (
    *(
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "for",
        "in",
        "do",
        "done",
        "while",
        "until",
        "function",
        "menuentry",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        ";",
        "'",
        '"',
        "$",
        "${",
        "(hd0,msdos1)",
        "hd0,1",
        "search",
        "--fs-uuid",
        "--set=root",
        "-sful",
    ),
    *(
        "linux",
        "root=UUID=",
        "PARTUUID=",
        "LABEL=",
        "insmod",
        "load_env",
        "source",
        "set",
        "root=",
        "$prefix/",
        "\\",
    ),
)
PACKAGE_WORDS = (
    *("ustar", "path=", "size=", "GNU.sparse.map=", "./VERSION", "checksum.syno", "SHA256SUMS", "\\n"),
    *("majorversion=", "#Synocksum ", "(hd0,1)/", " Encrypted: ", "SHA256 (zImage) = ", "4294967296"),
)


FOUND = Path(__file__).parents[1] / "tests" / "fuzz"


class Starts:
    """What both kinds of targets begin with."""

    name: str
    own_starts: Callable[[], list[bytes]]

    def kept_starts(self) -> list[bytes]:
        """Return inputs that reached something once (fuzz.distill)."""
        path = FOUND / self.name / "reached.txt"
        return [bytes.fromhex(line) for line in path.read_text("ascii").split()] if path.exists() else []

    def starts(self) -> list[bytes]:
        """Return inputs to begin with."""
        return [*self.own_starts(), *self.kept_starts()]


@dataclass
class DiskTarget(Starts):
    """A parser of volumes; input is a recipe (fuzz.recipe), findings are kept as changes of a seed."""

    name: str
    seed_names: list[str]
    run: Callable[[Disk], None]
    mender: Mender | None = None
    picked: dict[int, tuple[Seed, Window]] = field(default_factory=dict, init=False)
    suffix: str = field(default=".case", init=False)

    def pick(self, number: int) -> tuple[Seed, Window]:
        """Return a seed and what the parser reads of it."""
        number %= len(self.seed_names)
        if number not in self.picked:
            one = seed(self.seed_names[number])
            self.picked[number] = one, self.window(one)
        return self.picked[number]

    def window(self, one: Seed) -> Window:
        """Run the parser over an unchanged seed and note what it reads; it must not fail."""
        disk = Disk(one)
        disk.reads = []
        self.run(disk)
        return Window(disk.reads)

    def own_starts(self) -> list[bytes]:
        """Return every seed unchanged."""
        return [bytes([number, 0]) for number in range(len(self.seed_names))]

    def prepare(self, data: bytes) -> Disk:
        """Make the disk of an input."""
        disk, window, mended = cook(data, self.pick)
        if mended and self.mender is not None:
            self.mender(disk, window.reads)
        return disk

    def warm_up(self) -> None:
        """Do once what takes long."""
        for number in range(len(self.seed_names)):
            self.pick(number)

    def try_input(self, data: bytes) -> None:
        """Run one input."""
        self.run(self.prepare(data))

    def keep(self, data: bytes) -> bytes:
        """Return what is kept of an input: independent of the parser that it was found with."""
        return dump(self.prepare(data)).encode()

    def replay(self, kept: bytes) -> None:
        """Run what `keep` returned."""
        text = kept.decode()
        self.run(load(text, seed(parse(text)[0])))


@dataclass
class ByteTarget(Starts):
    """A parser of bytes. `resolve` makes of an input what `replay` runs, whatever becomes of the fuzzer."""

    name: str
    own_starts: Callable[[], list[bytes]]
    try_input: Callable[[bytes], None]
    words: tuple[str, ...] = ()
    resolve: Callable[[bytes], bytes] = bytes
    rerun: Callable[[bytes], None] | None = None
    suffix: str = field(default=".bin", init=False)

    def warm_up(self) -> None:
        """Do once what takes long."""
        self.try_input(self.own_starts()[0])

    def keep(self, data: bytes) -> bytes:
        """Return what is kept of an input."""
        return self.resolve(data)

    def replay(self, kept: bytes) -> None:
        """Run what `keep` returned."""
        (self.rerun or self.try_input)(kept)


Target = DiskTarget | ByteTarget


def tree(name: str, seed_text: Callable[[], bytes], read: Callable[[bytes], None]) -> ByteTarget:
    """Return the target of something that reads JSON."""
    return ByteTarget(
        name,
        trees.starts(seed_text),
        trees.reader(read, seed_text),
        words=JSON_WORDS,
        resolve=lambda data: trees.text(data, seed_text),
        rerun=read,
    )


def everything() -> dict[str, Target]:
    """Return all targets by name, in the order in which they are run."""
    tables = ask.one(table.probe)
    found: list[Target] = [
        DiskTarget("mbr", cases("mbr"), tables),
        DiskTarget("gpt", cases("gpt"), tables, mend.gpt),
        DiskTarget(
            "md", [*cases("md"), "group/md-pair", "group/md-stale"], ask.one(md.probe, md.assemble), mend.md
        ),
        DiskTarget("lvm", [*cases("lvm"), "group/lvm-kinds"], ask.one(lvm.probe, lvm.assemble), mend.lvm),
        DiskTarget("luks", cases("luks"), ask.one(luks.probe), mend.luks),
        DiskTarget("ext", [*cases("ext"), "ext/journal/device"], ask.one(ext.probe), mend.ext),
        DiskTarget(
            "btrfs",
            [*cases("btrfs"), "group/btrfs-mirror", "group/btrfs-spread"],
            ask.one(btrfs.probe, btrfs.assemble),
            mend.btrfs,
        ),
        DiskTarget("xfs", cases("xfs"), ask.one(xfs.probe), mend.xfs),
        DiskTarget("fat", cases("fat"), ask.one(fat.probe)),
        DiskTarget("swap", cases("swap"), ask.one(swap.probe)),
        DiskTarget("names", cases("names"), ask.one(names.probe)),
        DiskTarget("discover", [*DISKS, *cases("mbr", "gpt", "md", "lvm")], ask.whole, mend.everything),
        DiskTarget("repair", [*FOLDED], ask.repair, mend.gpt),
        ByteTarget("lvmtext", texts.lvm_texts, texts.lvm, LVM_WORDS),
        ByteTarget("grubcfg", texts.grub_seeds, texts.grub, GRUB_WORDS),
        ByteTarget("core", texts.core_seeds, texts.core),
        ByteTarget("image", images.seeds, images.look),
        ByteTarget("imageparts", images.part_seeds, images.parts, (), images.build, images.look),
        ByteTarget("kit", texts.kit_seeds, texts.kit),
        ByteTarget("journal", texts.journal_seeds, texts.journal),
        ByteTarget("payload", packages.seeds, packages.package, PACKAGE_WORDS),
        tree("luksjson", texts.luks_text, texts.luks_json),
        tree("facts", images.fact_text, images.facts),
        tree("kitfacts", texts.kit_text, texts.kit_facts),
        tree("foldrecord", texts.record_text, texts.record),
    ]
    assert {part for group in GROUPS.values() for part in group} <= {*cases("md", "lvm", "btrfs")}
    return {target.name: target for target in found}
