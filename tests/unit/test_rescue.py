"""The rescue system's parts: the lock, the archive, what is left out, which modules come along, packing."""

from __future__ import annotations

import ast
import lzma
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from onebay.base.error import Corrupt, Damaged, Missing, Refused, Transient
from onebay.machine.debian import Sources
from onebay.rescue import modules, system
from onebay.rescue.archive import Archive, fetch, is_whole, of_release, parse_record
from onebay.rescue.build import Choice, build, read_lock
from onebay.rescue.files import Node, cpio_of, merged, regular, rules, symlink, tar_of, unpack
from onebay.rescue.lock import Lock, Package, format_lock, parse_lock

DIGEST = "ab" * 32
GOOD = f"release trixie\ndate 1795996800\nsystem libc6 2.41-12+deb13u5 amd64 2850108 {DIGEST}\n"


def test_the_lock_that_is_shipped() -> None:
    lock, name = read_lock(Choice())
    assert name == "packages.lock"
    assert lock.release == "trixie"
    assert format_lock(lock) == system.text_of("packages.lock")
    names = {package.name for package in lock.of("system")}
    wanted = "mdadm lvm2 btrfs-progs e2fsprogs xfsprogs dosfstools kexec-tools efibootmgr dropbear-bin"
    assert set(wanted.split()) <= names
    assert {"shim-signed", "grub-efi-amd64-signed", "xorriso"} <= {
        package.name for package in lock.of("build")
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not whole"),
        ("release trixie\ndate 1\n", "not whole"),
        (GOOD + "what is this\n", "line 4"),
        (GOOD + GOOD, "line 6"),  # the package twice
        (GOOD.replace("libc6", "../libc6"), "line 3"),
        (GOOD.replace("libc6", "--option"), "line 3"),
        (GOOD.replace("2.41-12+deb13u5", "2.41/.."), "line 3"),
        (GOOD.replace("amd64", "arm64"), "line 3"),
        (GOOD.replace("2850108", "9999999999"), "line 3"),
        (GOOD.replace(DIGEST, DIGEST[:-1]), "line 3"),
        (GOOD.replace("system ", "kernel "), "line 3"),
        (GOOD.replace("1795996800", "-1"), "line 2"),
    ],
)
def test_a_lock_that_breaks_the_rules(text: str, says: str) -> None:
    with pytest.raises(Damaged, match=says) as caught:
        parse_lock(text, "my.lock")
    assert caught.value.volume == "my.lock"


def test_the_lock_is_what_it_was() -> None:
    lock = parse_lock(f"# a comment\n\n{GOOD}", "x")
    assert lock.packages == (Package("system", "libc6", "2.41-12+deb13u5", "amd64", 2850108, DIGEST),)
    assert parse_lock(format_lock(lock), "x") == lock


def test_a_lock_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("absent", "binary"):
        with pytest.raises(Refused):
            read_lock(Choice(lock=tmp_path / name))


