"""The sample appliance's package: what its installer wants, as the appliance's maker would publish it.

A plain tar like those of Synology DSM 6: VERSION, the kernel, the ramdisk, the system as hda1.tgz, checksums.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
import time
from typing import TYPE_CHECKING

from onebay.base.event import Began, Ended, silent
from onebay.machine.cache import built, recipe_key
from onebay.sample.build import system

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report

MODEL = "onebay_sample_nas"
VERSION = f'''majorversion="1"
minorversion="0"
productversion="1.0"
buildnumber="1"
smallfixnumber="0"
unique="{MODEL}"
'''
NAME = "nas.pat"
FORMAT = "1"  # counts what the code below makes of the same system
CHUNK = 1 << 20


def payload(cache: Path, *, report: Report = silent) -> Path:
    """Return the package, built into `cache` where it is not there yet (a minute, after the system)."""
    made = system(cache, report=report)
    recipe = {"system": made.root.parent.name, "version": VERSION, "format": FORMAT}

    def build(folder: Path) -> None:
        report(Began("payload", "the sample appliance's package"))
        began = time.monotonic()
        packed = folder / "hda1.tgz"
        with (
            made.root.open("rb") as source,
            packed.open("wb") as file,
            gzip.GzipFile("", "wb", 1, file, mtime=0) as target,
        ):
            shutil.copyfileobj(source, target, CHUNK)
        files = {"zImage": made.kernel, "rd.gz": made.initrd, "hda1.tgz": packed}
        write(folder / NAME, files)
        packed.unlink()
        (folder / NAME).chmod(0o444)
        report(Ended("payload", time.monotonic() - began))

    return built(cache, "payload", recipe_key(recipe), build) / NAME


def write(target: Path, files: dict[str, Path]) -> None:
    """Write the package of `files`, with VERSION and the digests of all."""
    sums = {"VERSION": hashlib.sha256(VERSION.encode()).hexdigest()}
    for name, path in files.items():
        with path.open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        text(archive, "VERSION", VERSION)
        text(archive, "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sums.items()))
        for name, path in files.items():
            archive.add(path, name, filter=plain)


def text(archive: tarfile.TarFile, name: str, content: str) -> None:
    """Add a small file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content.encode("ascii")))


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made the file and when."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime, member.mode = 0, 0o644
    return member
