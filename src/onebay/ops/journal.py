"""A redo journal for the few writes that no order makes safe: metadata that is rewritten in place.

The new bytes, and the old ones they replace, are written first into space that nobody uses, at the end of the
disk (or into a file); one sector makes them count; only then are they written to their places, and that
sector is erased. After a power cut the journal is written out again from the first byte to the last. It is
applied only where every sector still holds its old or its new content: whoever used the disk in between made
the journal stale, and it must not undo their work. Old content everywhere is not enough: whoever put an image
back took away what the changes stand on, such as the new block groups of a file system. So what the same
change wrote before, without the journal, must still be there too.

The journal is found by the size of the disk, and by a mark (ops/journalmark.py) where the disk became larger
since. A journal in a file belongs to the disk whose mark has the digest of its head, and to no other: without
such a mark on a disk nothing waits there, and the file is neither written out, nor used again, nor cleared.

    head   one sector at the last whole MiB of the disk but two: HEAD, zeros to the end of the sector
    body   ends where the head begins: for each write `at` (8), `size` (4), old bytes, new bytes; then for
           each extent that must be there `at` (8), `size` (4), SHA-256 of its content
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, NamedTuple

from onebay.base.error import Refused
from onebay.base.extent import Extent, ExtentSet
from onebay.base.record import Layout
from onebay.block import Overlay
from onebay.ops.journalmark import find_mark, free_place, pack_mark, pack_settled, places
from onebay.ops.run import on_failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onebay.base.step import Write
    from onebay.block import Volume
    from onebay.ops.journalmark import Mark

MIB = 1 << 20
MAGIC = b"1BYJRNL1"
SECTOR = 512  # what a power cut leaves whole, on disks of 4096 bytes too
MAX_BODY = 256 * MIB
# What copies of a boot kit leave free before the head; a larger body is refused where a copy is in its way.
ROOM = 32 * MIB
BEHIND = 2 * MIB  # from the head to the end of the store: a backup GPT, and what grows into less than a MiB
FILE_SIZE = MAX_BODY + BEHIND + MIB  # of a journal in a file of its own
DROP = "have its file system checked, then run onebay grow --drop-journal"
ENTRY = struct.Struct("<QI")
DIGEST = 32
CHUNK = 1 << 20


@dataclass(frozen=True)
class Head:
    """Makes the body count: `body_sha` covers it, `head_sha` the fields before."""

    magic: Annotated[bytes, "8s"]
    disk_size: Annotated[int, "Q"]
    body_size: Annotated[int, "Q"]
    count: Annotated[int, "I"]
    witnesses: Annotated[int, "I"]
    body_sha: Annotated[bytes, "32s"]
    head_sha: Annotated[bytes, "32s"]


HEAD = Layout(Head, order="<", size=96)


class Change(NamedTuple):
    """`old` bytes at byte `at` of the disk become `new` ones, of the same length."""

    at: int
    old: bytes
    new: bytes


class Witness(NamedTuple):
    """`size` bytes at byte `at` of the disk must have this SHA-256, or the changes stand on nothing."""

    at: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Redo:
    """What a journal says that counts."""

    changes: list[Change]
    witnesses: list[Witness]


def body_size(writes: Iterable[Write], witnesses: int = 0) -> int:
    """Bytes that the body for these writes takes, with so many extents that must be there."""
    return sum(ENTRY.size + 2 * write.size for write in writes) + witnesses * (ENTRY.size + DIGEST)


class Journal:
    """The journal of `disk`, on the disk itself or on another volume `store`, which may be a file."""

    def __init__(self, disk: Volume, store: Volume | None = None) -> None:
        self.disk = disk
        self.store = store or disk
        self.head_at = place(self.store)

    def room(self, size: int) -> Extent:
        """Return the bytes of the store that a body of `size` bytes and the head take."""
        return Extent(self.head_at - -(-size // MIB) * MIB, self.head_at + self.store.sector_size)

    @property
    def in_file(self) -> bool:
        """Whether the journal is not on the disk itself."""
        return self.store is not self.disk

    def mark_place(self, taken: ExtentSet, after: Volume | None = None) -> int | None:
        """Return where the mark would stand on the disk, away from the bytes `taken`, or None.

        It would be found on `after` as well.
        """
        return free_place(self.disk, taken, after)

    def commit(self, writes: Sequence[Write], before: ExtentSet | None = None) -> None:
        """Write the journal; when this returns, `writes` will reach the disk whatever happens.

        `before` is what the same change wrote already. Raises Refused where the body does not fit, where the
        file holds a change of another disk, or where the disk has no place to say that there is a file.
        """
        self.refuse_foreign()
        self.tidy()
        changes = [Change(write.at, self.disk.read(write.at, write.size), write.data) for write in writes]
        body = b"".join(
            ENTRY.pack(change.at, len(change.new)) + change.old + change.new for change in changes
        )
        fresh = ExtentSet.of((write.at, write.at + write.size) for write in writes)
        stands_on = [self.witness(*extent) for extent in (before or ExtentSet()) - fresh]
        body += b"".join(ENTRY.pack(one.at, one.size) + one.digest for one in stands_on)
        room = self.room(len(body))
        if room.start < 0 or len(body) > MAX_BODY:
            raise Refused("the journal does not fit", volume=self.store.name, found=len(body))
        mark_at = self.mark_place(fresh | (before or ExtentSet()), self.outcome(writes))
        if mark_at is None and self.in_file:
            raise no_mark(self.disk)
        head = Head(
            MAGIC, self.disk.size, len(body), len(changes), len(stands_on), sha256(body).digest(), bytes(32)
        )
        packed = HEAD.pack(head)
        packed = packed[:-32] + sha256(packed[:-32]).digest()
        self.disk.flush()
        if self.in_file:
            self.leave_mark(mark_at, packed[-32:], settled=True)
        self.store.write(self.head_at - len(body), body)
        self.store.flush()
        self.store.write(self.head_at, packed.ljust(self.store.sector_size, b"\0"))
        self.store.flush()
        self.leave_mark(mark_at, packed[-32:])

    def outcome(self, writes: Sequence[Write]) -> Volume:
        """Return the start of the disk, where marks are, as `writes` will leave it."""
        end = max(places(self.disk), default=0)
        after = Overlay(self.disk)
        for write in writes:
            if write.at < end:
                after.write(write.at, write.data[: end - write.at])
        return after

    def leave_mark(self, at: int | None, head_sha: bytes, *, settled: bool = False) -> None:
        """Say on the disk where its journal is, if there is a place for that."""
        if at is not None:
            file = self.store.name if self.in_file else None
            self.disk.write(at, pack_mark(self.disk, self.head_at, head_sha, file, settled=settled))
            self.disk.flush()

    def refuse_foreign(self) -> None:
        """Raise Refused where the journal's file holds a change that this disk's mark does not lead to."""
        head = read_head(self.store, self.head_at) if self.in_file else None
        found = find_mark(self.disk)
        if head is not None and (found is None or not leads_to(found[1], head)):
            raise Refused(
                f"holds an interrupted change of another disk, of {head.disk_size} bytes",
                volume=self.store.name,
                hint="name another file; remove this one only if no disk waits for it",
            )

    def tidy(self) -> None:
        """Clear what a cut left of a journal in a file for which nothing waits."""
        if self.settled():
            self.disk.recheck()
            self.erase()

    def settled(self) -> bool:
        """Whether the disk has a mark that says that nothing waits."""
        found = find_mark(self.disk)
        return found is not None and found[1].settled

    def witness(self, start: int, end: int) -> Witness:
        """Return what the bytes `start..end` of the disk hold now."""
        hashed = sha256()
        for at in range(start, end, CHUNK):
            hashed.update(self.disk.read(at, min(CHUNK, end - at)))
        return Witness(start, end - start, hashed.digest())

    def pending(self) -> Redo | None:
        """Return the content of a journal that counts, or None; one that is torn never counted.

        Raises Refused where the disk says that a change waits, and its journal is in a file that was not
        given, or is gone.
        """
        found = find_mark(self.disk)
        if found is not None and not found[1].settled:
            return self.marked(found[1])
        head = read_head(self.disk, place(self.disk))
        if head is None or head.disk_size != self.disk.size:
            return None
        return read_body(self.disk, place(self.disk), head)

    def marked(self, mark: Mark) -> Redo:
        """Return the content of the journal that the mark leads to; raises Refused."""
        name = self.disk.name
        if mark.in_file and self.store is self.disk:
            raise Refused(
                "a change of the disk was interrupted, and its journal is in a file",
                volume=name,
                found=mark.file,
                hint=f"onebay grow DISK --journal {mark.file}",
            )
        if self.disk.size < mark.disk_size:
            raise Refused(
                "the disk became smaller after a change of it was interrupted",
                volume=name,
                expected=mark.disk_size,
                found=self.disk.size,
                hint="give it its old size again",
            )
        store = self.store if mark.in_file else self.disk
        head = read_head(store, mark.head_at)
        redo = read_body(store, mark.head_at, head) if head and leads_to(mark, head) else None
        if redo is None:
            raise Refused(
                "a change of the disk was interrupted, and this is not its journal"
                if mark.in_file
                else "a change of the disk was interrupted, and its journal is gone",
                volume=store.name,
                at=mark.head_at,
                hint=f"its journal was in {mark.file}; else {DROP}" if mark.in_file else DROP,
            )
        return redo

    def traces(self) -> bool:
        """Whether anything on the disk says that a change of it was interrupted."""
        return find_mark(self.disk) is not None or read_head(self.disk, place(self.disk)) is not None

    def replay(self, redo: Redo) -> None:
        """Write the changes out again; raises Refused where the disk was used since, and writes nothing."""
        for change in redo.changes:
            found = self.disk.read(change.at, len(change.new))
            for at in range(0, len(found), SECTOR):
                end = at + SECTOR
                if found[at:end] not in (change.old[at:end], change.new[at:end]):
                    raise self.stale(change.at + at)
        for witness in redo.witnesses:
            if self.witness(witness.at, witness.at + witness.size) != witness:
                raise self.stale(witness.at)
        self.disk.recheck()
        state = "an interrupted change is completed in part; run the same command again"
        with on_failure(state, self.disk.name):
            for change in redo.changes:
                self.disk.write(change.at, change.new)
            self.disk.flush()
            self.erase()

    def stale(self, at: int) -> Refused:
        """Return the refusal of a journal that the disk went past."""
        return Refused(
            "an interrupted change cannot be completed: the disk was changed since",
            volume=self.disk.name,
            at=at,
            hint=DROP,
        )

    def erase(self) -> None:
        """Make the journal not count any more: the mark first, then the head, if it is this disk's."""
        found = find_mark(self.disk)
        if found is not None:
            at, mark = found
            if mark.in_file and self.in_file:
                self.disk.write(at, pack_settled(mark, self.disk))
                self.disk.flush()
                head = read_head(self.store, mark.head_at)
                if head is not None and leads_to(mark, head):
                    clear(self.store, mark.head_at)
            clear(self.disk, at)
            if not mark.in_file and read_head(self.disk, mark.head_at) is not None:
                clear(self.disk, mark.head_at)
        if read_head(self.disk, place(self.disk)) is not None:
            clear(self.disk, place(self.disk))


