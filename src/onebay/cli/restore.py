"""onebay restore: an image to a disk, and grow it."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import click

from onebay.base.error import Error, Refused
from onebay.base.units import human
from onebay.block import FileVolume, Overlay, create_disk, is_device, open_disk
from onebay.cli.boot import cache_option
from onebay.cli.growing import foresee, grow_inside, journal_option, key_option, open_journal, read_key
from onebay.cli.options import (
    PATH,
    check_place,
    confirm,
    dry_run_option,
    expect_options,
    json_option,
    parse_size,
    show_plan,
    yes_option,
)
from onebay.cli.progress import answer, events_option, remark, renderer
from onebay.cli.shrink import scratch_option, show
from onebay.cli.smaller import plan_smaller, restore_here, room_on
from onebay.cli.trusting import as_digest, trust_options
from onebay.image import Image, ImageVolume, Stream
from onebay.ops.grow import grow, plan_grow
from onebay.ops.identity import signs_in, twin_of, warn_twins
from onebay.ops.inkernel import find_request
from onebay.ops.restore import carries_marker, open_image, restore
from onebay.ops.run import Plan, on_failure
from onebay.ops.togpt import TWO_TIB
from onebay.source import open_source
from onebay.table import MbrTable
from onebay.tree import discover

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import Volume
    from onebay.cli.options import Expected
    from onebay.ops.shrink import ShrinkPlan
    from onebay.ops.trust import Trust


@click.command()
@click.argument("image")
@click.argument("target", type=PATH)
@click.option(
    "--size",
    callback=parse_size,
    metavar="SIZE",
    help="Size of TARGET where it is a new file, for example 40G.",
)
@scratch_option
@click.option("--no-grow", is_flag=True, help="Leave the space behind the image's disk unused.")
@key_option
@journal_option
@trust_options
@click.option(
    "--patience",
    type=click.IntRange(0, 7 * 86400),
    metavar="SECONDS",
    help="How long to wait for a server that does not answer, instead of some seconds.",
)
@click.option(
    "--expect-manifest",
    callback=as_digest,
    metavar="sha256:HEX",
    help="Refuse an image with another manifest than --dry-run named, where it can be read only once.",
)
@click.option("--once", is_flag=True, help="Refuse a TARGET that holds this image's disk already.")
@click.option("--verify", is_flag=True, help="Read everything back before the disk becomes bootable.")
@click.option("--threads", type=click.IntRange(1, 64), default=2, show_default=True)
@dry_run_option
@expect_options
@yes_option
@json_option
@cache_option
@events_option
def command(
    image: str,
    target: Path,
    size: int | None,
    scratch: Path | None,
    no_grow: bool,
    key_file: Path | None,
    journal: Path | None,
    trust: Trust,
    patience: int | None,
    expect_manifest: bytes | None,
    once: bool,
    verify: bool,
    threads: int,
    dry_run: bool,
    expected: Expected,
    yes: bool,
    as_json: bool,
    cache: Path,
    events: bool,
) -> None:
    """Write IMAGE (a file, - or an http(s) URL) to TARGET, a block device or a file, and grow it.

    A TARGET smaller than the image's disk gets that disk shrunk to fit, where it can be: the ext4 or btrfs on
    its last data partition, in a scratch file. A restore that was interrupted cannot boot; the
    same command run again goes on where it stopped (a shrunk one begins anew).
    """
    report = renderer(events=events)
    key = key_for(key_file, journal, no_grow=no_grow)
    with closing(open_source(image, patience=patience, report=report)) as source:
        opened = open_image(source)
        admit(opened, target, trust, manifest=expect_manifest, once=once)
        room = room_on(target, size, opened.disk_size, expected)
        if room < opened.disk_size:
            plan = plan_smaller(opened, target, room)
            if dry_run:
                rehearse_smaller(opened, plan, as_json=as_json)
                return
            assert isinstance(opened, Image)
            tell(
                restore_here(
                    *(opened, plan, target, room),
                    scratch=scratch,
                    cache=cache,
                    verify=verify,
                    yes=yes,
                    expected=expected,
                    report=report,
                ),
                as_json=as_json,
            )
            return
        if dry_run:
            rehearse(opened, target, size, with_growth=not no_grow, key=key, as_json=as_json)
            return
        if key and isinstance(opened, Image):
            find_request(ImageVolume(opened), key)  # a key that opens nothing is refused before all
        with ExitStack() as stack:
            found = open_target(target, size, opened, yes=yes, expected=expected, report=report)
            disk = stack.enter_context(closing(found))
            store = stack.enter_context(closing(open_journal(journal))) if journal else None
            done = restore(opened, disk, verify=verify, threads=threads, trust=trust, report=report)
            del opened  # its kit takes the memory that growing needs
            notes = [] if no_grow else grow_restored(disk, cache, report, key=key, store=store)
            disk.settle()
            text: dict[str, Any] = {"target": str(target), "size": disk.size, "written": done.written}
            text |= {"resumed": done.resumed, "seconds": round(done.seconds, 3), "notes": notes}
    tell(text, as_json=as_json)


def admit(opened: Image | Stream, target: Path, trust: Trust, *, manifest: bytes | None, once: bool) -> None:
    """Raise Refused where the image is not the one that is meant, or with `once` is on the target already.

    A restore that was interrupted is not: its tables come last.
    """
    check_manifest(opened, manifest)
    trust.check(opened)
    check_place(target)
    if not once or not target.exists():
        return
    sector_size = None if is_device(target) else opened.manifest.sector_size
    with closing(open_disk(target, sector_size=sector_size)) as disk:
        twin = twin_of(disk, signs_in(opened.facts.layers))
    if twin is not None and not twin.labels_only:
        what = sorted(twin.shared)[0]
        raise Refused(
            f"holds this image's disk already, by its {what.what} {what.value}",
            volume=str(target),
            hint="what was written to it since would be lost; leave out --once to restore it all the same",
        )


def check_manifest(opened: Image | Stream, expected: bytes | None) -> None:
    """Raise Refused where the image's manifest is another one than a rehearsal saw; None expects nothing."""
    found = opened.manifest.digest
    if expected is not None and found != expected:
        raise Refused(
            "is not the image that was planned, by its manifest",
            volume=opened.name,
            expected=f"sha256:{expected.hex()}",
            found=f"sha256:{found.hex()}",
        )


