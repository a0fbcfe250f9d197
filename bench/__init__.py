"""Measures onebay beside its peers, on the same work, in one interleaved run (docs/bench.md)."""