def clear(volume: Volume, at: int) -> None:
    """Make a sector zeros, for good."""
    volume.write(at, bytes(volume.sector_size))
    volume.flush()


def leads_to(mark: Mark, head: Head) -> bool:
    """Whether a mark is that of the journal with this head."""
    return mark.head_sha == head.head_sha


def no_mark(disk: Volume) -> Refused:
    """Return the refusal of a journal in a file that nothing on the disk could tell of.

    Cut short and run again without the file, the change would be half done, and nobody would know.
    """
    return Refused(
        "no free sector before the first partition, to say on the disk that its journal is in a file",
        volume=disk.name,
        hint="leave --journal out",
    )


def place(store: Volume) -> int:
    """Return the byte at which the head is on a disk or in a file of this size."""
    return max(0, (store.size - BEHIND) // MIB) * MIB


def read_head(store: Volume, at: int) -> Head | None:
    """Return the head at byte `at`, or None; whether its body is whole is not looked at."""
    if at + HEAD.size > store.size:
        return None
    raw = store.read(at, HEAD.size)
    head = HEAD.unpack(raw)
    if head.magic != MAGIC or head.head_sha != sha256(raw[:-32]).digest():
        return None
    return head if head.body_size <= min(MAX_BODY, at) else None


def read_body(store: Volume, at: int, head: Head) -> Redo | None:
    """Return the content of the journal whose head is at byte `at`; None where it is torn."""
    body = store.read(at - head.body_size, head.body_size)
    return parse_body(body, head) if sha256(body).digest() == head.body_sha else None


def refuse_pending(disk: Volume) -> None:
    """Raise Refused where an interrupted change of `disk` waits in its journal to be completed."""
    if Journal(disk).pending() is not None:
        raise Refused(
            "a change of the disk was interrupted and must be completed first",
            volume=disk.name,
            hint="run the interrupted command again, or onebay grow",
        )


def parse_body(body: bytes, head: Head) -> Redo | None:
    """Return what a body whose digest was right holds; None where it does not add up."""
    redo = Redo([], [])
    at = 0
    for number in range(head.count + head.witnesses):
        if at + ENTRY.size > len(body):
            return None
        where, size = ENTRY.unpack_from(body, at)
        start = at + ENTRY.size
        if number < head.count:
            at = start + 2 * size
            redo.changes.append(Change(where, body[start : start + size], body[start + size : at]))
        else:
            at = start + DIGEST
            redo.witnesses.append(Witness(where, size, body[start:at]))
    return redo if at == len(body) else None
