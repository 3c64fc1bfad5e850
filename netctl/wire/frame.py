"""Frames of the control connection: a 4-byte big-endian length, then that many bytes of JSON."""

from __future__ import annotations

from netctl.model.errors import RemoteError

HEADER_LEN = 4
LIMIT_BEFORE_LOGIN = 4096
"""Bytes; the longest login message is under 1 KiB. The memory that an unauthenticated connection gets."""
LIMIT_AFTER_LOGIN = 256 * 1024
"""Bytes; a larger view is sent in several frames, so that no member waits long for the view of another."""


def frame_header(payload: bytes) -> bytes:
    """The 4-byte header of a payload. Raises ValueError past LIMIT_AFTER_LOGIN."""
    if len(payload) > LIMIT_AFTER_LOGIN:
        raise ValueError(f"a frame carries at most {LIMIT_AFTER_LOGIN} bytes")
    return len(payload).to_bytes(HEADER_LEN, "big")


def encode_frame(payload: bytes) -> bytes:
    """A payload after its header. Raises ValueError past LIMIT_AFTER_LOGIN."""
    return frame_header(payload) + payload


class FrameDecoder:
    """Bytes in, whole payloads out. The owner may raise `limit` (bytes) once the other side has logged in."""

    __slots__ = ("_buffer", "limit")

    def __init__(self, limit: int = LIMIT_BEFORE_LOGIN) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes. Raises RemoteError for a frame past the limit."""
        self._buffer += data
        frames = []
        while (payload := self._next()) is not None:
            frames.append(payload)
        if len(self._buffer) > self.limit + HEADER_LEN:
            raise RemoteError("more bytes than a frame may have", "frame.too-long")
        return frames

    def _next(self) -> bytes | None:
        if len(self._buffer) < HEADER_LEN:
            return None
        length = int.from_bytes(self._buffer[:HEADER_LEN], "big")
        if length > self.limit:
            raise RemoteError(
                f"a frame of {length} bytes; at most {self.limit} are allowed", "frame.too-long"
            )
        if len(self._buffer) < HEADER_LEN + length:
            return None
        payload = bytes(self._buffer[HEADER_LEN : HEADER_LEN + length])
        del self._buffer[: HEADER_LEN + length]
        return payload
