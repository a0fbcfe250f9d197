"""A socket of ours at which another program finds what one thread serves."""

from __future__ import annotations

import abc
import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from onebay.base.error import Refused, reason

if TYPE_CHECKING:
    from pathlib import Path


class GoneError(Exception):
    """The other side hung up or does not speak the protocol."""


class Listener(abc.ABC):
    """Serves one connection to the socket `path` after the other, until it is stopped.

    Raises Refused where there can be no socket.
    """

    def __init__(self, path: Path) -> None:
        self.stopping = False
        self.port: socket.socket | None = None
        self.listener = socket.socket(socket.AF_UNIX)
        try:
            self.listener.bind(str(path))
        except OSError as error:
            self.listener.close()
            raise Refused(reason(error), volume=str(path)) from error
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.run, name=type(self).__name__, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Close all connections and wait for the thread."""
        self.stopping = True
        for port in (self.listener, self.port):
            if port is not None:
                with contextlib.suppress(OSError):
                    port.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def run(self) -> None:
        """Serve one connection after the other."""
        while not self.stopping:
            try:
                port, _ = self.listener.accept()
            except OSError:
                return
            self.port = port
            with port, contextlib.suppress(GoneError, OSError):
                if not self.stopping:  # it may have been too early for `stop` to see this connection
                    self.serve(port)
            self.port = None

    @abc.abstractmethod
    def serve(self, port: socket.socket) -> None:
        """Serve a connection to its end; GoneError and OSError end it quietly."""
