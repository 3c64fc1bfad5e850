"""Lists of byte strings as one byte string, to be signed or authenticated."""

from __future__ import annotations


def packed(*parts: bytes) -> bytes:
    """Each part with its length (4 bytes, big-endian) before it: no two lists of parts look the same."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
