"""The page: what the command line does, in a browser; it has no logic of its own (docs/web.md)."""
