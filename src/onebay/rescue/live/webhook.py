"""Tell a server how a job goes: JSON by HTTP POST, beside the work, which never waits for it.

Every document says all, so that one that is lost does no harm. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import json
import queue
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

from onebay.base.error import Error
from onebay.source.exchange import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = 10.0  # seconds for one attempt
ATTEMPTS = 3  # of what must not be lost
PAUSE = 3.0  # seconds between them
MOST_WAITING = 8  # documents


class Webhook:
    """A place that is told; without a URL everything is thrown away."""

    def __init__(self, url: str | None, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        self.url, self.timeout, self.pause = url, timeout, pause
        self.documents: queue.Queue[tuple[Mapping[str, Any], int] | None] = queue.Queue(MOST_WAITING)
        self.failure = ""
        self.thread = threading.Thread(target=self.work, daemon=True)
        if url is not None:
            self.thread.start()

    def tell(self, document: Mapping[str, Any], *, often: bool = False) -> None:
        """Have a document sent; one of those that come `often` is left out while others wait."""
        if self.url is None or (often and not self.documents.empty()):
            return
        try:
            self.documents.put_nowait((document, 1 if often else ATTEMPTS))
        except queue.Full:
            self.failure = "the server takes too long"

    def close(self, seconds: float) -> None:
        """Wait for what is on its way, `seconds` at most."""
        if self.url is None:
            return
        deadline = time.monotonic() + seconds
        try:
            self.documents.put(None, timeout=seconds)
        except queue.Full:
            return
        self.thread.join(max(0.0, deadline - time.monotonic()))

    def work(self) -> None:
        """Send what comes; in a thread."""
        assert self.url is not None
        while (item := self.documents.get()) is not None:
            document, attempts = item
            for attempt in range(attempts):
                self.failure = post(self.url, document, timeout=self.timeout)
                if not self.failure:
                    break
                if attempt + 1 < attempts:
                    time.sleep(self.pause)


def post(url: str, document: Mapping[str, Any], *, timeout: float) -> str:
    """Send one document; return what was wrong, "" where the server took it. `timeout` is in seconds."""
    connection: http.client.HTTPConnection | None = None
    try:
        place, auth = parse_url(url)
        host = place.hostname or ""
        if place.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, place.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(host, place.port, timeout=timeout)
        target = (place.path or "/") + (f"?{place.query}" if place.query else "")
        headers = {"Content-Type": "application/json", "User-Agent": "onebay"}
        body = json.dumps(document).encode()
        connection.request("POST", target, body, headers | ({"Authorization": auth} if auth else {}))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, UnicodeError, Error) as error:
        return f"{error or type(error).__name__}"
    finally:
        if connection is not None:
            connection.close()
    return "" if 200 <= status < 300 else f"the server answers {status}"
