"""The relay over TLS (ALPN `netctl-relay/1`): datagrams as frames, and the queue of frames to send.

A frame is the length of the datagram (2 bytes, big-endian), a relay port (2 bytes), the datagram. In a frame to the
relay the port is the datagram's destination port over UDP, in a frame from the relay its source port. So frames carry
the same messages as UDP: the relay's own and WireGuard's.
"""

from __future__ import annotations

import struct
from collections import deque

from netctl.model.errors import RemoteError

RELAY_ALPN = "netctl-relay/1"
RELAY_SUBJECT = "netctl relay"
"""The common name of a certificate that a mediator's identity has signed for its relay only."""
HEADER = struct.Struct(">HH")
MAX_DATAGRAM = 65_507
"""Bytes of a UDP datagram over IPv4 at most: the largest tunnel MTU that a document allows fits."""
LIMIT_BEFORE_LOGIN = 64
"""Bytes of a datagram from an unauthenticated client: the relay's own messages have at most 62."""
MAX_QUEUED = 192 * 1024
"""Bytes queued for a slow connection: 30 ms at 50 Mbit/s, and enough for one burst of a sender that batches."""
MAX_AGE_S = 0.25
"""Frames that have waited longer are dropped: a slow connection loses packets instead of delaying them by minutes."""
MAX_WRITE = 16 * 1024
"""Bytes passed to TLS at once: one record."""


def frame(port: int, datagram: bytes) -> bytes:
    """The frame of a datagram. Raises ValueError past MAX_DATAGRAM."""
    if len(datagram) > MAX_DATAGRAM:
        raise ValueError(f"a frame carries at most {MAX_DATAGRAM} bytes")
    return HEADER.pack(len(datagram), port) + datagram


class FrameReader:
    """Bytes in, (port, datagram) out; keeps less than one frame. The owner may raise `limit` (bytes) after login."""

    def __init__(self, limit: int = MAX_DATAGRAM) -> None:
        self.limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes. Raises RemoteError for a datagram beyond the present limit."""
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
    """A queue of frames to send, bounded in bytes and in age; drops the oldest frames first."""

    def __init__(self, most: int = MAX_QUEUED, age_s: float = MAX_AGE_S) -> None:
        self._frames: deque[tuple[float, bytes]] = deque()
        self._most = most
        self._age_s = age_s
        self.size = 0
        """Bytes queued."""
        self.dropped = 0
        """Count of dropped frames."""

    def put(self, data: bytes, now: float) -> None:
        """Append a frame and drop the oldest beyond the limit. `now`: monotonic seconds."""
        self._frames.append((now, data))
        self.size += len(data)
        while self.size > self._most:
            self._drop()

    def take(self, now: float, most: int = MAX_WRITE) -> bytes:
        """Whole frames to write, at most `most` bytes together, but at least one frame if any is in time."""
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
        """Discard all queued frames."""
        self._frames.clear()
        self.size = 0

    def _drop(self) -> None:
        self.size -= len(self._frames.popleft()[1])
        self.dropped += 1
