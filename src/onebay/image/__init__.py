"""The image: a plain zstd file of the raw disk with an index beside the data (docs/image-format.md)."""
