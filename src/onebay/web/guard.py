"""What every request passes first and every answer gets last.

A request that changes anything must come from our own page: browsers say so by Origin, which no page can
forge (RFC 6454, Fetch), so no token is needed in forms; SameSite=Strict on the cookie is the second bar. Host
must be an address or a name of ours, so that no foreign name that is made to lead here (DNS rebinding) works.
"""

from __future__ import annotations

import ipaddress
import re
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from onebay.web.access import Access

OPEN = frozenset(("/login", "/onebay.css", "/favicon.svg"))  # what answers without a session
SAFE = ("GET", "HEAD")
MOST_BODY = 64 << 10  # bytes of a form
HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9.-]{1,253}))(?::[0-9]{1,5})?")  # RFC 3986, 3.2.2
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # "no-referrer" would have browsers send "Origin: null" with our own forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """An ASGI application around ours; `names` are host names besides addresses and localhost."""

    def __init__(self, app: ASGIApp, access: Access, *, tls: bool, names: Iterable[str] = ()) -> None:
        self.app, self.access, self.tls = app, access, tls
        self.names = frozenset(("localhost", *(name.lower() for name in names)))
        # the prefix has browsers insist on Secure, Path=/ and no Domain (RFC 6265bis, 4.1.3)
        self.cookie = "__Host-onebay" if tls else "onebay"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # websockets are not ours; lifespan is off

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self.refuse(scope)
        await (refusal or self.app)(scope, receive, dressed)

    def refuse(self, scope: Scope) -> Response | None:
        """Return the answer to a request that gets no further, else None."""
        headers, method = Headers(scope=scope), scope["method"]
        if not self.ours(headers.getlist("host")):
            return PlainTextResponse("the Host of the request is none of ours", 421)
        if method not in (*SAFE, "POST"):
            return PlainTextResponse("method not allowed", 405)
        if method == "POST" and not self.same_origin(headers):
            return PlainTextResponse("the request comes from another site", 403)
        return self.refuse_stranger(scope["path"], headers, method)

    def refuse_stranger(self, path: str, headers: Headers, method: str) -> Response | None:
        """Return the answer to a request without a session, or too long, else None."""
        if path not in OPEN and not self.access.known(self.token(headers)):
            accept = headers.get("accept", "")
            if "text/html" in accept or (method in SAFE and "text/event-stream" not in accept):
                return RedirectResponse("/login", 303)
            return PlainTextResponse("log in first", 401)
        length = headers.get("content-length", "0")
        if not path.endswith("/upload") and (not length.isdecimal() or int(length[:12]) > MOST_BODY):
            return PlainTextResponse("too long", 413)
        return None

    def ours(self, hosts: list[str]) -> bool:
        """Whether the one Host of a request is an address, or a name of ours."""
        if len(hosts) != 1:
            return False
        name = host_of(hosts[0])
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def same_origin(self, headers: Headers) -> bool:
        """Whether a request that changes something comes from our own page."""
        scheme = "https" if self.tls else "http"
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return False
        return headers.getlist("origin") == [f"{scheme}://{headers['host']}"]

    def token(self, headers: Headers) -> str | None:
        """Return the token of the session that a request belongs to."""
        try:
            found = SimpleCookie(headers.get("cookie", "")[:4096]).get(self.cookie)
        except CookieError:
            return None
        return found.value if found else None

    def set_cookie(self, response: Response, token: str | None) -> None:
        """Give a browser the token of its session, or with None take it away."""
        response.set_cookie(
            self.cookie,
            token or "",
            max_age=None if token else 0,
            httponly=True,
            secure=self.tls,
            samesite="strict",
        )


def host_of(text: str) -> str:
    """Return the host of a Host header, without port and brackets, in small letters; "" for what is none."""
    match = HOST.fullmatch(text.strip().lower())
    return (match[1] or match[2]) if match else ""