def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(Refused, match="exists already"):
        build(tmp_path / "out", Choice(), cache=tmp_path)
    assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_only_a_lock_is_replaced_by_a_lock(tmp_path: Path) -> None:
    photos = tmp_path / "photos.img"
    photos.write_bytes(b"the only copy")
    argv = [sys.executable, "-m", "onebay", "rescue", "lock", photos, "--cache", tmp_path / "cache"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "photos.img: line 1 of the lock" in done.stderr
    assert photos.read_bytes() == b"the only copy"


def test_the_host_mirror_with_another_release() -> None:
    old = Sources(
        "bookworm",
        one_line="deb http://mirror.example/bookworm-mirror bookworm-updates main\n",
        deb822="URIs: http://mirror.example/debian\nSuites: bookworm bookworm-security\n",
    )
    new = of_release(old, "trixie")
    assert new.codename == "trixie"
    assert new.one_line == "deb http://mirror.example/bookworm-mirror trixie-updates main\n"
    assert new.deb822 == "URIs: http://mirror.example/debian\nSuites: trixie trixie-security\n"


def test_no_sources(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no package sources"):
        Archive(tmp_path, Sources("trixie")).configure()


def test_a_record_of_the_index() -> None:
    record = parse_record("Package: x\nDescription: two\n lines\nSHA256: 00\n")
    assert record == {"Package": "x", "Description": "two", "SHA256": "00"}


def test_a_package_of_the_cache_is_held_to_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    package = Package(
        "system", "x", "1", "all", 3, "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    )
    assert not is_whole(path, package)
    path.write_bytes(b"foo")  # its sha256 is that of sha256sum
    assert is_whole(path, package)
    path.write_bytes(b"fox")
    assert not is_whole(path, package)


def test_the_first_rule_that_matches_counts() -> None:
    less = rules("# what goes\nkeep usr/share/x/*\ndrop usr/share/*\n")
    assert [less(path) for path in ("usr/share/x/y", "usr/share/y", "usr/bin/y")] == [True, False, True]
    only = rules("drop a/b*\nkeep a/*\n")
    assert [only(path) for path in ("a/x/y", "a/bc", "b")] == [True, False, False]


def test_what_the_shipped_rules_leave_out() -> None:
    kept = rules(system.text_of("pruned.txt"))
    stays = ("usr/sbin/mdadm", "usr/sbin/lvm", "usr/bin/python3.13", "usr/lib/python3.13/json/decoder.py")
    goes = (
        "usr/share/man/man8/lvm.8.gz",
        "usr/lib/udev/rules.d/64-md-raid-assembly.rules",
        "etc/init.d/mdadm",
    )
    assert all(kept(path) for path in stays)
    assert not any(kept(path) for path in goes), "nothing may assemble arrays by itself"
    assert merged("lib64/ld-linux-x86-64.so.2") == "usr/lib64/ld-linux-x86-64.so.2"
    assert merged("library/x") == "library/x"


def test_no_module_that_onebay_imports_is_left_out() -> None:
    kept = rules(system.text_of("pruned.txt"))
    names: set[str] = {"encodings/cp437", "encodings/idna"}
    for path in Path(system.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    names = {name.replace(".", "/") for name in names if not name.startswith("onebay")}
    lost = [
        name
        for name in names
        if not (kept(f"usr/lib/python3.13/{name}.py") and kept(f"usr/lib/python3.13/{name}/x"))
    ]
    assert not lost


def module(info: bytes) -> Node:
    return regular(lzma.compress(b"\x7fELF" + bytes(100) + b"\0" + info + b"\0"))


def test_modules_bring_what_they_need() -> None:
    files = {
        "fs/btrfs/btrfs.ko.xz": module(
            b"softdep=pre: crc32c post: xxhash\0depends=raid6_pq,xor-x\0license=GPL"
        ),
        "lib/raid6/raid6_pq.ko.xz": module(b"depends="),
        "crypto/xor-x.ko.xz": module(b"depends=deep"),
        "crypto/xxhash.ko.xz": module(b"depends="),
        "lib/deep.ko.xz": module(b"depends=xor-x"),  # a circle must not hang
        "sound/snd.ko.xz": module(b"depends=deep"),
    }
    chosen = modules.choose(files, rules("keep fs/btrfs/*\n"))
    assert list(chosen) == sorted(path for path in files if path != "sound/snd.ko.xz")


@pytest.mark.parametrize("data", [b"no xz", lzma.compress(b"x" * 1000)[:-8]])
def test_a_module_that_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged, match=r"a\.ko\.xz"):
        modules.choose({"a.ko.xz": regular(data)}, rules("keep *\n"))


def test_the_same_archive_whatever_the_order(tmp_path: Path) -> None:
    tree = {"b/c": regular(b"two", 0o755), "a": regular(b"one"), "l": symlink("b/c")}
    turned = dict(reversed(tree.items()))
    assert cpio_of(tree) == cpio_of(turned)
    assert tar_of(tree, 1795996800) == tar_of(turned, 1795996800)
    listed = subprocess.run(
        ["cpio", "-itv", "--quiet", "--numeric-uid-gid"], input=cpio_of(tree), capture_output=True, check=True
    ).stdout.decode()
    lines = [line.split() for line in listed.splitlines()]
    assert [line[8] for line in lines] == ["a", "b", "b/c", "l"]
    assert [line[0] for line in lines] == ["-rw-r--r--", "drwxr-xr-x", "-rwxr-xr-x", "lrwxrwxrwx"]
    with tarfile.open(fileobj=BytesIO(tar_of(tree, 1795996800))) as tar:
        assert {(member.uid, member.gid, member.mtime) for member in tar} == {(0, 0, 1795996800)}


def test_the_mark_is_the_last_file() -> None:
    early = {f"usr/lib/modules/6/kernel/{name}.ko.xz": module(b"depends=") for name in system.EARLY}
    tree = {
        system.BUSYBOX: regular(b"busybox"),
        "usr/lib/modules/6/kernel/fs/squashfs": Node(0o40755),
        **early,
    }
    squash = b"not really a squashfs"
    made = system.initramfs(tree, squash)
    listed = subprocess.run(["cpio", "-it", "--quiet"], input=made, capture_output=True, check=True).stdout
    names = listed.decode().split()
    assert names[-2:] == ["system.squashfs", "whole"]
    assert {"dev", "proc", "sys", "init", "bin/busybox", "modules/squashfs.ko"} <= set(names[:-2])
    # sha256sum's word for the squashfs is what init wants to read in the mark
    mark = subprocess.run(["sha256sum"], input=squash, capture_output=True, check=True).stdout.split()[0]
    assert made.count(mark) == 3
    assert b"MARK" not in made
    assert b"NEEDED" not in made


def test_programs_of_busybox_stand_behind_whole_ones() -> None:
    links = system.applets({"usr/sbin/losetup": regular(b"")}, "losetup\nls\ntelnetd\n")
    assert links["usr/bin/ls"].data == b"busybox"
    assert "usr/bin/losetup" not in links
    assert "usr/bin/telnetd" not in links


def test_onebay_itself_is_in_it() -> None:
    tree = system.own_files()
    root = Path(system.__file__).parents[1]
    assert tree[f"{system.PYTHON}/onebay/ops/run.py"].data == (root / "ops/run.py").read_bytes()
    assert not [path for path in tree if "__pycache__" in path]
    assert tree["etc/onebay/start"].mode & 0o111
    assert not tree["etc/inittab"].mode & 0o111


@pytest.mark.parametrize(
    "name", ["init.sh", "root/etc/onebay/start", "root/etc/onebay/console", "root/etc/profile"]
)
def test_scripts_are_shell(name: str) -> None:
    busybox = shutil.which("busybox")
    assert busybox, "apt-get install busybox-static"
    subprocess.run([busybox, "sh", "-n"], input=system.text_of(name).encode(), check=True)


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Archive, Lock]:
    """A folder as an archive, with one small package that dpkg-deb made, and its lock."""
    pool, control = tmp_path / "pool", tmp_path / "tree/DEBIAN/control"
    pool.mkdir()
    control.parent.mkdir(parents=True)
    fields = "Package: xx\nVersion: 1:2-3\nArchitecture: all\n"
    control.write_text(f"{fields}Maintainer: nobody <nobody@example.org>\nDescription: nothing\n")
    (tmp_path / "tree/hello").write_text("hello")
    deb = pool / "xx.deb"
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", tmp_path / "tree", deb], check=True)
    digest = subprocess.run(["sha256sum", deb], check=True, capture_output=True, text=True).stdout.split()[0]
    size = deb.stat().st_size
    index = f"{fields}Filename: ./xx.deb\nSize: {size}\nSHA256: {digest}\n"
    (pool / "Packages").write_text(index)
    sources = Sources("trixie", one_line=f"deb [trusted=yes] file:{pool} ./\n")
    lock = Lock("trixie", 1, (Package("system", "xx", "1:2-3", "all", size, digest),))
    return Archive(tmp_path / "apt", sources), lock


def test_packages_come_from_the_archive_once(archive: tuple[Archive, Lock], tmp_path: Path) -> None:
    source, lock = archive
    (package,) = lock.packages
    files = fetch(lock, "my.lock", source, tmp_path)
    assert is_whole(files[package], package)
    assert [path for path, _ in unpack(files[package], rules("keep *\ndrop x\n"))] == ["hello"]
    shutil.rmtree(tmp_path / "pool")  # what is there is not asked for again
    assert fetch(lock, "my.lock", source, tmp_path) == files
    files[package].write_bytes(b"damage")
    with pytest.raises(Transient):
        fetch(lock, "my.lock", source, tmp_path)


def test_the_archive_has_it_no_longer(archive: tuple[Archive, Lock], tmp_path: Path) -> None:
    source, lock = archive
    old = replace(lock.packages[0], version="1:2-2")
    with pytest.raises(Missing, match=r"no longer has xx 1:2-2") as caught:
        fetch(replace(lock, packages=(old,)), "my.lock", source, tmp_path)
    assert caught.value.volume == "my.lock"
    assert "onebay rescue lock" in str(caught.value.hint)


def test_the_archive_has_other_bytes(archive: tuple[Archive, Lock], tmp_path: Path) -> None:
    source, lock = archive
    other = replace(lock.packages[0], sha256=DIGEST)
    with pytest.raises(Corrupt, match="sha256 of xx 1:2-3") as caught:
        fetch(replace(lock, packages=(other,)), "my.lock", source, tmp_path)
    assert (caught.value.expected, caught.value.found) == (DIGEST, lock.packages[0].sha256)
