"""An image behind an HTTP or HTTPS URL, read in ranges where the server has them.

Source: RFC 9110 sections 13.1.5 (If-Range) and 14 (Range).
"""

from __future__ import annotations

import http.client
import re
import time
from typing import TYPE_CHECKING

from onebay.base.error import Corrupt, Error, Transient
from onebay.base.event import Noted, silent
from onebay.source.exchange import LONGEST_PAUSE, Busy, Exchange, Version, version_of
from onebay.source.origin import PIECE, check_inside, not_seekable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from onebay.base.event import Report

MOST_BACK_OFF = 15.0  # seconds; after an outage the server is asked again that soon
CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})")


class HttpSource:
    """An object behind a URL; `timeout` and `pause` (before the second retry, then doubled) are in seconds.

    Transient failures are retried from the byte where they happened: up to `attempts` times without progress,
    or for `patience` seconds where that is given. Of a server that is waited for, `report` hears once. Every
    answer must be of the version that the first one had; another one is Corrupt. For one thread.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        attempts: int = 6,
        pause: float = 0.5,
        patience: float | None = None,
        context: ssl.SSLContext | None = None,
        report: Report = silent,
    ) -> None:
        self.wire = Exchange(url, timeout=timeout, context=context)
        self.name = self.wire.name
        self.attempts, self.pause, self.patience = attempts, pause, patience
        self.report = report
        self.since, self.waiting = 0.0, False
        self.version = Version(None, None)
        self.size: int | None = None
        self.seekable = False
        try:
            self.learn()
        except Error:
            self.close()
            raise

    def learn(self) -> None:
        """Ask for the first byte: the answer tells size and version, and whether there are ranges."""
        tries = 0
        while True:
            try:
                response = self.wire.get({"Range": "bytes=0-0"})
                break
            except Transient as error:
                tries = self.wait(error, tries)
        self.version = version_of(response)
        if response.status == 200:
            self.size = response.length
        else:
            match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not match or (response.status == 206 and match[1] != "0"):
                raise Corrupt("the server answers without a usable range", volume=self.name)
            self.size, self.seekable = int(match[3]), True
        self.answered()
        self.finish(response)

    def finish(self, response: http.client.HTTPResponse) -> None:
        """Keep the connection where at most a byte of the answer is left to read, else close it."""
        try:
            if response.length is None or response.length > 1:
                self.wire.drop()
            else:
                response.read()
        except (OSError, http.client.HTTPException):
            self.wire.drop()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes; raises Truncated beyond the end, Unsupported, SourceError."""
        if not self.seekable or self.size is None:
            raise not_seekable(self.name)
        check_inside(self.name, self.size, offset, length)
        out = bytearray()
        tries = 0
        while len(out) < length:
            before = len(out)
            try:
                for piece in self.ranged(offset + before, offset + length):
                    out += piece
            except Transient as error:
                tries = self.wait(error, 0 if len(out) > before else tries)
        return bytes(out)

    def stream(self, offset: int = 0) -> Iterator[bytes]:
        """Yield all bytes from byte `offset` on; a server without ranges is read again from its start.

        Raises SourceError; Transient also where nothing tells whether a second answer is the same object.
        """
        if self.size is not None:
            check_inside(self.name, self.size, offset, 0)
        at, tries = offset, 0
        while self.size is None or at < self.size:
            before = at
            try:
                for piece in self.rest(at):
                    at += len(piece)
                    yield piece
                if self.size is None:
                    return
            except Transient as error:
                if at > offset and not self.seekable and self.version == (None, None):
                    raise
                tries = self.wait(error, 0 if at > before else tries)

    def rest(self, at: int) -> Iterator[bytes]:
        """Yield what one request gives from byte `at` on."""
        if self.seekable and self.size is not None:
            yield from self.ranged(at, self.size)
            return
        response = self.wire.get({})
        self.same(response)
        if response.status != 200 or response.length != self.size:
            raise Corrupt("the object changed while it was read", volume=self.name, found=response.status)
        skip = at
        for piece in self.body(response, self.size):
            if skip < len(piece):
                yield piece[skip:]
            skip = max(0, skip - len(piece))

    def ranged(self, start: int, end: int) -> Iterator[bytes]:
        """Yield bytes `start` up to but not including `end`; raises Corrupt where the answer is another."""
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if self.version.validator:
            headers["If-Range"] = self.version.validator
        response = self.wire.get(headers)
        self.same(response)
        told = response.headers.get("Content-Range", "")
        if response.status != 206 or told.replace(" ", "") != f"bytes{start}-{end - 1}/{self.size}":
            self.wire.drop()
            raise Corrupt(
                "the object changed, or the server stopped serving ranges",
                volume=self.name,
                at=start,
                expected=f"206, {start}-{end - 1}/{self.size}",
                found=f"{response.status}, {told or 'no range'}",
            )
        yield from self.body(response, end - start)

    def same(self, response: http.client.HTTPResponse) -> None:
        """Raise Corrupt where an answer is of another version than the first one."""
        found = version_of(response)
        if found != self.version:
            self.wire.drop()
            raise Corrupt(
                "the object changed while it was read",
                volume=self.name,
                expected=self.version.etag or self.version.modified,
                found=found.etag or found.modified or "no version",
            )

    def body(self, response: http.client.HTTPResponse, size: int | None) -> Iterator[bytes]:
        """Yield a body of `size` bytes in pieces; raises Transient where it ends before."""
        got = 0
        while size is None or got < size:
            try:
                piece = response.read1(PIECE if size is None else min(PIECE, size - got))
            except (OSError, http.client.HTTPException) as error:
                raise self.wire.broken(error) from error
            if not piece:
                if size is None:
                    return
                raise Transient("the answer ends early", volume=self.name, expected=size, found=got)
            got += len(piece)
            self.answered()
            yield piece
        self.finish(response)

    def wait(self, error: Transient, tries: int) -> int:
        """Wait before another try and count it; raises `error` where there were enough."""
        self.wire.drop()
        now = time.monotonic()
        if not tries:
            self.since = now
        left = None if self.patience is None else self.since + self.patience - now
        if tries + 1 >= self.attempts if left is None else tries and left <= 0:
            raise error
        # The first failure is often a connection that the server closed while it was idle.
        pause = min(MOST_BACK_OFF, self.pause * 2 ** min(tries - 1, 10)) if tries else 0.0
        after = error.after if isinstance(error, Busy) else 0.0
        pause = min(LONGEST_PAUSE, max(pause, after))
        if tries and not self.waiting:
            self.waiting = True
            self.report(Noted(f"waiting for the server: {error.what}", self.name))
        time.sleep(pause if left is None else min(pause, max(left, 0)))
        return tries + 1

    def answered(self) -> None:
        """Tell that the wait is over, where there was one."""
        if self.waiting:
            self.waiting = False
            self.report(Noted("the server answers again", self.name))

    def close(self) -> None:
        """Close the connection."""
        self.wire.drop()
