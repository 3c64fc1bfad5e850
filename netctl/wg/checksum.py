"""Internet checksums (RFC 1071), one packet or many rows at once.

The one's complement sum is independent of the byte order if the order is the same everywhere: here it is little-endian.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint8]
Sums = NDArray[np.uint64]


def partial(data: bytes | bytearray | memoryview) -> int:
    """The sum of the 16-bit little-endian words of `data` (an odd tail is padded with zero), modulo 65,535."""
    return int.from_bytes(data, "little") % 0xFFFF


def finish(total: int) -> bytes:
    """The checksum field for a sum: its complement, as the 2 bytes to write into the packet."""
    return ((total % 0xFFFF) ^ 0xFFFF).to_bytes(2, "little")


def row_sums(rows: Rows) -> Sums:
    """The sum of each row's 16-bit little-endian words. The width must be even; a multiple of 4 is twice as fast."""
    sums: Sums = rows.view(np.uint16 if rows.shape[1] % 4 else np.uint32).sum(axis=1, dtype=np.uint64)
    return sums


def finish_rows(sums: Sums) -> NDArray[np.uint16]:
    """The checksum fields for sums, one a row."""
    fields: NDArray[np.uint16] = ((sums % np.uint64(0xFFFF)) ^ np.uint64(0xFFFF)).astype(np.uint16)
    return fields


def pseudo(source_and_destination: bytes | bytearray | memoryview, protocol: int, length: int) -> int:
    """The sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1): addresses, protocol, length in bytes."""
    total = partial(source_and_destination)
    total += int.from_bytes(bytes((0, protocol)), "little")
    total += int.from_bytes((length & 0xFFFF).to_bytes(2, "big"), "little") + int.from_bytes(
        (length >> 16).to_bytes(2, "big"), "little"
    )
    return total % 0xFFFF
