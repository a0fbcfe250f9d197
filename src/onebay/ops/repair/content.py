"""Heal the content of boot partitions.

What survived is believed before any kit: the appliance updates its own files. A file was damaged, and not
updated, where it cannot be read, or where size and time of change are the kit's and the bytes are not. Only
where a file system is beyond mending is it written anew from a kit.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onebay.base import tool
from onebay.base.error import Damaged, Refused, ToolFailed, ToolMissing
from onebay.base.extent import ExtentSet
from onebay.block import FileVolume
from onebay.boot import fatimage, loader
from onebay.boot.extimage import ExtImage
from onebay.fs.fat import Fat
from onebay.fs.fat import probe as probe_fat
from onebay.ops.foldimage import RECORD
from onebay.ops.foldrecord import read_record
from onebay.ops.foldsource import dump
from onebay.ops.kit import slot
from onebay.ops.repair.difference import differing, plan_careful, plan_whole
from onebay.ops.repair.survey import Seen, survey
from onebay.tree import discover

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.block import Span, Volume
    from onebay.ops.kitformat import Kit, KitPart, Region
    from onebay.ops.repair.job import Job

SHOWN = 5  # names of files in one line
SUPERBLOCK = (1024, 1024)  # of ext: byte and size


@dataclass
class State:
    """A FAT as it is: `before` and, after fsck.fat mended a copy in `path`, `after`."""

    path: Path
    before: dict[str, Seen]
    after: dict[str, Seen]
    clean: bool
    fixes: dict[str, bytes] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)


def heal_content(job: Job, part: KitPart, *, missing: bool) -> None:
    """Heal the content of one boot partition; `missing` says that the table has no entry for it."""
    if part.fs == "fat":
        heal_fat(job, part)
    elif part.fs == "ext":
        heal_ext(job, part)
    elif part.fs == "raw":
        heal_raw(job, part, missing=missing)


def region_of(job: Job, part: KitPart) -> tuple[Kit, Region] | None:
    """Return the first kit that has the content of a partition."""
    for kit in job.kits:
        region = kit.region(f"p{part.number}")
        if region is not None and (region.at, region.size) == (part.start, part.size):
            return kit, region
    return None


def write_whole(job: Job, part: KitPart, why: str) -> None:
    """Write a partition anew from a kit, or say that there is none."""
    name = f"p{part.number}"
    found = region_of(job, part)
    if found is None:
        job.fail("content-damaged", f"{name}: {why}, and there is no kit to write it anew from")
        return
    kit, region = found
    what = f"write the content of {name} anew"
    place = slot(job.view, part)
    steps = plan_whole(job.unpacked(kit, region), place, region.extents, what)
    if not steps:
        job.fail("content-damaged", f"{name}: {why}, although it is what the kit has")
        return
    job.heal("content-damaged", f"{name}: {why}", kit.name, steps)
    job.note(f"what the appliance changed on {name} since {kit.name} was made is gone")


def own_fat(place: Volume, uuid: str) -> Fat | str:
    """Return the FAT with this UUID, or what is there instead."""
    tree = discover([place])
    layer = tree.on(place)
    if isinstance(layer, Fat):
        return layer if layer.uuid == uuid else f"another FAT ({layer.uuid}) stands there"
    if tree.suspects:
        return f"{tree.suspects[0].kind} is damaged: {tree.suspects[0].evidence}"
    return f"{layer.title} stands there" if layer is not None else "no file system is found"


def heal_fat(job: Job, part: KitPart) -> None:
    """Heal a FAT: mend its structure, put lost files back, or write it anew."""
    place = slot(job.view, part)
    fat = own_fat(place, part.fs_uuid)
    if isinstance(fat, str):
        write_whole(job, part, fat)
        return
    try:
        state = examine(job, part, place, fat)
    except (Damaged, ToolFailed) as error:
        if isinstance(error, ToolMissing):
            raise
        write_whole(job, part, f"the file system is beyond mending ({error.what})")
        return
    compare(job, part, fat, state)
    if state.lost:
        text = f"p{part.number}: damaged, and no source has {listed(state.lost)}"
        job.fail("files-damaged", text)
    if not state.clean and state.fixes and not state.newer and region_of(job, part):
        write_whole(job, part, f"the file system is damaged, and {listed(list(state.fixes))} with it")
        return
    if state.newer:
        job.note(f"p{part.number}: the appliance has changed {listed(state.newer)} since the kit was made")
    if state.clean and not state.fixes:
        return
    put_back(job, part, place, fat, state)


def examine(job: Job, part: KitPart, place: Span, fat: Fat) -> State:
    """Look at a FAT, and at a mended copy where fsck.fat finds anything; raises ToolFailed or Damaged."""
    path = job.scratch / f"own-{part.start}.img"
    path.unlink(missing_ok=True)
    dump(place, path)
    before = survey(fat)
    clean = True
    try:
        fatimage.verify(path)
    except ToolMissing:
        raise
    except ToolFailed:
        clean = False
    if clean:
        return State(path, before, before, clean)
    fatimage.mend(path)
    fatimage.verify(path)
    mended = probe_fat(FileVolume(path))
    if not isinstance(mended, Fat):
        raise Damaged("no file system is left after fsck.fat", volume=place.name)
    return State(path, before, survey(mended), clean)


def compare(job: Job, part: KitPart, fat: Fat, state: State) -> None:
    """Find the files that are damaged, what they should be, and which ones the appliance has changed."""
    found = region_of(job, part)
    other = probe_fat(job.unpacked(*found)) if found else None
    record = job.record if job.record and part.home else None
    ours = dict(record.files) if record else {}
    wrong = [path for path, sha in ours.items() if sha_of(state, path) != sha]
    if record is not None and record.menu and not sha_of(state, record.menu):
        wrong.append(record.menu)
    if record is not None and read_record(fat) is None:
        wrong.append(RECORD)
    if isinstance(other, Fat):
        known = {*ours, *wrong}
        theirs = {path: seen for path, seen in survey(other).items() if path not in known}
        wrong += compare_theirs(job, part, state, theirs, hurt=bool(wrong) or not state.clean)
    for path in dict.fromkeys(wrong):
        data = other.read_file(path, limit=part.size) if isinstance(other, Fat) else None
        if path in ours and (data is None or loader.digest(data) != ours[path]):
            data = made_anew(job, path, ours[path])
        if data is None:
            state.lost.append(path)
        else:
            state.fixes[path] = data


def compare_theirs(
    job: Job, part: KitPart, state: State, theirs: dict[str, Seen], *, hurt: bool
) -> list[str]:
    """Return the appliance's files that are damaged; one that is gone only where others are `hurt` too."""
    wrong: list[str] = []
    for path, seen in theirs.items():
        verdict = judge(state, path, seen)
        if verdict == "newer":
            state.newer.append(path)
        elif verdict == "damaged" or (verdict == "gone" and hurt):
            wrong.append(path)
        elif verdict == "gone":
            job.note(f"p{part.number}: {path} was there when the kit was made, and is not now")
    return wrong


