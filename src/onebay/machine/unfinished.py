"""An installation that is not finished: the folder beside the target that the same command goes on from.

NAME.install/
  about.json    which boot disk it began with, and how far it is
  serial.log    what the guest said
  disk.img      the new data disk, until it is whole and gets its own name
  boot.img      the boot disk as the installer left it, of a run that was cut
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Literal

from onebay.base.error import Damaged, Refused
from onebay.base.newfile import put_in_place
from onebay.block import Overlay, create_disk, open_disk

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.block import FileVolume, Volume

Phase = Literal["installing", "installed"]
CHUNK, SECTOR = 1 << 20, 512


class Unfinished:
    """The folder of an installation onto `target`; `phase` says how far it is."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.parent / f"{target.name}.install"
        self.about, self.serial = self.folder / "about.json", self.folder / "serial.log"
        self.disk, self.boot = self.folder / "disk.img", self.folder / "boot.img"
        self.phase: Phase = "installing"

    @property
    def begun(self) -> bool:
        """Whether an earlier run left something to go on from."""
        return self.about.exists()

    def begin(self, boot: Volume) -> None:
        """Make the folder, or go on in it; raises Refused where it is of another boot disk, Damaged."""
        if not self.begun:
            self.folder.mkdir(exist_ok=True)
            self.note(boot, "installing")
            return
        try:
            known = json.loads(self.about.read_text("utf-8"))
            before = (known["boot"], known["size"])
            self.phase = "installed" if known["phase"] == "installed" else "installing"
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged("not to be understood", volume=str(self.about), hint=self.hint()) from error
        if before != (boot.name, boot.size):
            raise Refused(
                "an installation from another boot disk was begun here",
                volume=str(self.folder),
                expected=f"{before[0]} of {before[1]} bytes",
                found=f"{boot.name} of {boot.size}",
                hint=self.hint(),
            )

    def hint(self) -> str:
        """Say how to begin anew."""
        return f"remove {self.folder} to begin anew"

    def note(self, boot: Volume, phase: Phase) -> None:
        """Write down how far it is."""
        self.phase = phase
        text = json.dumps({"boot": boot.name, "size": boot.size, "phase": phase})
        part = self.about.with_suffix(".part")
        part.write_text(text + "\n", "utf-8")
        part.replace(self.about)

    def open_disk(self, size: int, sector_size: int) -> FileVolume:
        """Open the new disk, or make it; raises Refused where it has another size, or there is no space."""
        if not self.disk.exists():
            return create_disk(self.disk, size, sector_size=sector_size)
        found = open_disk(self.disk, writable=True, sector_size=sector_size, raw=True)
        if found.size != size:
            found.close()
            raise Refused(
                "the disk was begun with another size",
                volume=str(self.disk),
                expected=size,
                found=found.size,
                hint=self.hint(),
            )
        return found

    def view(self, boot: Volume) -> Overlay:
        """Return the writable view of the boot disk as an earlier run left it; all changes are in memory.

        A machine sees whole sectors only.
        """
        base = open_disk(self.boot, raw=True) if self.boot.exists() else boot
        return Overlay(base, size=-(-base.size // SECTOR) * SECTOR, name=boot.name)

    def save(self, view: Overlay) -> None:
        """Keep what the view shows, for the run that goes on; raises OSError and Refused without space."""
        if not view.pages:
            return
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
        part.replace(self.boot)

    def finish(self) -> None:
        """Give the new disk its name, and remove the folder; raises Refused where something has the name."""
        if self.disk.exists():
            put_in_place(self.disk, self.target, replace=False)
        shutil.rmtree(self.folder)

    def state(self) -> str:
        """Say what is kept, and how to go on."""
        return f"what was installed is kept in {self.folder}; run the same command again to go on"
