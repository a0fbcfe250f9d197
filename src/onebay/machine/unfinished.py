"""An installation that is not finished: the folder beside the target that the same command goes on from.

    NAME.install/
      about.json    what it was begun with, and how far it is
      serial.log    what the guest said
      disk.img      the new data disk, until it is whole and gets its own name
      boot.img      the boot disk as the installer left it, of a run that ended in good order

What the installer writes to the boot disk is in memory while the machine runs. A run that was killed, or lost
its power, has lost it, and nobody can tell what of it the installed disk needs: nothing goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onebay.base.error import Damaged, Refused
from onebay.base.newfile import put_in_place, sync_folder
from onebay.block import Overlay, create_disk, open_disk

if TYPE_CHECKING:
    from onebay.block import FileVolume, Volume

Phase = Literal["installing", "installed"]
CHUNK, SECTOR = 1 << 20, 512
SAMPLES, SAMPLE = 256, 4096  # how many places of a disk are looked at to know it again, and bytes of each


@dataclass(frozen=True, slots=True)
class About:
    """The content of about.json. `boot_changed` is the file's time in nanoseconds, 0 for a device.

    `view` is the digest of boot.img, "" where the installer has changed nothing; `seal` that of samples of
    the target as the last run left it; `running` says that a machine has it now, or had it when it was cut.
    """

    boot: str
    boot_size: int
    boot_changed: int
    target: str
    size: int
    phase: Phase = "installing"
    uploaded: bool = False
    running: bool = False
    view: str = ""
    seal: str = ""

    @classmethod
    def of(cls, boot: Volume, target: Path, size: int) -> About:
        """Return what is to be known of a new installation."""
        return cls(boot.name, boot.size, changed(boot), str(target.absolute()), size)


class Unfinished:
    """The folder of an installation onto `target`."""

    def __init__(self, target: Path, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.path, self.serial = folder / "about.json", folder / "serial.log"
        self.disk, self.boot = folder / "disk.img", folder / "boot.img"
        self.about: About | None = None

    @property
    def installing(self) -> bool:
        """Whether the installer has something to do."""
        return self.about is None or self.about.phase == "installing"

    @property
    def uploaded(self) -> bool:
        """Whether the package is installed."""
        return self.about is not None and self.about.uploaded

    def note_upload(self) -> None:
        """Write down that the package is installed."""
        self.change(uploaded=True)

    def load(self) -> None:
        """Read what an earlier run left, if anything.

        Raises Refused where the folder is not ours or that run was killed, Damaged.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise Refused(
                "is no folder, and the installation needs one of that name", volume=str(self.folder)
            )
        if not self.path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise Refused("the folder holds something else", volume=str(self.folder))
            return
        try:
            self.about = About(**json.loads(self.path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise Damaged("not to be understood", volume=str(self.path), hint=self.hint()) from error
        if self.about.running:
            raise Refused(
                "a run that was killed, or goes on: what its installer wrote to the boot disk was in memory",
                volume=str(self.folder),
                hint=f"where none goes on, {self.hint()}",
            )
        if self.about.view and (not self.boot.exists() or digest(self.boot) != self.about.view):
            raise Damaged(
                "the boot disk as the installer left it is gone", volume=str(self.boot), hint=self.hint()
            )

    def hint(self) -> str:
        """Say how to begin anew."""
        return f"remove {self.folder} to begin anew"

    def begin(self, boot: Volume, size: int) -> None:
        """Make the folder, or go on in it; raises Refused where it is of another boot disk or target."""
        now = About.of(boot, self.target, size)
        if self.about is None:
            self.folder.mkdir(exist_ok=True)
            self.note(now)
            return
        for what in ("boot", "boot_size", "boot_changed", "target", "size"):
            if getattr(self.about, what) != getattr(now, what):
                raise Refused(
                    f"an installation with another {what.replace('_', ' ')} was begun here",
                    volume=str(self.folder),
                    expected=getattr(self.about, what),
                    found=getattr(now, what),
                    hint=self.hint(),
                )

    def note(self, about: About) -> None:
        """Write down how far it is, durably."""
        part = self.path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(asdict(about), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        sync_folder(self.folder)
        self.about = about

    def change(self, **fields: object) -> None:
        """Write down what has changed."""
        assert self.about is not None
        self.note(replace(self.about, **fields))  # type: ignore[arg-type]

    def knows(self, disk: Volume) -> bool:
        """Whether the disk is as the last run left it."""
        return self.about is not None and bool(self.about.seal) and self.about.seal == seal(disk)

    def open_disk(self, size: int, sector_size: int) -> FileVolume:
        """Open the new disk, or make it; raises Refused where there is no space."""
        if not self.disk.exists():
            return create_disk(self.disk, size, sector_size=sector_size)
        return open_disk(self.disk, writable=True, sector_size=sector_size, raw=True)

    def view(self, boot: Volume) -> Overlay:
        """Return the writable view of the boot disk as an earlier run left it; all changes are in memory.

        A machine sees whole sectors only.
        """
        base = boot
        if self.about is not None and self.about.view:
            base = open_disk(self.boot, raw=True, sector_size=boot.sector_size)
        return Overlay(base, size=-(-base.size // SECTOR) * SECTOR, name=boot.name)

    def save(self, view: Overlay, disk: Volume) -> None:
        """Keep what the view shows, and by what the disk is known again; no machine has them any more.

        Raises OSError, and Refused where there is no space.
        """
        assert self.about is not None
        kept = self.about.view
        if view.pages:
            part = self.boot.with_suffix(".part")
            part.unlink(missing_ok=True)
            with_changes = create_disk(part, view.size)
            try:
                for start, end in view.data(0, view.size):
                    for at in range(start, end, CHUNK):
                        with_changes.write(at, view.read(at, min(CHUNK, end - at)))
                with_changes.flush()
            finally:
                with_changes.close()
            kept = digest(part)
            part.replace(self.boot)
        self.change(view=kept, seal=seal(disk), running=False)

    def finish(self) -> None:
        """Give the new disk its name and remove what is ours; raises Refused where something has the name."""
        if self.disk.exists():
            put_in_place(self.disk, self.target, replace=False)
        for path in (self.disk, self.boot, self.serial, self.path, *self.folder.glob("alone-*.log")):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody put something else there
            self.folder.rmdir()

    def state(self) -> str:
        """Say what is kept, and how to go on."""
        if self.about is None:
            return "nothing was written"
        if self.about.running:
            return f"the disk is half-installed: {self.hint()}"
        again = ", or with --install-again back to the installer" if self.about.phase == "installed" else ""
        return f"what was installed is kept in {self.folder}; run the same command again to go on{again}"


def changed(boot: Volume) -> int:
    """Return when the file of a boot disk was last changed, in nanoseconds; 0 where it is no file."""
    path = Path(boot.name)
    return path.stat().st_mtime_ns if path.is_file() else 0


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(disk: Volume) -> str:
    """Return a digest of both ends of a disk and of samples between."""
    found = hashlib.sha256(str(disk.size).encode())
    for at in (0, max(0, disk.size - CHUNK)):
        found.update(disk.read(at, min(CHUNK, disk.size)))
    step = max(SAMPLE, disk.size // SAMPLES // SAMPLE * SAMPLE)
    for at in range(0, disk.size - SAMPLE, step):
        found.update(disk.read(at, SAMPLE))
    return found.hexdigest()
