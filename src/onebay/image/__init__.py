"""The image: a plain zstd file of the raw disk with an index beside the data (docs/image-format.md)."""

from onebay.image.decode import Decoded, decode_parallel
from onebay.image.manifest import Facts, Manifest
from onebay.image.read import Image
from onebay.image.record import Frame, Packed, RandomOrigin, State
from onebay.image.sink import StreamSink
from onebay.image.stream import Stream, StreamOrigin
from onebay.image.volume import ImageVolume
from onebay.image.write import Summary, write_image

__all__ = [
    "Decoded",
    "Facts",
    "Frame",
    "Image",
    "ImageVolume",
    "Manifest",
    "Packed",
    "RandomOrigin",
    "State",
    "Stream",
    "StreamOrigin",
    "StreamSink",
    "Summary",
    "decode_parallel",
    "write_image",
]
