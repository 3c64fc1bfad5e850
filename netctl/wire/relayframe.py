"""The relay over TLS (ALPN `netctl-relay/1`): datagrams as frames, and the queue that they wait in (DESIGN §7.8).

A frame is the length of the datagram (2 bytes, big-endian), a relay port (2 bytes), the datagram. Towards the
relay the port is the one that the datagram would be sent to over UDP, from the relay the one that it came out of.
So a member's frames carry exactly what its datagrams would: the relay's own messages, and WireGuard's.
"""

from __future__ import annotations

import struct
from collections import deque

from netctl.model.errors import RemoteError

RELAY_ALPN = "netctl-relay/1"
RELAY_SUBJECT = "netctl relay"
"""The common name in a certificate that a mediator's identity has signed for its relay, and for nothing else."""
HEADER = struct.Struct(">HH")
MAX_DATAGRAM = 65_507
"""What UDP carries over IPv4: the largest MTU of a tunnel that the document allows fits."""
LIMIT_BEFORE_LOGIN = 64
"""The relay's own messages have at most 62 bytes: a stranger gets no more memory than this."""
MAX_QUEUED = 192 * 1024
"""Bytes that wait for a slow connection: 30 ms at 50 Mbit/s, and enough for one burst of a sender that batches."""
MAX_AGE_S = 0.25
"""What has waited longer is late: dropped, so that a slow connection loses packets and does not become minutes slow."""
MAX_WRITE = 16 * 1024
"""Bytes given to TLS at once: one record."""


def frame(port: int, datagram: bytes) -> bytes:
    """One frame. Raises ValueError past MAX_DATAGRAM."""
    if len(datagram) > MAX_DATAGRAM:
        raise ValueError(f"a frame carries at most {MAX_DATAGRAM} bytes")
    return HEADER.pack(len(datagram), port) + datagram


class FrameReader:
    """Bytes in, (port, datagram) out; keeps less than one frame. `limit` may be raised after the login."""

    def __init__(self, limit: int = MAX_DATAGRAM) -> None:
        self.limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes, judged by the limit as it is now. Raises RemoteError beyond it."""
        if self._rest:
            data = self._rest + data
        found: list[tuple[int, bytes]] = []
        at, size, header = 0, len(data), HEADER.size
        while size - at >= header:
            length, port = HEADER.unpack_from(data, at)
            if length > self.limit:
                raise RemoteError(
                    f"a datagram of {length} bytes in a frame; at most {self.limit}", "frame.too-long"
                )
            end = at + header + length
            if end > size:
                break
            found.append((port, data[at + header : end]))
            at = end
        self._rest = data[at:]
        return found


class DropOldest:
    """Frames on their way out, bounded in bytes and in age: the oldest go first, as in any router."""

    def __init__(self, most: int = MAX_QUEUED, age_s: float = MAX_AGE_S) -> None:
        self._frames: deque[tuple[float, bytes]] = deque()
        self._most = most
        self._age_s = age_s
        self.size = 0
        """Bytes that wait."""
        self.dropped = 0
        """Frames that were not sent."""

    def put(self, data: bytes, now: float) -> None:
        """Append a frame; the oldest make room."""
        self._frames.append((now, data))
        self.size += len(data)
        while self.size > self._most:
            self._drop()

    def take(self, now: float, most: int = MAX_WRITE) -> bytes:
        """Whole frames to be written, at least one if any is in time, at most `most` bytes beyond that."""
        while self._frames and now - self._frames[0][0] > self._age_s:
            self._drop()
        parts: list[bytes] = []
        taken = 0
        while self._frames and (not parts or taken + len(self._frames[0][1]) <= most):
            data = self._frames.popleft()[1]
            parts.append(data)
            taken += len(data)
        self.size -= taken
        return b"".join(parts)

    def clear(self) -> None:
        """Forget what waits."""
        self._frames.clear()
        self.size = 0

    def _drop(self) -> None:
        self.size -= len(self._frames.popleft()[1])
        self.dropped += 1
