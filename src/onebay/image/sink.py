"""Where an image goes: a file that gets its name when it is whole, or a stream that has its end last.

So a capture cut short never looks like an image: a file does not appear, a stream lacks the index.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onebay.base.error import NOTHING_WRITTEN, Refused
from onebay.base.newfile import hidden_name, put_in_place
from onebay.block.file import open_error, write_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Sink:
    """The file being written, hidden beside its target until `commit`; `at` is its length in bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = hidden_name(path)
        self.fd = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.at = 0

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Translate failures of the medium that is written to; raises Refused."""
        try:
            yield
        except OSError as error:
            failure = write_error(str(self.path), self.at, error)
            failure.state = f"{NOTHING_WRITTEN} to the disk; the unfinished image was removed"
            raise failure from error

    def write(self, *parts: bytes) -> None:
        """Append all of `parts`; raises Refused."""
        queue = [memoryview(part) for part in parts if part]
        with self.guard():
            while queue:
                got = os.writev(self.fd, queue)
                self.at += got
                while queue and got >= len(queue[0]):
                    got -= len(queue.pop(0))
                if got:
                    queue[0] = queue[0][got:]

    def commit(self) -> None:
        """Make the file whole and give it its name, durably; raises Refused."""
        with self.guard():
            os.fsync(self.fd)
            put_in_place(self.part, self.path, replace=True)

    def close(self) -> None:
        """Close the file, and remove it where it was not committed."""
        os.close(self.fd)
        self.part.unlink(missing_ok=True)


class StreamSink:
    """Bytes that go out by `push` as they come; `finish` is called after the last. `at` is in bytes."""

    def __init__(
        self, name: str, push: Callable[[bytes], None], finish: Callable[[], None] = lambda: None
    ) -> None:
        self.name, self.push, self.finish = name, push, finish
        self.at = 0

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Translate failures to write; raises Refused."""
        try:
            yield
        except OSError as error:
            raise write_error(self.name, self.at, error) from error

    def write(self, *parts: bytes) -> None:
        """Send all of `parts`; raises Refused, and what `push` raises."""
        with self.guard():
            for part in parts:
                self.push(part)
                self.at += len(part)


@contextmanager
def sink(place: Path | StreamSink) -> Iterator[Sink | StreamSink]:
    """Open a file that becomes `place` only where the block ends well; raises Refused, Missing or Denied.

    A stream is ended there.
    """
    if isinstance(place, StreamSink):
        yield place
        with place.guard():
            place.finish()
        return
    with file_sink(place) as out:
        yield out


@contextmanager
def file_sink(path: Path) -> Iterator[Sink]:
    """Open a file that becomes `path` only where the block ends well; raises Refused, Missing or Denied."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refused("not an ordinary file", volume=str(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise open_error(str(path), error) from error
    try:
        out = Sink(path)
    except OSError as error:
        raise open_error(str(path), error) from error
    try:
        yield out
        out.commit()
    finally:
        out.close()
