"""Find our messages in datagrams that the kernel's receive offload (UDP GRO) has merged before a raw socket sees them.

GRO merges datagrams of one flow that arrive together: all of one length, the last one perhaps shorter. Our messages
share their flow with WireGuard's, so a probe may end a long run of data, and several probes may be merged.
"""

from __future__ import annotations

from netctl.wire.datagram import MAGIC, STUN_COOKIE, DatagramKind, classify
from netctl.wire.probe import PROBE_LEN
from netctl.wire.relay import LENGTHS, RelayKind

TAIL_LENGTHS = (PROBE_LEN, LENGTHS[RelayKind.BOUND], LENGTHS[RelayKind.COOKIE])
"""Bytes of each message that may follow data in a merged datagram, longest first. STUN servers send no data."""
MAX_MERGED = 64
"""Most datagrams that the kernel merges (UDP_GRO_CNT_MAX)."""
_STUN_HEADER = 20


def split(data: bytes) -> list[bytes]:
    """Our datagrams in one received datagram, in order; empty when there are none. Never raises.

    A datagram that begins as one of ours and is no longer than its kind is returned unchanged, valid or not.
    """
    length = _length(data)
    if length is None:
        return _tail(data)
    if length < len(MAGIC) or len(data) <= length:
        return [data]
    pieces = (data[at : at + length] for at in range(0, min(len(data), MAX_MERGED * length), length))
    return [piece for piece in pieces if _length(piece) is not None]


def _length(data: bytes) -> int | None:
    """Bytes of the message at the start of `data`; 0: ours, but of an unknown kind; None: not ours."""
    match classify(data):
        case DatagramKind.PROBE | DatagramKind.RELAYED_PROBE:
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
