"""Where the bytes of an image come from: a file, a pipe, HTTP."""

from onebay.source.file import FileSource, PipeSource
from onebay.source.http import HttpSource
from onebay.source.open import open_source
from onebay.source.origin import Source

__all__ = ["FileSource", "HttpSource", "PipeSource", "Source", "open_source"]
