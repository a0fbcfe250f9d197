"""An object written to a URL by HTTP PUT, as it comes: its size is not known before its end.

Source: RFC 9112, 7.1 (chunked transfer coding). Nothing is retried, because what was sent is gone; redirects
are not followed, because the body is on its way when their answer comes. A server that wants the length first
(S3 does) refuses.
"""

from __future__ import annotations

import http.client
from contextlib import suppress
from typing import TYPE_CHECKING

from onebay.base.error import Denied, Missing, SourceError
from onebay.source.exchange import MOVED, Exchange

if TYPE_CHECKING:
    import ssl

PUT = (200, 201, 204)
LAST_WORD = 5.0  # seconds to wait for the answer of a server that reads no further


class HttpPut:
    """A PUT under way; `timeout` is in seconds. Raises SourceError, Unsupported for no http or https URL.

    Unless it may `replace`, the server is told to refuse where the object exists (RFC 9110, 13.1.2).
    """

    def __init__(
        self,
        url: str,
        *,
        replace: bool = False,
        timeout: float = 60.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.wire = Exchange(url, timeout=timeout, context=context)
        self.name = self.wire.name
        self.connection = self.wire.connection = self.wire.connect()
        try:
            self.connection.putrequest("PUT", self.wire.target(), skip_accept_encoding=True)
            self.connection.putheader("User-Agent", "onebay")
            self.connection.putheader("Content-Type", "application/zstd")
            self.connection.putheader("Transfer-Encoding", "chunked")
            if not replace:
                self.connection.putheader("If-None-Match", "*")
            if self.wire.auth:
                self.connection.putheader("Authorization", self.wire.auth)
            self.connection.endheaders()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self.wire.broken(error) from error

    def push(self, data: bytes | memoryview) -> None:
        """Send more bytes; raises SourceError, with the server's answer where it gave one already."""
        if not len(data):
            return  # it would be the mark of the end
        try:
            self.connection.send(b"%x\r\n" % len(data))
            self.connection.send(data)
            self.connection.send(b"\r\n")
        except OSError as error:
            self.heed_early()
            raise self.wire.broken(error) from error

    def heed_early(self) -> None:
        """Raise what a server answered before it had everything, if it did."""
        if self.connection.sock is not None:
            with suppress(OSError):
                self.connection.sock.settimeout(LAST_WORD)
        try:
            answer = self.connection.getresponse()
        except (OSError, http.client.HTTPException):
            return
        raise self.judged(answer) or SourceError("the server stopped reading", volume=self.name)

    def finish(self) -> None:
        """Send the end and have the server confirm that it has everything; raises SourceError."""
        try:
            self.connection.send(b"0\r\n\r\n")
            answer = self.connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.heed_early()
            raise self.wire.broken(error) from error
        if failure := self.judged(answer):
            raise failure

    def judged(self, answer: http.client.HTTPResponse) -> SourceError | None:
        """Return what an answer means where it is no success."""
        if answer.status in PUT:
            return None
        text = f"the server answers {answer.status} {answer.reason}".rstrip()
        if answer.status == 412:
            return SourceError(
                "exists already", volume=self.name, hint="another name, or --yes to replace it"
            )
        if answer.status in (401, 403, 407):
            return Denied(text, volume=self.name)
        if answer.status in (404, 410):
            return Missing(text, volume=self.name)
        hint = None
        if answer.status in MOVED:
            hint = "give the address that it redirects to"
        elif answer.status in (411, 501):
            hint = "it wants to know the length first; capture to a file and send that"
        return SourceError(text, volume=self.name, hint=hint)

    def close(self) -> None:
        """Close the connection; without `finish` the server sees that it has not everything."""
        self.wire.drop()
