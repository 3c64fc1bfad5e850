"""Our messages in what the kernel's receive offload has merged (UDP GRO), as a raw socket is shown it.

GRO joins datagrams of one flow that arrive together: all of one length, the last one perhaps shorter. Our
messages share their flow with WireGuard's, so a probe may end a long run of data, and several may come as one.
"""

from __future__ import annotations

from netctl.wire.datagram import MAGIC, STUN_COOKIE, DatagramKind, classify
from netctl.wire.probe import PROBE_LEN
from netctl.wire.relay import LENGTHS, RelayKind

TAIL_LENGTHS = (PROBE_LEN, LENGTHS[RelayKind.BOUND], LENGTHS[RelayKind.COOKIE])
"""Of every message that a member may receive behind data, longest first. STUN servers send no data."""
MAX_MERGED = 64
"""Datagrams in one receipt (the kernel's UDP_GRO_CNT_MAX): more were not merged by it."""
_STUN_HEADER = 20


def split(data: bytes) -> list[bytes]:
    """The datagrams of ours in one receipt, in order; empty when there are none. Never raises.

    What begins as ours and is no longer than its kind comes back as it is, good or not.
    """
    length = _length(data)
    if length is None:
        return _tail(data)
    if length < len(MAGIC) or len(data) <= length:
        return [data]
    pieces = (data[at : at + length] for at in range(0, min(len(data), MAX_MERGED * length), length))
    return [piece for piece in pieces if _length(piece) is not None]


def _length(data: bytes) -> int | None:
    """How long a message that begins so is, 0 when only its kind is unknown; None: none of ours."""
    match classify(data):
        case DatagramKind.PROBE:
            return PROBE_LEN
        case DatagramKind.RELAY:
            return LENGTHS[RelayKind(data[4])]
        case DatagramKind.STUN:
            return _STUN_HEADER + int.from_bytes(data[2:4], "big")
    return 0 if data[:4] == MAGIC or data[4:8] == STUN_COOKIE else None


def _tail(data: bytes) -> list[bytes]:
    for length in TAIL_LENGTHS:
        if len(data) > length and data.startswith(MAGIC, len(data) - length):
            return [data[-length:]]
    return []
