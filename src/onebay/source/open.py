"""Open what the user named as the place of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onebay.base.error import Unsupported
from onebay.base.event import silent
from onebay.source.file import open_fd, open_path
from onebay.source.http import HttpSource

if TYPE_CHECKING:
    from onebay.base.event import Report
    from onebay.source.origin import Source


def open_source(text: str, *, patience: float | None = None, report: Report = silent) -> Source:
    """Open a path, "-" (standard input) or an http(s) URL; raises SourceError, Unsupported for other URLs.

    A server that does not answer is waited for, `patience` seconds where given, else some seconds.
    """
    if text == "-":
        return open_fd("standard input", 0)
    scheme, mark, _ = text.partition("://")
    if mark and scheme.isalnum():
        if scheme.lower() in ("http", "https"):
            return HttpSource(text, patience=patience, report=report)
        raise Unsupported(f"no way to read {scheme}://", volume=text, hint="a path, -, http:// or https://")
    return open_path(Path(text))
