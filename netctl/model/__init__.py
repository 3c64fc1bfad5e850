"""Frozen values: keys, addresses, the document, host state, errors (floor F0)."""
