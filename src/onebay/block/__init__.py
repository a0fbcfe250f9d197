"""Volumes: file, device, span, concat, overlay. The only code that touches /dev and /sys."""

from onebay.block.crypt import Crypt
from onebay.block.device import DeviceVolume, is_device, partition_paths, whole_disks
from onebay.block.file import FileVolume
from onebay.block.foreign import Reading, open_input
from onebay.block.masked import Masked
from onebay.block.open import create_disk, open_disk
from onebay.block.overlay import Overlay
from onebay.block.serve import serving
from onebay.block.volume import Concat, Piece, Span, Volume, locate, lower

__all__ = [
    "Concat",
    "Crypt",
    "DeviceVolume",
    "FileVolume",
    "Masked",
    "Overlay",
    "Piece",
    "Reading",
    "Span",
    "Volume",
    "create_disk",
    "is_device",
    "locate",
    "lower",
    "open_disk",
    "open_input",
    "partition_paths",
    "serving",
    "whole_disks",
]
