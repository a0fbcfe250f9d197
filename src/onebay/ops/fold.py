"""fold: put the boot disk into free space of the data disk, so that one disk boots by itself.

Nothing of the appliance is moved or resized. The order of the steps: content into space that nobody uses,
GRUB's core into sectors that nobody uses, the table's new entries, and last the boot code of LBA 0; so after
every write the disk is the data disk that it was, or more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onebay.base.error import Damaged, Refused
from onebay.base.step import Copy, Flush, Step, Write, Zero
from onebay.block import FileVolume
from onebay.boot import loader
from onebay.fs.fat import Fat
from onebay.ops import foldimage
from onebay.ops.foldimage import Identities, Image
from onebay.ops.foldlayout import Layout, data_table, free_gaps, lay_out
from onebay.ops.foldsource import read_boot
from onebay.ops.journal import refuse_pending
from onebay.ops.kit import make_kit, tail_room
from onebay.ops.partuuid import FLAG, References
from onebay.ops.run import Plan, Planner
from onebay.table import MbrTable, NewPartition, Table, plan_add, plan_convert, plan_mend
from onebay.table.kinds import BIOS_BOOT
from onebay.tree import discover

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.block import Volume
    from onebay.boot.loader import Loader
    from onebay.ops.foldimage import Configs
    from onebay.ops.foldsource import BootDisk
    from onebay.tree import Tree

MBR_ESP = "0xef"
MBR_FAT = "0x0e"


@dataclass
class FoldPlan(Plan):
    """A plan with its reasons: `strategy` is merged or copied, `why` says in words what was chosen.

    `changes` are the references that follow, `warnings` what the user must look at. The steps read from files
    in the scratch folder that the plan was made with; keep it until the plan is carried out.
    """

    strategy: str = ""
    why: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Close the files in the scratch folder that the steps read."""
        sources = {id(step.source): step.source for step in self.steps if isinstance(step, Copy)}
        for source in sources.values():
            if isinstance(source, FileVolume):
                source.close()

    def retarget(self, disk: Volume) -> None:
        """Let all steps go to `disk`, which holds the same bytes as the disk that was planned for."""
        assert disk.size == self.disk.size, disk
        self.steps = [replace(step, volume=disk) for step in self.steps]
        self.disk = disk


def plan_fold(
    boot: Volume,
    data: Volume,
    *,
    scratch: Path,
    table: str | None = None,
    keep_ids: bool = False,
    unchecked: bool = False,
) -> FoldPlan:
    """Return the steps that fold `boot` into `data`; an empty plan where that is done already.

    `table` "gpt" converts an MBR on the way, `unchecked` also where something may refer to its signature;
    `keep_ids` keeps the UUIDs of the boot disk's file systems, for appliances that look for them by number.
    Raises Refused where it does not fit or the data disk must not be written, Damaged where the boot disk's
    menu cannot be read.
    """
    assert table in (None, "gpt"), table
    refuse_pending(data)
    planner = Planner("fold", data)
    tree = discover([planner.view])
    found = data_table(tree)
    folded = find_record(tree)
    gaps = free_gaps(found)
    room = sum(gap.size for gap in gaps) if folded is None else data.size
    disk = read_boot(boot, scratch, room)
    if folded is not None:
        home, document = folded
        plan = finish(planner, found, disk, home=home, found=document, scratch=scratch)
        return with_mended_table(plan, planner, found)
    layout = lay_out(found, disk, convert=table == "gpt")
    images = layout.images
    name_images(images, disk, Identities(found.identity, disk.identity), keep_ids=keep_ids)
    number_partuuids(images, found, disk, layout)
    configs = foldimage.rewrite_configs(disk, images)
    refuse_merged_root(configs, images)
    unseen = (
        check_conversion(tree, found, configs, unchecked=unchecked)
        if layout.gpt and isinstance(found, MbrTable)
        else []
    )
    uuid = next(image.uuid for image in images if image.home)
    made = loader.make_loader(uuid, scratch, bios=layout.core_at is not None)
    core = check_core(made, layout)
    write_images(disk, layout, configs, made=made, core=core, scratch=scratch)
    plan = FoldPlan("fold", data, strategy=layout.strategy, why=layout.why, changes=configs.changes)
    plan.warnings = configs.warnings + foldimage.missing_commands(configs, bios=bool(core))
    plan.notes = [*layout.why, *disk.skipped, *unseen, *(f"warning: {text}" for text in plan.warnings)]
    for image in images:
        planner.add(content(planner.view, image), rehearse=False)
    finishing(planner, found, layout, made, core)
    plan.steps = kit_copy(planner, plan, images, scratch) + planner.plan.steps
    return plan


def check_conversion(tree: Tree, table: Table, configs: Configs, *, unchecked: bool) -> list[str]:
    """Return what the user must know of a table that becomes a GPT.

    Raises Refused where something names partitions by the MBR's signature. What stands before the first
    partition is nobody's on a data disk, and a fold puts GRUB's core there under either table.
    """
    assert isinstance(table, MbrTable), table
    references = References(tree, table)
    for (_, path), content in configs.files.items():
        if references.text.encode() in content.lower() and not unchecked:
            raise Refused(
                f"the menu refers to a partition as PARTUUID {references.text}.., which a GPT cannot keep",
                volume=path,
                hint=f"write UUID= of the file system there; where nothing needs it, {FLAG}",
            )
    return references.notes(unchecked=unchecked)


