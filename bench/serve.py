"""A small HTTP server on the loopback interface, with ranges; prints its port. Its work is nobody's time."""

from __future__ import annotations

import os
import re
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class Handler(SimpleHTTPRequestHandler):
    """Serves the files of the current folder by sendfile(2)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer with a file or a range of it."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        start, end = 0, size
        match = RANGE.fullmatch(self.headers.get("Range", ""))
        if match:
            start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if start >= end and size:
            self.send_error(416)
            return
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.flush()
        try:
            with path.open("rb") as file:
                while start < end:
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)
        except OSError:
            self.close_connection = True  # the client had enough


def main() -> None:
    """Serve the folder that is named until we are ended."""
    os.chdir(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