def sha_of(state: State, path: str) -> str:
    """Return the digest of a file that is there and can be read, "" otherwise."""
    seen = state.after.get(path)
    return seen.sha256 if seen else ""


def judge(state: State, path: str, kit: Seen) -> str:
    """Say of a file of the appliance whether it is same, newer, gone or damaged, compared with the kit's."""
    now, before = state.after.get(path), state.before.get(path)
    if now is not None and now.sha256 == kit.sha256:
        return "same"
    if now is None:
        return "gone" if before is None else "damaged"
    if not now.sha256 or (before is not None and before.sha256 != now.sha256):
        return "damaged"
    return "damaged" if (now.size, now.stamp) == (kit.size, kit.stamp) else "newer"


def made_anew(job: Job, path: str, sha256: str) -> bytes | None:
    """Return one of our own files from GRUB as it is installed here, where that is the same build."""
    made = job.loader()
    data = made.files.get(path) if made else None
    return data if data is not None and loader.digest(data) == sha256 else None


def put_back(job: Job, part: KitPart, place: Span, fat: Fat, state: State) -> None:
    """Put files back into the copy, and make the partition like it."""
    what = [f"{listed(list(state.fixes))} damaged or missing"] if state.fixes else []
    what += [] if state.clean else ["fsck.fat finds errors"]
    try:
        if state.fixes:
            with suppress(ToolFailed):  # a folder that is there as a file, for one: then there is no room
                clear(state)
            fatimage.put_files(state.path, state.fixes, job.scratch / f"stage-{part.start}")
            fatimage.verify(state.path)
    except (ToolFailed, Refused) as error:
        if isinstance(error, ToolMissing):
            raise
        write_whole(job, part, f"{' and '.join(what)}, which cannot be put back: {error.what}")
        return
    free = ExtentSet.single(fat.geometry.data_at, part.size) - fat.table.allocated()
    steps = plan_careful(FileVolume(state.path), place, free, f"mend the files of p{part.number}")
    found = region_of(job, part)
    source = found[0].name if found and state.fixes else "the disk itself"
    job.heal("files-damaged", f"p{part.number}: {' and '.join(what)}", source, steps)