def name_images(images: list[Image], disk: BootDisk, identities: Identities, *, keep_ids: bool) -> None:
    """Give every file system to be its UUID."""
    for image in images:
        first = image.parts[0] if image.parts else None
        what = f"{image.variable} {first.uuid if first else ''}"
        if first is not None and keep_ids and first.kind == image.kind:
            image.uuid = first.uuid
        elif image.kind == "fat":
            image.uuid = identities.fat(what)
        elif image.kind == "ext":
            image.uuid = identities.guid(what)
    known = [part.uuid for part in disk.parts]
    assert keep_ids or not any(image.uuid in known for image in images if image.uuid), known


def number_partuuids(images: list[Image], table: Table, disk: BootDisk, layout: Layout) -> None:
    """Give every partition to be the UUID that Linux will call PARTUUID."""
    identities = Identities(table.identity, disk.identity, "partition")
    for image in images:
        if layout.gpt:
            image.partuuid = identities.guid(image.variable).upper()
        else:
            image.partuuid = f"{table.identity.lower()}-{image.number:02x}"
    layout.bios_boot_uuid = identities.guid("BIOS boot").upper()


def refuse_merged_root(configs: Configs, images: list[Image]) -> None:
    """Raise Refused where a kernel's root file system would become a folder of files on a FAT."""
    merged = {part.number for image in images if image.fresh for part in image.parts if part.kind != "fat"}
    if gone := sorted(configs.roots & merged):
        raise Refused(
            f"p{gone[0]} of the boot disk is a root file system and cannot be merged into a FAT",
            hint="use --table gpt, so that the partitions can be copied whole",
        )


