"""Things that are dear to build and never change: one folder for each, built once, named by what made it.

A folder appears under its final name only when it is whole. Several processes may ask at the same time;
one builds, the others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def recipe_key(recipe: Mapping[str, str]) -> str:
    """Return 16 hex digits that change whenever any part of `recipe` does."""
    digest = hashlib.sha256()
    for name, text in sorted(recipe.items()):
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, waiting for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def built(cache: Path, name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `name-key` of the cache; `build` fills an empty one where it is not there yet."""
    final = cache / f"{name}-{key}"
    if final.is_dir():
        return final
    with lock(cache / f"{name}-{key}.lock"):
        if final.is_dir():
            return final
        part = Path(tempfile.mkdtemp(prefix=f"{name}-{key}.part-", dir=cache))
        try:
            build(part)
            part.chmod(0o755)
            part.rename(final)
        finally:
            shutil.rmtree(
                part, ignore_errors=True
            )  # of a build that failed; nothing is there after the rename
    return final
