"""Partition tables: MBR with extended chains, GPT, hybrids."""
