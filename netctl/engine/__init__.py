"""Reads and changes what the host really has (floor F3)."""
