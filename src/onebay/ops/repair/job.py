"""What the parts of repair share: the plan, what was found wrong, and the sources to heal from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.base.error import Error
from onebay.block import FileVolume
from onebay.boot import loader
from onebay.ops.run import Plan, Planner

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from onebay.base.step import Step
    from onebay.block import Overlay
    from onebay.boot.loader import Loader
    from onebay.boot.paths import BootPath
    from onebay.ops.foldrecord import Record
    from onebay.ops.kitformat import Kit, Region

HEALED, NAMED, UNHEALED = "healed", "named", "unhealed"


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that is wrong: `kind` is a stable word, `outcome` is healed, named or unhealed.

    "named" is what repair leaves to others (it is no part of the boot path), "unhealed" what it would have
    healed if it had a source. `source` says what it is healed from.
    """

    kind: str
    text: str
    outcome: str
    source: str = ""


@dataclass
class RepairPlan(Plan):
    """A plan with its reasons; `boot` are the boot paths as they will be after it.

    The steps read from files in the scratch folder that the plan was made with; keep it until they are
    carried out.
    """

    wrong: list[Wrong] = field(default_factory=list)
    boot: list[BootPath] = field(default_factory=list)

    @property
    def unhealed(self) -> list[Wrong]:
        """What could not be healed."""
        return [wrong for wrong in self.wrong if wrong.outcome == UNHEALED]


class Job:
    """One repair while it is planned.

    `kits` are in the order in which they are asked; `record` is that of the disk's own fold.
    """

    def __init__(self, planner: Planner, plan: RepairPlan, scratch: Path) -> None:
        self.planner, self.plan, self.scratch = planner, plan, scratch
        self.kits: list[Kit] = []
        self.record: Record | None = None
        self.made: Loader | None = None
        self.lacking = False

    @property
    def view(self) -> Overlay:
        """The disk as it will be after the steps so far."""
        return self.planner.view

    @property
    def kit(self) -> Kit | None:
        """The kit that is asked first."""
        return self.kits[0] if self.kits else None

    def heal(self, kind: str, text: str, source: str, steps: Iterable[Step]) -> None:
        """Take steps that heal something."""
        self.plan.wrong.append(Wrong(kind, text, HEALED, source))
        self.planner.add(steps)

    def name(self, kind: str, text: str) -> None:
        """Note what is wrong and not ours to heal."""
        self.plan.wrong.append(Wrong(kind, text, NAMED))

    def fail(self, kind: str, text: str) -> None:
        """Note what could not be healed."""
        self.plan.wrong.append(Wrong(kind, text, UNHEALED))

    def note(self, text: str) -> None:
        """Tell the user something."""
        self.plan.notes.append(text)

    def unpacked(self, kit: Kit, region: Region) -> FileVolume:
        """Return the content of a region as a volume of the region's size, in the scratch folder."""
        path = self.scratch / f"kit-{self.kits.index(kit)}-{region.at}.img"
        if not path.exists():
            with path.open("xb") as file:
                file.truncate(region.size)
                for at, data in kit.pieces(region):
                    file.seek(at - region.at)
                    file.write(data)
        return FileVolume(path, sector_size=self.view.sector_size)

    def loader(self) -> Loader | None:
        """Make our loaders anew for the record's fold; None where this machine has no GRUB, or no record.

        Only what has the digest of the record may be used: another build's modules do not fit.
        """
        if self.made is None and not self.lacking:
            home = self.record.home if self.record else None
            self.lacking = home is None
            if home is not None:
                try:
                    self.made = loader.make_loader(home.uuid, self.scratch, bios=self.view.sector_size == 512)
                except Error as error:
                    self.lacking = True
                    self.note(f"GRUB cannot be made anew here: {error}")
        return self.made
