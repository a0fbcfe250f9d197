"""Choose kernel modules: those that modules.txt names, and what they need.

What a module needs stands in its own section .modinfo (include/linux/module.h of the kernel), as NUL-ended
`name=value`: `depends` lists modules by name, `softdep` names such that are tried before or after.
"""

from __future__ import annotations

import lzma
import re
from pathlib import PurePath
from typing import TYPE_CHECKING

from onebay.base.error import Damaged
from onebay.rescue.files import Tree, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onebay.rescue.files import Node

MAX_MODULE = 64 << 20  # bytes, unpacked; the largest of Debian has 8 MiB


def name_of(path: str) -> str:
    """Return the name of the module of a file, as other modules know it."""
    return PurePath(path).name.partition(".ko")[0].replace("-", "_")


def plain(data: bytes, path: str) -> bytes:
    """Return a module unpacked; raises Damaged."""
    if not path.endswith(".xz"):
        return data
    decoder = lzma.LZMADecompressor()
    try:
        raw = decoder.decompress(data, MAX_MODULE)
    except lzma.LZMAError as error:
        raise Damaged(f"the module cannot be unpacked: {error}", volume=path) from error
    if not decoder.eof:
        raise Damaged("the module is not whole, or too large", volume=path)
    return raw


def needs(raw: bytes) -> set[str]:
    """Return the names of the modules that an unpacked module needs or asks for."""
    names: set[str] = set()
    for found in re.finditer(rb"(?:^|\0)(depends|softdep)=([^\0]*)", raw):
        words = re.split(r"[,\s]+", found[2].decode("ascii", "replace"))
        names |= {word.replace("-", "_") for word in words if word and not word.endswith(":")}
    return names


def choose(modules: Mapping[str, Node], kept: Callable[[str], bool]) -> Tree:
    """Return the modules (path below kernel/ -> file) that `kept` wants, and all that those need.

    What is asked for and not there is built into the kernel.
    """
    by_name = {name_of(path): path for path in modules}
    chosen: Tree = {}
    waiting = sorted(path for path in modules if kept(path))
    while waiting:
        path = waiting.pop()
        if path in chosen:
            continue
        chosen[path] = modules[path]
        wanted = needs(plain(modules[path].data, path))
        waiting += sorted(by_name[name] for name in wanted if name in by_name)
    return dict(sorted(chosen.items()))


def in_tree(tree: Mapping[str, Node], version: str, text: str) -> Tree:
    """Return the modules of a kernel's tree that the rules in `text` want, under their paths in the tree."""
    root = f"usr/lib/modules/{version}/kernel/"
    modules = {path.removeprefix(root): node for path, node in tree.items() if path.startswith(root)}
    files = {path: node for path, node in modules.items() if ".ko" in PurePath(path).name}
    return {root + path: node for path, node in choose(files, rules(text)).items()}
