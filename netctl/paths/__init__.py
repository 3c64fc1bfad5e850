"""Finds and keeps the best path to each peer: direct or over the relay, without I/O (floor F2)."""
