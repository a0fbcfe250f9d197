"""From frames to bytes of the disk: workers decode, order is kept, memory is a few units."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from onebay.base.error import BadChecksum
from onebay.image.codec import Zeros, decompressor, unpack
from onebay.image.record import Packed, State

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


class Decoded(NamedTuple):
    """`size` bytes of the disk from byte `at`; `content` is None where all are zero or do not matter."""

    number: int
    at: int
    size: int
    state: State
    content: bytes | None


class Decoder:
    """Decodes frames of one image. `check` also compares with the content's SHA-256, where that is known."""

    def __init__(self, name: str, *, zeros: Zeros | None = None, check: bool = False) -> None:
        self.name, self.check = name, check
        self.zeros = zeros or Zeros()
        self.local = threading.local()

    def data(self, packed: Packed) -> Decoded:
        """Decode a data frame, in any thread; raises Damaged."""
        codec = getattr(self.local, "codec", None)
        if codec is None:
            codec = self.local.codec = decompressor()
        content = unpack(packed.stored, packed.size, f"{self.name}: frame {packed.number}", codec)
        if self.check and packed.content_sha:
            self.compare(packed, sha256(content).digest())
        return Decoded(*packed[:4], content)

    def zero(self, packed: Packed) -> Decoded:
        """Check a frame of zeros, in one thread; raises Damaged."""
        if packed.stored:
            self.zeros.check(packed.stored, packed.size, f"{self.name}: frame {packed.number}")
        if self.check and packed.content_sha:
            self.compare(packed, self.zeros.content_sha(packed.size))
        return Decoded(*packed[:4], None)

    def one(self, packed: Packed) -> Decoded:
        """Decode any frame."""
        return self.data(packed) if packed.state == State.DATA else self.zero(packed)

    def compare(self, packed: Packed, found: bytes) -> None:
        """Raise BadChecksum where the content is not what the index says."""
        if found != packed.content_sha:
            raise BadChecksum(
                f"content of frame {packed.number}",
                volume=self.name,
                expected=packed.content_sha,
                found=found,
            )


def decode_parallel(
    frames: Iterable[Packed], name: str, *, threads: int = 2, check: bool = False, zeros: Zeros | None = None
) -> Generator[Decoded]:
    """Yield `frames` decoded, in their order; raises Damaged as soon as the bad frame's turn comes.

    `frames` is read in the caller's thread. Memory: about `4 * threads` units, besides what `frames` holds.
    Who stops before the end closes it (`contextlib.closing`), so that its threads end there and then.
    """
    decoder = Decoder(name, zeros=zeros, check=check)
    pending: deque[Future[Decoded] | Decoded] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for packed in frames:
            if packed.state == State.DATA:
                pending.append(pool.submit(decoder.data, packed))
            else:
                pending.append(decoder.zero(packed))
            while len(pending) > 2 * threads:
                yield finished(pending.popleft())
        while pending:
            yield finished(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def finished(item: Future[Decoded] | Decoded) -> Decoded:
    """Wait for a worker."""
    return item if isinstance(item, Decoded) else item.result()
