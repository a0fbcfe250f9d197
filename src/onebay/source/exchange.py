"""One HTTP request and its answer: connection, redirects, status codes as errors.

Source: RFC 9110 sections 14 (Range) and 15 (status codes). Standard library only, because this runs in the
rescue system. Proxies, cookies and authentication other than Basic are not supported.
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from onebay.base.error import Corrupt, Denied, Missing, SourceError, Transient, Unsupported

REDIRECTS = 10
MOVED = frozenset((301, 302, 303, 307, 308))
TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))
LONGEST_PAUSE = 60.0
SAFE = "/%:@!$&'()*+,;=~-._?"


class Version(NamedTuple):
    """What identifies the bytes behind a URL; another one means other bytes."""

    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """Value for If-Range: a strong entity tag (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and self.etag.startswith('"') else None


def version_of(response: http.client.HTTPResponse) -> Version:
    """Return the version that an answer speaks of."""
    return Version(response.headers.get("ETag"), response.headers.get("Last-Modified"))


class Busy(Transient):
    """The server asks us to come back `after` seconds."""

    after = 0.0


class Exchange:
    """Requests to one URL over one connection that is kept; `timeout` is in seconds. For one thread."""

    def __init__(self, url: str, *, timeout: float, context: ssl.SSLContext | None) -> None:
        self.origin, self.auth = parse_url(url)
        self.place = self.origin
        # A query may hold a signature that nobody else should see.
        self.name = f"{self.origin.scheme}://{self.origin.netloc}{self.origin.path}"
        self.timeout, self.context = timeout, context
        self.connection: http.client.HTTPConnection | None = None
        self.response: http.client.HTTPResponse | None = None

    def get(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send GET and return an answer of status 200, 206 or 416 whose body is due; raises SourceError."""
        resolved = False
        for _ in range(REDIRECTS):
            response = self.send(headers)
            if response.status in MOVED:
                self.redirect(response)
            elif response.status in (401, 403, 404, 410) and self.place != self.origin and not resolved:
                # Where we were sent to is often good for some minutes only.
                resolved = True
                self.drop()
                self.place = self.origin
            else:
                self.judge(response)
                return response
        raise SourceError("too many redirects", volume=self.name, found=f"> {REDIRECTS}")

    def send(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send GET to where the object is now and return any answer; raises Transient, Denied, Missing."""
        if self.response is not None and not self.response.isclosed():
            self.drop()  # the rest of an answer that nobody read
        if self.connection is None:
            self.connection = self.connect()
        sent = {"User-Agent": "onebay", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        if self.auth and self.place[:2] == self.origin[:2]:
            sent["Authorization"] = self.auth
        try:
            self.connection.request("GET", self.target(), headers=sent)
            self.response = self.connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self.broken(error) from error
        return self.response

    def target(self) -> str:
        """Return what a request asks for on its server."""
        path = self.place.path or "/"
        return quote(f"{path}?{self.place.query}" if self.place.query else path, safe=SAFE)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that opens itself at the first request."""
        host = self.place.hostname or ""
        if self.place.scheme == "https":
            context = self.context or ssl.create_default_context()
            return http.client.HTTPSConnection(host, self.place.port, timeout=self.timeout, context=context)
        return http.client.HTTPConnection(host, self.place.port, timeout=self.timeout)

    def redirect(self, response: http.client.HTTPResponse) -> None:
        """Go where the answer points; raises SourceError where that is nowhere, or less safe."""
        where = response.headers.get("Location")
        self.drop()
        if not where:
            raise SourceError("redirected to nowhere", volume=self.name, found=response.status)
        try:
            place, _ = parse_url(urljoin(self.place.geturl(), where))
        except ValueError as error:
            raise SourceError("redirected to nowhere", volume=self.name, found=where) from error
        if self.place.scheme == "https" and place.scheme != "https":
            raise SourceError("redirected from https to http", volume=self.name, found=place.netloc)
        self.place = place

    def judge(self, response: http.client.HTTPResponse) -> None:
        """Raise what a status means; return where it is 200, 206 or 416."""
        status = response.status
        text = f"the server answers {status} {response.reason}".rstrip()
        if status in (200, 206, 416):
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise Corrupt("the server changes the bytes (Content-Encoding)", volume=self.name)
            return
        wanted = response.headers.get("Retry-After", "")
        self.drop()
        if status in TRANSIENT:
            busy = Busy(text, volume=self.name)
            busy.after = min(LONGEST_PAUSE, float(wanted)) if wanted.isdecimal() else 0.0
            raise busy
        if status in (401, 403, 407):
            raise Denied(text, volume=self.name)
        if status in (404, 410):
            raise Missing(text, volume=self.name)
        raise SourceError(text, volume=self.name)

    def broken(self, error: Exception) -> SourceError:
        """Translate the failure of a connection; closes it."""
        self.drop()
        if isinstance(error, ssl.SSLCertVerificationError):
            return Denied(f"the server's certificate: {error.verify_message}", volume=self.name)
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
            return Missing("no such host", volume=self.name)
        if isinstance(error, UnicodeError | http.client.InvalidURL):
            return Missing(f"not a usable address: {error}", volume=self.name)
        return Transient(f"connection: {error or type(error).__name__}", volume=self.name)

    def drop(self) -> None:
        """Close the connection; the next request opens another one."""
        if self.response is not None:
            self.response.close()
        if self.connection is not None:
            self.connection.close()
        self.connection = self.response = None


def parse_url(url: str) -> tuple[SplitResult, str | None]:
    """Return a URL without credentials, and the Authorization header they ask for; raises Unsupported."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Unsupported(f"not a usable address: {error}", volume=url.partition("?")[0]) from error
    if parts.scheme not in ("http", "https") or not host:
        raise Unsupported("not an http or https address", volume=url.partition("?")[0])
    auth = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        auth = "Basic " + base64.b64encode(pair.encode()).decode()
    netloc = f"[{host}]" if ":" in host else host
    netloc += f":{port}" if port else ""
    return SplitResult(parts.scheme, netloc, parts.path, parts.query, ""), auth