def digest_of(opened: Image | Stream) -> dict[str, str]:
    """Return the root digest of an image, or of one that is read only once its manifest's, by its kind."""
    if isinstance(opened, Image):
        return {"digest": f"sha256:{opened.root.digest.hex()}"}
    return {"manifest": f"sha256:{opened.manifest.digest.hex()}"}


def named(opened: Image | Stream) -> str:
    """Say which image it is."""
    return " ".join(("the image's", *next(iter(digest_of(opened).items()))))


def key_for(key_file: Path | None, journal: Path | None, *, no_grow: bool) -> bytes:
    """Return what opens LUKS, b"" where nothing shall; raises UsageError, Refused where a file is not fit."""
    if no_grow and (key_file or journal):
        raise click.UsageError("--no-grow leaves nothing to do for --key-file and --journal")
    if journal and journal.exists():
        open_journal(journal).close()
    if key_file is None:
        return b""
    if journal is None:
        raise click.UsageError("give --journal FILE as well: an encrypted disk has no free space for one")
    return read_key(key_file)


def tell(text: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was done, for people or for programs."""
    if as_json:
        answer(json.dumps(text, indent=2))
        return
    for note in text["notes"]:
        remark(f"note: {note}")
    answer(f"{text['target']}: restored, {human(text['written'])} written in {text['seconds']:.1f} s")


def grow_restored(
    disk: FileVolume, cache: Path, report: Report, *, key: bytes = b"", store: FileVolume | None = None
) -> list[str]:
    """Grow a disk that was just restored; return what stays as it is and why."""
    how = "onebay grow goes on" + (f", with the same --journal {store.name}" if store else "")
    state = f"{disk.name} is restored; only growing it was not completed ({how})"
    with on_failure(state, disk.name):
        plan = grow(disk, store=store, report=report)
        grow_inside(disk, plan, cache=cache, key=key, store=store, report=report)
        return [*plan.notes, *beyond_mbr(disk)]


def beyond_mbr(disk: Volume) -> list[str]:
    """Name the command for a disk that is larger than its MBR can use."""
    if disk.size <= TWO_TIB or not isinstance(discover([disk]).on(disk), MbrTable):
        return []
    return [f"an MBR reaches 2 TiB only: onebay grow --table gpt {disk.name} makes the rest usable"]


def rehearse(
    opened: Image | Stream, target: Path, size: int | None, *, with_growth: bool, key: bytes, as_json: bool
) -> None:
    """Print what a restore would do. Growth is planned on the image itself, so not for a pipe."""
    check_place(target)
    room = size or opened.disk_size
    if target.exists():
        with closing(open_disk(target, sector_size=opened.manifest.sector_size)) as disk:
            room = max(size or 0, disk.size)
            if reason := disk.busy():
                raise Refused(reason, volume=str(target))
    check_size(target, room, opened.disk_size)
    if isinstance(opened, Stream):
        tell_stream(opened, target, room, with_growth=with_growth, as_json=as_json)
        return
    plan = Plan("restore", Overlay(ImageVolume(opened), size=room, name=str(target)))
    plan.notes += [named(opened), amount(opened)]
    if with_growth:
        growth = plan_grow(plan.disk)
        foresee(growth, key)
        growth.notes += beyond_mbr(plan.disk)
        plan.steps, plan.notes = growth.steps, plan.notes + growth.notes
    show_plan(plan, as_json=as_json, also=digest_of(opened))


def rehearse_smaller(opened: Image | Stream, plan: ShrinkPlan, *, as_json: bool) -> None:
    """Print what a restore to a smaller disk would do."""
    if as_json:
        answer(json.dumps({**plan.document(), **digest_of(opened)}, indent=2))
        return
    answer(f"note: {named(opened)}")
    show(plan, as_json=False)


def amount(opened: Image | Stream) -> str:
    """Say how much a restore writes."""
    return f"writes {opened.keep.size} bytes that matter of a disk of {opened.disk_size} bytes"


def tell_stream(opened: Stream, target: Path, room: int, *, with_growth: bool, as_json: bool) -> None:
    """Print what its manifest says of an image that can be read only once."""
    notes = [named(opened), amount(opened)]
    if with_growth and room > opened.disk_size:
        notes.append("what can grow is known once the image is there: it is read only once")
    if as_json:
        document = {"verb": "restore", "disk": str(target), "steps": [], "notes": notes}
        answer(json.dumps({**document, **digest_of(opened)}, indent=2))
        return
    answer("\n".join(f"note: {note}" for note in notes))


def open_target(
    target: Path,
    size: int | None,
    opened: Image | Stream,
    *,
    yes: bool,
    expected: Expected,
    report: Report,
) -> FileVolume:
    """Open or make the target and have it confirmed; raises Refused before anything is written."""
    need, sector_size = opened.disk_size, opened.manifest.sector_size
    check_place(target)
    if not target.exists():
        check_size(target, size or need, need)
        return create_disk(target, size or need, sector_size=sector_size)
    disk = open_disk(target, writable=True, sector_size=None if is_device(target) else sector_size)
    try:
        expected.check(disk)
        check_size(target, max(size or 0, disk.size), need)
        if is_device(target):
            warn_twins(disk, own=signs_in(opened.facts.layers), report=report)
            confirm(disk, "overwrite", yes=yes)
        elif not yes and not carries_marker(disk, opened) and any(disk.data(0, disk.size)):
            raise Refused("exists already", volume=str(target), hint="another name, or --yes to overwrite it")
        if size is not None and size != disk.size:
            if size < disk.size:
                raise Refused("larger than --size", volume=str(target), expected=size, found=disk.size)
            disk.resize(size)
    except Error:
        disk.close()
        raise
    return disk


def check_size(target: Path, size: int, need: int) -> None:
    """Raise Refused where the target is too small, saying how small it may be."""
    if size < need:
        raise Refused(
            "the target is too small for this image",
            volume=str(target),
            expected=f"at least {need}",
            found=size,
        )
