"""Bytes to messages and back, purely (floor F1)."""
