"""From units to frames: workers compress and hash, order is kept, memory is a few units."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from onebay.image.codec import Zeros, compressor
from onebay.image.plan import Part, Run, read_part
from onebay.image.record import MAX_SHIFT, UNIT, State

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    import zstandard

    from onebay.block.volume import Volume


class Made(NamedTuple):
    """A finished frame of `size` bytes of the disk, `shift` as in the index."""

    state: State
    shift: int
    size: int
    stored: bytes
    stored_sha: bytes
    content_sha: bytes


class Encoder:
    """Turns a plan into frames, `threads` at a time; one reader, which is the caller's thread."""

    def __init__(self, volume: Volume, *, level: int, threads: int, read: Callable[[int], None]) -> None:
        self.volume, self.level, self.threads, self.read = volume, level, threads, read
        self.zeros = Zeros()
        self.local = threading.local()
        self.units = -(-volume.size // UNIT)
        self.tail = volume.size % UNIT

    def codec(self) -> zstandard.ZstdCompressor:
        """Return this thread's compressor."""
        found: zstandard.ZstdCompressor | None = getattr(self.local, "codec", None)
        if found is None:
            found = self.local.codec = compressor(self.level)
        return found

    def encode(self, unit: int, data: bytes | bytearray) -> Made | Run:
        """Compress one unit, in a worker; a unit of zeros becomes a run."""
        if data == (self.zeros.unit if len(data) == UNIT else bytes(len(data))):
            return Run(State.ZERO, unit, unit + 1)
        stored = self.codec().compress(data)
        return Made(State.DATA, 0, len(data), stored, sha256(stored).digest(), sha256(data).digest())

    def ordered(self, plan: Iterable[Run | Part]) -> Iterator[Made | Run]:
        """Yield runs as they are and units encoded, in disk order."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="encode")
        pending: deque[Future[Made | Run] | Run] = deque()
        try:
            for item in plan:
                if isinstance(item, Run):
                    pending.append(item)
                else:
                    data = read_part(self.volume, item)
                    self.read(sum(end - start for start, end in item.ranges))
                    pending.append(pool.submit(self.encode, item.unit, data))
                    del data
                while len(pending) > 2 * self.threads:
                    yield done(pending.popleft())
            while pending:
                yield done(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def frames(self, plan: Iterable[Run | Part]) -> Generator[Made]:
        """Yield all frames of the image; neighbouring runs of one state become few large frames."""
        state, first, end = State.ZERO, 0, 0
        for item in self.ordered(plan):
            if isinstance(item, Run):
                if item.state == state and item.first == end:
                    end = item.end
                    continue
                yield from self.zero_frames(state, first, end)
                state, first, end = item
            else:
                yield from self.zero_frames(state, first, end)
                first = end = -1
                yield item
        yield from self.zero_frames(state, first, end)

    def zero_frames(self, state: State, first: int, end: int) -> Iterator[Made]:
        """Yield frames for units `first..end`; unit 0 and a short last unit have their own."""
        while first < end:
            whole = end - first - (end == self.units and self.tail != 0)
            if first == 0 and whole:
                whole = 1
            shift = min(MAX_SHIFT, max(whole, 1).bit_length() - 1)
            size = UNIT << shift if whole else self.tail
            stored, stored_sha, content_sha = self.zeros.make(size)
            yield Made(state, shift, size, stored, stored_sha, content_sha)
            first += 1 << shift


def done(item: Future[Made | Run] | Run) -> Made | Run:
    """Wait for a worker."""
    return item if isinstance(item, Run) else item.result()
