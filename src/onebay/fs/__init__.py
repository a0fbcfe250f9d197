"""File systems: which bytes they use, how they grow."""
