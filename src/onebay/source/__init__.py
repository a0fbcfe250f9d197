"""Where the bytes of an image come from: a file, a pipe, HTTP."""

from onebay.source.file import FileSource, PipeSource
from onebay.source.http import HttpSource
from onebay.source.open import open_source
from onebay.source.origin import Source
from onebay.source.put import HttpPut

__all__ = ["FileSource", "HttpPut", "HttpSource", "PipeSource", "Source", "open_source"]
