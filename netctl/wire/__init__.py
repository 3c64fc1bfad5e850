"""Encoders and decoders of every message and file format: bytes to values and back, without I/O (floor F1)."""
