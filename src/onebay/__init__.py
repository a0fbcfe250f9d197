"""onebay: make a two-disk NAS appliance one self-booting disk.

The folders import downwards only: base, block, layer, (table stack fs boot), tree, (image source), ops,
machine, sample, cli. See docs/layers.md.
"""

__version__ = "0.1.0"
