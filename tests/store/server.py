"""An HTTP server on the loopback interface that serves one object, and fails on demand."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Object:
    """What is served, and what goes wrong; the lists are used up from the front, one request each."""

    data: bytes
    etag: str | None = '"v1"'
    ranges: bool = True
    length: bool = True  # send Content-Length; otherwise the body ends with the connection
    cuts: list[int | None] = field(default_factory=list)  # send so many bytes of the body, then hang up
    statuses: list[int | None] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)  # path -> Location
    password: str | None = None
    encoding: str | None = None
    lie: int = 0  # added to the start in Content-Range
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    object: Object

    def log_message(self, *args: object) -> None:
        pass

    def plain(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        it = self.object
        it.requests.append((self.path, self.headers.get("Range")))
        it.headers.append(dict(self.headers))
        if self.path in it.redirects:
            return self.plain(302, Location=it.redirects[self.path])
        status = it.statuses.pop(0) if it.statuses else None
        if status:
            return self.plain(status, Retry_After="0")
        if it.password and self.headers.get("Authorization") != it.password:
            return self.plain(401, WWW_Authenticate="Basic")
        return self.body()

    def body(self) -> None:
        it = self.object
        start, end, status = 0, len(it.data), 200
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match and it.ranges and (condition is None or condition == it.etag):
            start, end, status = int(match[1]), min(int(match[2]) + 1, len(it.data)), 206
            if start >= len(it.data):
                return self.plain(416, Content_Range=f"bytes */{len(it.data)}")
        # before the client has its answer, or its next request, in another thread, may take this one's cut
        cut = it.cuts.pop(0) if it.cuts else None
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + it.lie}-{end - 1 + it.lie}/{len(it.data)}")
        if it.etag:
            self.send_header("ETag", it.etag)
        if it.encoding:
            self.send_header("Content-Encoding", it.encoding)
        if it.length:
            self.send_header("Content-Length", str(end - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        body = memoryview(it.data)[start:end]
        if cut is not None:
            body, self.close_connection = body[:cut], True
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client had enough
        return None


class Server(ThreadingHTTPServer):
    """`with Server(Object(..)) as server: server.url`."""

    daemon_threads = True

    def __init__(self, obj: Object) -> None:
        handler = type("Bound", (Handler,), {"object": obj})
        super().__init__(("127.0.0.1", 0), handler)
        self.object = obj
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}/image.raw.zst"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)
