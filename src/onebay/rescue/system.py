"""Put the system together: files of packages, our own, onebay itself; then the initramfs that carries it.

The initramfs holds busybox, three modules, the system as a squashfs, and as the last file a mark: the kernel
goes on with a cut-off initramfs where memory is short, and init refuses to without the mark. A squashfs takes
half the memory of the same files unpacked, and so it is possible to say what is wrong where memory is short.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from onebay import __version__
from onebay.base import tool
from onebay.base.error import Inconsistent
from onebay.rescue import modules
from onebay.rescue.files import (
    Tree,
    cpio_of,
    folder,
    read_in,
    regular,
    rules,
    symlink,
    tar_of,
    unpack,
    with_folders,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.resources.abc import Traversable

    from onebay.rescue.toolbox import Toolbox

NEEDED_MB = 256  # of a machine; measured: docs/rescue.md
LITTLE_MB = 190  # what Linux can use of that, and firmware may take some more
EARLY = ("loop", "squashfs", "overlay")
BUSYBOX = "usr/bin/busybox"
# programs of busybox that would stand in for something we do not have, or that listen to the network
NO_APPLETS = (
    "dpkg dpkg-deb rpm rpm2cpio httpd telnetd telnet tftp ftpget ftpput svc svok crond crontab ifup ifdown "
    "mkdosfs mke2fs "
)
PYTHON = "usr/lib/python3/dist-packages"
FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "media", "var/log", "var/tmp", "etc/mdadm")


@dataclass(frozen=True, slots=True)
class Parts:
    """What packages give: a kernel, its version, and the files of the system without it."""

    kernel: bytes
    version: str
    tree: Tree


def text_of(name: str) -> str:
    """Return a text that lies beside this module."""
    return resources.files("onebay.rescue").joinpath(name).read_text("utf-8")


def walk(place: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file below a folder of our own, sorted."""
    for child in sorted(place.iterdir(), key=lambda child: child.name):
        if child.is_dir():
            if child.name != "__pycache__":
                yield from walk(child, f"{prefix}{child.name}/")
        elif not child.name.endswith(".pyc"):
            yield prefix + child.name, child.read_bytes()


def from_packages(debs: Sequence[Path]) -> Parts:
    """Unpack the packages of the system; raises ToolFailed, Damaged, Inconsistent without a kernel."""
    kept = rules(text_of("pruned.txt"))
    tree: Tree = {}
    for deb in debs:
        tree.update(unpack(deb, kept))
    kernels = [path for path in tree if path.startswith("boot/vmlinuz-")]
    if len(kernels) != 1:
        raise Inconsistent("kernels in the packages of the lock", expected=1, found=len(kernels))
    version = kernels[0].removeprefix("boot/vmlinuz-")
    kernel = tree.pop(kernels[0]).data
    wanted = modules.in_tree(tree, version, text_of("modules.txt"))
    root = f"usr/lib/modules/{version}/kernel/"
    tree = {path: node for path, node in tree.items() if not path.startswith(root)} | wanted
    return Parts(kernel, version, tree)


def own_files() -> Tree:
    """Return what is ours: settings and scripts of the system, and onebay as an installed package."""
    tree: Tree = {}
    for path, data in walk(resources.files("onebay.rescue").joinpath("root")):
        tree[path] = regular(data, 0o755 if data.startswith(b"#!") else 0o644)
    for path, data in walk(resources.files("onebay")):
        tree[f"{PYTHON}/onebay/{path}"] = regular(data)
    metadata = f"Metadata-Version: 2.1\nName: onebay\nVersion: {__version__}\n"
    tree[f"{PYTHON}/onebay-{__version__}.dist-info/METADATA"] = regular(metadata.encode())
    return tree


def applets(tree: Tree, listed: str) -> Tree:
    """Return the links to busybox for the programs that it lists and that no package brings."""
    there = {path.rpartition("/")[2] for path in tree if path.startswith(("usr/bin/", "usr/sbin/"))}
    names = sorted(set(listed.split()) - there - set(NO_APPLETS.split()))
    links = {f"usr/bin/{name}": symlink("busybox") for name in names}
    return links | {f"usr/sbin/{name}": symlink("../bin/busybox") for name in ("init", "reboot", "poweroff")}


