"""Desired and actual state to an ordered list of changes, purely (floor F1)."""
