"""fold on files, without root: every strategy, every refusal, and power cuts between any two steps."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foldkit

from onebay.base.error import Inconsistent, Refused
from onebay.base.step import apply
from onebay.block import Overlay, open_disk
from onebay.boot import loader
from onebay.fs.fat import Fat
from onebay.ops.bootpaths import boot_paths
from onebay.ops.fold import FoldPlan, plan_fold
from onebay.ops.run import execute
from onebay.table import Table
from onebay.tree import discover

if TYPE_CHECKING:
    from onebay.tree import Tree

MIB = 1 << 20
TOOLS = ("sfdisk", "sgdisk", "mkfs.fat", "mcopy", "debugfs", "grub-mkimage")
MISSING = [tool for tool in TOOLS if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foldkit.boot_disk(tmp_path_factory.mktemp("boot"), foldkit.files())


def fold(boot: Path, disk: Path, scratch: Path, table: str | None = None, **options: bool) -> FoldPlan:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    target = open_disk(disk, writable=True)
    try:
        plan = plan_fold(open_disk(boot), target, scratch=scratch, table=table, **options)
        execute(plan)
    finally:
        target.close()
    return plan


def homes(tree: Tree) -> list[Fat]:
    return [fat for fat in tree.of_kind("fat") if isinstance(fat, Fat) and fat.find("/onebay/fold.json")]


@pytest.mark.parametrize(
    ("layout", "table", "strategy"),
    [
        ("v8-mbr", None, "merged"),
        ("v9-mbr", None, "merged"),
        ("v7-mbr", None, "merged"),
        ("v8-gpt", None, "copied"),
        ("v9-gpt", None, "copied"),
        ("v7-gpt", None, "copied"),
        ("v8-mbr", "gpt", "copied"),
        ("v7-mbr", "gpt", "copied"),
    ],
)
def test_folds(appliance: Path, tmp_path: Path, layout: str, table: str | None, strategy: str) -> None:
    disk = foldkit.data_disk(tmp_path, layout)
    before = foldkit.partition_digest(disk, layout)
    boot_before = hashlib.sha256(appliance.read_bytes()).hexdigest()
    plan = fold(appliance, disk, tmp_path / "scratch", table)
    assert plan.strategy == strategy
    assert not plan.warnings
    assert foldkit.partition_digest(disk, layout) == before
    assert hashlib.sha256(appliance.read_bytes()).hexdigest() == boot_before
    foldkit.run("sfdisk", "--verify", disk)
    if "gpt" in (table, foldkit.LAYOUTS[layout][0]):
        assert "No problems found" in foldkit.run("sgdisk", "-v", disk)
    tree = discover([open_disk(disk)])
    assert [(path.firmware, path.works) for path in boot_paths(tree)] == [("bios", True), ("uefi", True)]
    (home,) = homes(tree)
    table_now = tree.on(tree.disks[0])
    assert isinstance(table_now, Table)
    for number, (start, size, _) in enumerate(foldkit.LAYOUTS[layout][1], 1):
        part = table_now.partition(number)
        assert part is not None
        assert (part.start, part.size) == (start * 512, size * 512)
    assert home.read_file("/Read me.txt") == b"hello"
    config = home.read_file("/boot/grub/grub.cfg")
    assert config is not None
    assert b"hd0,msdos2" not in config
    assert b"11111111-2222" not in config
    if strategy == "merged":
        assert home.read_file("/zImage") == b"kernel"
    check_contents(disk, table_now)
    disk.unlink()


def check_contents(disk: Path, table: Table) -> None:
    """Have fsck.fat and e2fsck look at what was put into the gap."""
    for part in table.partitions:
        if part.number <= 3 or part.size == MIB or part.type == loader_type():
            continue
        copy = disk.with_suffix(".part")
        skip, count = part.start // MIB, -(-part.size // MIB)
        foldkit.run(
            "dd",
            f"if={disk}",
            f"of={copy}",
            "bs=1M",
            f"skip={skip}",
            f"count={count}",
            "conv=sparse",
            "status=none",
        )
        if part.type in ("0xef", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"):
            foldkit.run("fsck.fat", "-n", copy)
        else:
            foldkit.run("e2fsck", "-fn", copy)
            assert foldkit.run("debugfs", "-R", "cat /zImage", copy) == "kernel"
            assert "11111111-2222" not in foldkit.run("debugfs", "-R", "show_super_stats -h", copy)
        copy.unlink()


def loader_type() -> str:
    return "21686148-6449-6E6F-744E-656564454649"


def test_is_repeatable_and_knows_its_own_work(appliance: Path, tmp_path: Path) -> None:
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    twin = tmp_path / "twin.img"
    foldkit.run("cp", "--sparse=always", disk, twin)
    fold(appliance, disk, tmp_path / "scratch")
    fold(appliance, twin, tmp_path / "scratch")
    foldkit.run("cmp", disk, twin)
    again = fold(appliance, disk, tmp_path / "scratch")
    assert not again.steps
    assert again.notes == ["already folded, nothing to do"]
    other = foldkit.boot_disk(tmp_path, foldkit.files(kernel=b"another kernel"))
    with pytest.raises(Refused, match="of another boot disk"):
        fold(other, disk, tmp_path / "scratch")


@pytest.mark.parametrize(("layout", "table"), [("v8-mbr", None), ("v9-gpt", None), ("v8-mbr", "gpt")])
def test_every_prefix_is_a_data_disk(appliance: Path, tmp_path: Path, layout: str, table: str | None) -> None:
    base = open_disk(foldkit.data_disk(tmp_path, layout))
    (tmp_path / "scratch").mkdir()
    plan = plan_fold(open_disk(appliance), base, scratch=tmp_path / "scratch", table=table)
    disk = Overlay(base)
    plan.retarget(disk)
    for number, step in enumerate([*plan.steps, None]):
        tree = discover([disk])
        found = tree.on(disk)
        assert isinstance(found, Table), number
        assert not [finding for finding in found.check() if finding.severity == "damage"], number
        for index, (start, size, _) in enumerate(foldkit.LAYOUTS[layout][1], 1):
            part = found.partition(index)
            assert part is not None
            assert (part.start, part.size) == (start * 512, size * 512)
        if homes(tree):  # the table's entries come last but one: whatever they show is complete
            assert [path.works for path in boot_paths(tree)][1], number
        if step is not None:
            apply(step)
    assert [path.works for path in boot_paths(discover([disk]))] == [True, True]


def test_completes_what_was_interrupted_before_the_last_sector(appliance: Path, tmp_path: Path) -> None:
    path = foldkit.data_disk(tmp_path, "v8-mbr")
    fold(appliance, path, tmp_path / "scratch")
    disk = open_disk(path, writable=True)
    disk.write(0, bytes(440))
    disk.write(512, bytes(4096))
    disk.close()
    assert not boot_paths(discover([open_disk(path)]))[0].works
    plan = fold(appliance, path, tmp_path / "scratch")
    assert plan.notes == ["the partitions are there; the BIOS boot path is completed"]
    assert boot_paths(discover([open_disk(path)]))[0].works


def test_keeps_identities_when_asked(appliance: Path, tmp_path: Path) -> None:
    path = foldkit.data_disk(tmp_path, "v8-mbr")
    fold(appliance, path, tmp_path / "scratch", keep_ids=True)
    (home,) = homes(discover([open_disk(path)]))
    assert home.uuid == "1234-ABCD"
    assert home.label == "BOOT1"


def test_record_tells_what_was_written(appliance: Path, tmp_path: Path) -> None:
    path = foldkit.data_disk(tmp_path, "v8-mbr")
    fold(appliance, path, tmp_path / "scratch")
    disk = open_disk(path)
    (home,) = homes(discover([disk]))
    record = json.loads(home.read_file("/onebay/fold.json") or b"")
    core = record["core"]
    assert hashlib.sha256(disk.read(core["at"], core["size"])).hexdigest() == core["sha256"]
    assert hashlib.sha256(disk.read(0, 440)).hexdigest() == record["code_sha256"]
    for name, digest in record["files"].items():
        assert hashlib.sha256(home.read_file(name) or b"").hexdigest() == digest, name


def refused(boot: Path, disk: Path, tmp_path: Path, match: str, table: str | None = None) -> Refused:
    before = disk.stat().st_blocks
    with pytest.raises(Refused, match=match) as caught:
        fold(boot, disk, tmp_path / "scratch", table)
    assert caught.value.state == "nothing was written"
    assert disk.stat().st_blocks == before
    return caught.value


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    big = {"/zImage": bytes(range(256)) * 4096 * 180}  # 180 MiB
    boot = foldkit.boot_disk(tmp_path, foldkit.Files(foldkit.files().first, big), sizes=(48, 300))
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    error = refused(boot, disk, tmp_path, "does not fit")
    assert "p2" in str(error)
    assert "expected at most" in str(error)


def test_refuses_two_files_of_one_name(tmp_path: Path) -> None:
    files = foldkit.files()
    files.second["/read ME.txt"] = b"something else"
    boot = foldkit.boot_disk(tmp_path, files)
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    error = refused(boot, disk, tmp_path, "same name: p1:/Read me.txt and p2:/read ME.txt")
    assert error.hint is not None
    assert "--table gpt" in error.hint
    files.second["/read ME.txt"] = b"hello"  # identical ones meet
    (tmp_path / "boot.img").unlink()
    fold(foldkit.boot_disk(tmp_path, files), disk, tmp_path / "scratch")


def test_refuses_a_root_file_system_on_fat(tmp_path: Path) -> None:
    config = foldkit.GRUB_CFG.replace("console=ttyS0", "root=UUID=@UUID2@ console=ttyS0")
    boot = foldkit.boot_disk(tmp_path, foldkit.files(config=config))
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    refused(boot, disk, tmp_path, "root file system")
    plan = fold(boot, disk, tmp_path / "scratch", "gpt")
    assert plan.strategy == "copied"


def test_refuses_a_boot_disk_without_grub(tmp_path: Path) -> None:
    files = foldkit.Files({"/syslinux/syslinux.cfg": b"default x"}, {"/x": b"y"})
    boot = foldkit.boot_disk(tmp_path, files)
    error = refused(boot, foldkit.data_disk(tmp_path, "v8-mbr"), tmp_path, "no grub.cfg")
    assert "syslinux (p1:/syslinux/syslinux.cfg)" in str(error)


def test_refuses_a_menu_that_grub_would_not_read(tmp_path: Path) -> None:
    boot = foldkit.boot_disk(tmp_path, foldkit.files(config="if true; then\n"))
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    with pytest.raises(Inconsistent, match=r"p1:/boot/grub/grub\.cfg:2:1"):
        fold(boot, disk, tmp_path / "scratch")


def test_refuses_full_and_missing_tables(appliance: Path, tmp_path: Path) -> None:
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    foldkit.run("sfdisk", "-q", "--append", "--force", disk, stdin="start=25000000, size=2048, type=83\n")
    error = refused(appliance, disk, tmp_path, "all four slots")
    assert error.hint == "use --table gpt to convert it"
    empty = tmp_path / "empty.img"
    with empty.open("xb") as file:
        file.truncate(1 << 30)
    refused(appliance, empty, tmp_path, "no partition table")


def test_copies_a_fat_without_room_into_a_larger_one(tmp_path: Path) -> None:
    files = foldkit.files()
    files.first["/filler"] = bytes(range(256)) * 4096 * 34
    boot = foldkit.boot_disk(tmp_path, files, sizes=(36, 40))
    disk = foldkit.data_disk(tmp_path, "v9-gpt")
    plan = fold(boot, disk, tmp_path / "scratch")
    assert plan.strategy == "copied"
    assert any("becomes a new FAT" in line for line in plan.why)
    (home,) = homes(discover([open_disk(disk)]))
    assert home.read_file("/filler", limit=64 << 20) == files.first["/filler"]


def test_grub_modules_of_the_boot_disk_are_never_loaded(tmp_path: Path) -> None:
    config = "set prefix=($root)/boot/grub\ninsmod $prefix/i386-pc/fat.mod\n" + foldkit.GRUB_CFG
    files = foldkit.files(config=config)
    files.first["/boot/grub/i386-pc/fat.mod"] = b"of another build"
    boot = foldkit.boot_disk(tmp_path, files)
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    fold(boot, disk, tmp_path / "scratch")
    (home,) = homes(discover([open_disk(disk)]))
    text = home.read_file("/boot/grub/grub.cfg") or b""
    assert text.startswith(b"set onebay_prefix=($root)/boot/grub\ninsmod fat\n")
    theirs = (loader.GRUB / loader.BIOS / "fat.mod").read_bytes()
    assert home.read_file("/onebay/grub/i386-pc/fat.mod") == theirs


def test_a_conversion_keeps_every_name(tmp_path: Path) -> None:
    """A menu that names a partition of the data disk by the MBR's signature would not find it any more."""
    disk = foldkit.data_disk(tmp_path, "v8-mbr")
    identity = foldkit.run("sfdisk", "--disk-id", disk).strip().removeprefix("0x")
    config = foldkit.GRUB_CFG.replace("console=", f"root=PARTUUID={identity}-01 console=")
    boot = foldkit.boot_disk(tmp_path, foldkit.files(config=config))
    refused(boot, disk, tmp_path, "refers to a partition as PARTUUID", "gpt")
    assert fold(boot, disk, tmp_path / "scratch", "gpt", unchecked=True).steps