def clear(state: State) -> None:
    """Remove from the copy the files that will be written anew, so that their room is free."""
    names = [f"::{path}" for path in state.fixes if path in state.after]
    if names:
        tool.run(["mdel", "-i", state.path, *names], env=fatimage.environment())


def heal_ext(job: Job, part: KitPart) -> None:
    """Heal an ext file system: as it is, mended by e2fsck, or written anew."""
    place = slot(job.view, part)
    layer = discover([place]).on(place)
    uuid = str(layer.facts().get("uuid")) if layer is not None and layer.kind == "ext" else ""
    if uuid != part.fs_uuid:
        write_whole(job, part, "its ext file system is not there")
        return
    path = job.scratch / f"own-{part.start}.img"
    path.unlink(missing_ok=True)
    dump(place, path)
    image = ExtImage(path, job.scratch)
    try:
        image.verify()
        if spoilt(job, part, place):
            write_whole(job, part, "nobody has written to it since, and it is not what the kit has")
        return
    except ToolMissing:
        raise
    except ToolFailed:
        pass
    try:
        image.mend()
        image.verify()
    except ToolMissing:
        raise
    except ToolFailed as error:
        write_whole(job, part, f"the file system is beyond mending ({error.what})")
        return
    if spoilt(job, part, place):
        write_whole(job, part, "e2fsck finds errors")
        return
    steps = plan_careful(FileVolume(path), place, ExtentSet(), f"mend the file system of p{part.number}")
    text = f"p{part.number}: e2fsck finds errors, and mends them by itself"
    job.heal("content-damaged", text, "the disk itself", steps)


def spoilt(job: Job, part: KitPart, place: Span) -> bool:
    """Whether an ext file system differs from the kit's although nobody has mounted it since.

    Mounting it, or any tool that changes it, leaves another time in the superblock.
    """
    found = region_of(job, part)
    if found is None:
        return False
    kit = job.unpacked(*found)
    if kit.read(*SUPERBLOCK) != place.read(*SUPERBLOCK):
        return False
    return bool(differing(kit, place, found[1].extents))


def heal_raw(job: Job, part: KitPart, *, missing: bool) -> None:
    """Write a partition that nobody can judge anew where it lost its entry or its beginning."""
    found = region_of(job, part)
    if found is None:
        return
    place, kit = slot(job.view, part), job.unpacked(*found)
    if not differing(kit, place, found[1].extents):
        return
    head = min(part.size, 1 << 16)
    if missing or not any(place.read(0, head)):
        write_whole(job, part, "its content is lost")
    else:
        job.note(f"p{part.number} is not what it was when the kit was made; left as it is")


def listed(paths: list[str]) -> str:
    """Return names of files for one line."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(sorted(paths)[:SHOWN]) + more
