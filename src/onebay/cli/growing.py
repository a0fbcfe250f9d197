"""What grow and restore share: after what we grow ourselves comes what only a kernel can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onebay.base.error import Refused, ToolFailed, reason
from onebay.block import create_disk, open_disk
from onebay.cli.options import PATH, check_place, confirm
from onebay.ops.grow import grow
from onebay.ops.inkernel import find_request, locked, plan_in_kernel
from onebay.ops.journal import FILE_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from onebay.base.event import Report
    from onebay.block import FileVolume, Volume
    from onebay.ops.inkernel import Request
    from onebay.ops.run import Plan

MAX_KEY = 8 << 20  # bytes; cryptsetup's own limit

key_option = click.option(
    "--key-file", type=PATH, help="Opens LUKS on the last partition, so that what is in it grows as well."
)
journal_option = click.option(
    "--journal", type=PATH, metavar="FILE", help="Keep the journal in FILE, not at the disk's end."
)


def foresee(plan: Plan, key: bytes = b"") -> None:
    """Say in a plan of growth what a kernel will do once it is carried out."""
    after = plan.after or plan.disk
    request = find_request(after, key)
    tell_locked(plan, after, key)
    if request is not None:
        plan.notes = without(plan.notes, request)
        plan.notes.append(f"a small virtual machine will grow the {request.kind} on {request.name}")


def without(notes: list[str], request: Request) -> list[str]:
    """Leave out what a plan said of a file system that only a kernel grows."""
    return [note for note in notes if not note.startswith(f"{request.kind} on {request.name} stays")]


def tell_locked(plan: Plan, after: Volume, key: bytes) -> None:
    """Name the command for what has more room inside LUKS now, and no key to use it."""
    name = locked(after) if plan.steps and not key else None
    if name is not None:
        plan.notes.append(
            f"what is inside LUKS on {name} keeps its size: "
            f"onebay grow --key-file KEY --journal FILE {plan.disk.name} grows it"
        )


def read_key(path: Path) -> bytes:
    """Return the content of a key file as cryptsetup takes it; raises Refused for none or a long one."""
    try:
        with path.open("rb") as file:
            key = file.read(MAX_KEY + 1)
    except OSError as error:
        raise Refused(reason(error), volume=str(path)) from error
    if not 0 < len(key) <= MAX_KEY:
        raise Refused("no key file", volume=str(path), expected=f"1 to {MAX_KEY} bytes", found=len(key))
    return key


def grow_inside(
    disk: FileVolume,
    plan: Plan,
    *,
    cache: Path,
    key: bytes = b"",
    store: Volume | None = None,
    yes: bool = True,
    report: Report,
) -> bool:
    """Let a kernel grow what is left on `disk` after `plan`, and return whether anything was written.

    Without a `key` a lack of tools is a note of the plan; with one it is an error.
    """
    from onebay.machine.growth import worker_kernel  # noqa: PLC0415 - a rescue has no virtual machines

    request = find_request(disk, key)
    tell_locked(plan, disk, key)
    if request is None:
        return False
    try:
        inside = plan_in_kernel(disk, request, worker_kernel(cache, report=report))
    except ToolFailed as error:
        if key:
            raise
        hint = f" ({error.hint})" if error.hint else ""
        plan.notes.append(f"no virtual machine could grow it: {error}{hint}")
        return False
    plan.notes = without(plan.notes, request)
    if inside.steps:
        confirm(disk, f"grow the {request.kind} on", yes=yes)
        grow(disk, plan=inside, store=store, report=report)
    return bool(inside.steps)


def open_journal(path: Path) -> FileVolume:
    """Open a journal file, or make one: sparse, so that only what is journaled takes space."""
    check_place(path)
    if not path.exists():
        return create_disk(path.absolute(), FILE_SIZE)
    store = open_disk(path.absolute(), writable=True)
    if store.size != FILE_SIZE:
        store.close()
        raise Refused("exists already and is no journal", volume=str(path))
    return store