def check_core(made: Loader, layout: Layout) -> bytes:
    """Return the core for its place; b"" where BIOS cannot boot the disk. Raises Refused without room."""
    if layout.core_at is None:
        return b""
    return loader.embedded_core(made.core, layout.core_at // loader.SECTOR, layout.core_room)


def write_images(
    disk: BootDisk, layout: Layout, configs: Configs, *, made: Loader, core: bytes, scratch: Path
) -> None:
    """Make the content of every partition to be in `scratch`."""
    extra = foldimage.home_files(disk, layout.images, made)
    facts: dict[str, object] = {
        "grub": made.build,
        "core": {"at": layout.core_at, "size": len(core), "sha256": loader.digest(core)} if core else None,
        "code_sha256": loader.digest(lba0(made, layout)) if core else None,
        "files": {path: loader.digest(content) for path, content in sorted(extra.items())},
    }
    extra[foldimage.RECORD] = foldimage.record(disk, layout.images, layout.strategy, facts)
    for image in layout.images:
        foldimage.build(image, configs, extra if image.home else {}, scratch)


def lba0(made: Loader, layout: Layout) -> bytes:
    """Return the boot code of LBA 0."""
    assert layout.core_at is not None
    return loader.boot_code(made.code, layout.core_at // loader.SECTOR)


def content(disk: Volume, image: Image) -> list[Step]:
    """Return the steps that bring content to its place; what is zero in it is zeroed where needed."""
    assert image.path is not None
    source = FileVolume(image.path)
    what = f"content of partition {image.number} ({', '.join(f'p{p.number}' for p in image.parts) or 'ours'})"
    steps: list[Step] = []
    at = 0
    for start, end in [*source.data(0, source.size), (source.size, source.size)]:
        for low, high in disk.data(image.start + at, image.start + start):
            steps.append(Zero(disk, low, high - low, what))
        if end > start:
            steps.append(Copy(source, start, disk, image.start + start, end - start, what))
        at = end
    return steps


def finishing(planner: Planner, table: Table, layout: Layout, made: Loader, core: bytes) -> None:
    """Add what comes after the content: core, table, boot code, each behind a barrier."""
    view = planner.view
    planner.add([Flush(view)])
    if core:
        assert layout.core_at is not None
        planner.add([Write(view, layout.core_at, core, "GRUB's core for BIOS"), Flush(view)])
    planner.add(table_steps(table, layout))
    planner.add([Flush(view)])
    if core:
        planner.add([Write(view, 0, lba0(made, layout), "boot code in LBA 0"), Flush(view)])
    after = data_table(discover([view]))
    have = {part.number: (part.start, part.size) for part in after.partitions}
    for part in table.partitions:
        if part.is_extended and layout.gpt:
            continue
        assert have.get(part.number) == (part.start, part.size), part
    for image in layout.images:
        assert have.get(image.number) == (image.start, image.size), image


def kit_copy(planner: Planner, plan: FoldPlan, images: list[Image], scratch: Path) -> list[Step]:
    """Return the steps that leave a copy of the boot kit in the tail; none where it does not fit there.

    They come before everything else: into space that nobody uses.
    """
    tree = discover([planner.view])
    contents = {image.number: FileVolume(image.path) for image in images if image.path is not None}
    path = scratch / "kit"
    with path.open("wb") as file:
        size = make_kit(tree, file, contents=contents)
    room = tail_room(plan.disk, data_table(tree))
    if size > room.size:
        plan.notes.append(
            f"no copy of the boot kit in the tail: it has {size} bytes, the tail room for {room.size}; "
            "keep one in a file (onebay kit)"
        )
        return []
    plan.notes.append(f"a copy of the boot kit, {size} bytes, goes into the tail")
    kit = FileVolume(path)
    return [Copy(kit, 0, plan.disk, room.start, size, "copy of the boot kit in the tail"), Flush(plan.disk)]


def table_steps(table: Table, layout: Layout) -> list[Step]:
    """Return the steps that give the partitions their entries."""
    additions: list[NewPartition] = []
    active = not layout.gpt and not any(part.active for part in table.partitions)
    for image in layout.images:
        kind = image.type_guid if layout.gpt else (MBR_ESP if image.home else MBR_FAT)
        additions.append(
            NewPartition(
                image.start,
                image.size,
                kind,
                name=image.name if layout.gpt else "",
                uuid=image.partuuid if layout.gpt else None,
                active=active and image.home,
                number=image.number,
            )
        )
    if layout.bios_boot is not None:
        start, size, number = layout.bios_boot
        name = "onebay BIOS boot"
        additions.append(NewPartition(start, size, BIOS_BOOT, name, layout.bios_boot_uuid, number=number))
    if isinstance(table, MbrTable) and layout.gpt:
        return plan_convert(table, additions=additions)
    return plan_add(table, additions)


def find_record(tree: Tree) -> tuple[Fat, dict[str, object]] | None:
    """Return the FAT with the record of an earlier fold, and the record itself.

    Raises Refused where the record cannot be read.
    """
    for layer in tree.of_kind("fat"):
        assert isinstance(layer, Fat)
        try:
            raw = layer.read_file(foldimage.RECORD, limit=foldimage.RECORD_SIZE)
            document = json.loads(raw) if raw is not None else None
        except (Damaged, ValueError, RecursionError) as error:
            raise Refused(
                "the record of an earlier fold is damaged", volume=layer.volume.name, hint="onebay repair"
            ) from error
        if isinstance(document, dict):
            return layer, document
    return None


def with_mended_table(plan: FoldPlan, planner: Planner, table: Table) -> FoldPlan:
    """Let the plan begin with mending a GPT of which an interrupted fold wrote one copy only."""
    steps = [low for step in plan_mend(table) for low in planner.lowered(step)]
    if steps:
        plan.steps = [*steps, *plan.steps]
        plan.notes = ["the partition table is mended from its other copy"]
    return plan


def finish(
    planner: Planner, table: Table, disk: BootDisk, *, home: Fat, found: dict[str, object], scratch: Path
) -> FoldPlan:
    """Return what is left to do of a fold whose partitions are there: nothing, or the BIOS boot path.

    Raises Refused where it was made from another boot disk, or with another GRUB than is installed here.
    """
    data = planner.plan.disk
    if found.get("boot_disk") != disk.identity:
        raise Refused(
            "the data disk has a folded boot partition already, of another boot disk",
            volume=home.volume.name,
            hint="onebay repair mends a damaged boot path; to fold anew, remove that partition first",
        )
    plan = FoldPlan("fold", data, strategy=str(found.get("strategy")))
    core = found.get("core")
    if not isinstance(core, dict):
        plan.notes.append("already folded, nothing to do")
        return plan
    at, size, code = core.get("at"), core.get("size"), found.get("code_sha256")
    if not isinstance(at, int) or not isinstance(size, int) or not 0 < at <= at + size <= data.size:
        raise Refused("the record of an earlier fold is damaged", volume=home.volume.name)
    if any(part.start < at + size and at < part.end and part.type != BIOS_BOOT for part in table.partitions):
        raise Refused("the record of an earlier fold is damaged", volume=home.volume.name, at=at)
    whole = loader.digest(data.read(at, size)) == core.get("sha256")
    if whole and loader.digest(data.read(0, loader.CODE_SIZE)) == code:
        plan.notes.append("already folded, nothing to do")
        return plan
    made = loader.make_loader(home.uuid, scratch)
    again = loader.embedded_core(made.core, at // loader.SECTOR, size)
    first = loader.boot_code(made.code, at // loader.SECTOR)
    if loader.digest(again) != core.get("sha256") or loader.digest(first) != code:
        raise Refused(
            "the fold is not complete, and was begun with another build of GRUB",
            volume=data.name,
            expected=found.get("grub"),
            found=made.build,
            hint="onebay repair",
        )
    view = planner.view
    planner.add([Write(view, at, again, "GRUB's core for BIOS"), Flush(view)])
    planner.add([Write(view, 0, first, "boot code in LBA 0"), Flush(view)])
    plan.notes.append("the partitions are there; the BIOS boot path is completed")
    plan.steps = planner.plan.steps
    return plan