def certificates(tree: Tree) -> Tree:
    """Return the certificates of ca-certificates as the one file that OpenSSL looks for."""
    source = "usr/share/ca-certificates/"
    parts = [
        node.data for path, node in sorted(tree.items()) if path.startswith(source) and path[-4:] == ".crt"
    ]
    for path in [path for path in tree if path.startswith(source.rstrip("/"))]:
        del tree[path]
    bundle = "etc/ssl/certs/ca-certificates.crt"
    return {bundle: regular(b"".join(parts)), "usr/lib/ssl/cert.pem": symlink(f"/{bundle}")}


def compiled(tree: Tree, box: Toolbox) -> Tree:
    """Return Python's library and ours compiled, without the sources of Python's, which take room.

    A file's name in tracebacks is that in the system.
    """
    places = sorted({"/".join(path.split("/")[:3]) for path in tree if path.startswith("usr/lib/python3")})
    stage = box.folder / "compile"
    sources = {
        path: node
        for path, node in tree.items()
        if path.endswith(".py") and path.startswith("usr/lib/") and stat.S_ISREG(node.mode)
    }
    for path, node in sources.items():
        place = stage / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(node.data)
    argv: list[str | Path] = ["-S", "-m", "compileall", "-q", "-b", "-s", stage, "-p", "/"]
    argv += ["--invalidation-mode", "unchecked-hash"]
    box.run("python3", *argv, *(stage / place for place in places))
    made = read_in(stage, sorted(stage.rglob("*.pyc")))
    ours = {path: node for path, node in sources.items() if path.startswith(f"{PYTHON}/onebay")}
    rest = {path: node for path, node in tree.items() if path not in sources}
    return rest | made | ours


def with_index(tree: Tree, version: str, box: Toolbox) -> Tree:
    """Return the tree with what depmod says of its modules."""
    root = f"usr/lib/modules/{version}"
    stage = box.folder / "depmod"
    for path, node in tree.items():
        if path.startswith(f"{root}/") and stat.S_ISREG(node.mode):
            place = stage / path.removeprefix("usr/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(node.data)
    box.run("depmod", "-b", stage, version)
    made = read_in(stage, sorted((stage / "lib/modules" / version).glob("modules.*")))
    # the text forms are read by nobody but us: modprobe takes the binary ones
    texts = {"modules.alias", "modules.dep", "modules.symbols", "modules.order", "modules.builtin.modinfo"}
    kept = {f"usr/{path}": node for path, node in made.items() if PurePath(path).name not in texts}
    return {path: node for path, node in tree.items() if not path.startswith(f"{root}/modules.")} | kept


def system(parts: Parts, box: Toolbox) -> Tree:
    """Return the whole system."""
    tree = dict(parts.tree)
    tree |= certificates(tree)
    tree |= own_files()
    for path in FOLDERS:
        tree.setdefault(path, folder(0o1777 if path.endswith("tmp") else 0o755))
    for name in ("bin", "sbin", "lib", "lib64"):
        tree[name] = symlink(f"usr/{name}")
    tree |= applets(tree, tool.run([box.folder / BUSYBOX, "--list"]).text)
    tree = with_index(compiled(tree, box), parts.version, box)
    return with_folders(tree)


def squashed(tree: Tree, box: Toolbox, target: Path) -> None:
    """Pack the tree into the new squashfs `target`."""
    argv = ["-tar", "-comp", "xz", "-b", "256K", "-Xbcj", "x86", "-no-xattrs", "-no-progress", "-quiet"]
    argv += ["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"]
    box.run("mksquashfs", "-", target, *argv, stdin=tar_of(tree, box.date))


def initramfs(tree: Tree, squash: bytes) -> bytes:
    """Return the initramfs: init and what it needs, then the squashfs, and the mark as the last file.

    The files are in the order of their names, and so are the names chosen: what tells that memory was too
    little comes before what there may be no room for.
    """
    mark = hashlib.sha256(squash).hexdigest()
    init = text_of("init.sh").replace("MARK", mark)
    init = init.replace("NEEDED", str(NEEDED_MB)).replace("LITTLE", str(LITTLE_MB))
    early = {
        "bin/busybox": regular(tree[BUSYBOX].data, 0o755),
        "init": regular(init.encode(), 0o755),
        "system.squashfs": regular(squash),
        "whole": regular(f"{mark}\n".encode()),
    }
    for path in ("dev", "proc", "sys"):
        early[path] = folder()
    files = {modules.name_of(path): path for path in tree if ".ko" in PurePath(path).name}
    for name in EARLY:
        path = files[name]
        early[f"modules/{name}.ko"] = regular(modules.plain(tree[path].data, path))
    return cpio_of(early)
