"""System packages of appliances (.pat): read and judged, never unpacked or decrypted."""

from onebay.ops.payload.package import File, Payload, find_payload, look, read_payload, refuse_bad
from onebay.ops.payload.sums import Check

__all__ = ["Check", "File", "Payload", "find_payload", "look", "read_payload", "refuse_bad"]
