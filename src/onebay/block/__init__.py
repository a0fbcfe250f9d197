"""Volumes: file, device, span, concat, overlay. The only code that touches /dev and /sys."""

from onebay.block.file import FileVolume
from onebay.block.overlay import Overlay
from onebay.block.volume import Concat, Piece, Span, Volume, locate, lower

__all__ = ["Concat", "FileVolume", "Overlay", "Piece", "Span", "Volume", "locate", "lower"]
