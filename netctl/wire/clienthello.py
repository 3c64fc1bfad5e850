"""Read the protocols (ALPN, RFC 7301) that a TLS client asks for from its first record, without consuming the record.

One TCP port serves two processes: the process that accepts a connection peeks at the record and passes the connection
on untouched.
"""

from __future__ import annotations

RECORD_HEADER = 5
MAX_RECORD = 16_384
"""RFC 8446 §5.1."""
_HANDSHAKE, _CLIENT_HELLO, _ALPN = 22, 1, 16


def needed(header: bytes) -> int | None:
    """Length of the whole first record in bytes, from its 5-byte header; None: this is no TLS handshake."""
    if len(header) < RECORD_HEADER or header[0] != _HANDSHAKE or header[1] != 3:
        return None
    length = int.from_bytes(header[3:5], "big")
    return RECORD_HEADER + length if 0 < length <= MAX_RECORD else None


class _Short(Exception):
    """The bytes end inside a field."""


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _Short
        part = self._data[self._at : end]
        self._at = end
        return part

    def vector(self, length_bytes: int) -> bytes:
        return self.take(int.from_bytes(self.take(length_bytes), "big"))

    @property
    def left(self) -> bool:
        return self._at < len(self._data)


def protocols(record: bytes) -> tuple[bytes, ...]:
    """The protocols of a ClientHello (RFC 8446 §4.1.2) that one record holds; empty for anything else."""
    try:
        message = _Cursor(record[RECORD_HEADER:])
        if message.take(1)[0] != _CLIENT_HELLO:
            return ()
        hello = _Cursor(message.vector(3))
        hello.take(2 + 32)
        for length_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
            hello.vector(length_bytes)
        extensions = _Cursor(hello.vector(2))
        while extensions.left:
            kind = int.from_bytes(extensions.take(2), "big")
            body = _Cursor(extensions.vector(2))
            if kind == _ALPN:
                names = _Cursor(body.vector(2))
                found: list[bytes] = []
                while names.left:
                    found.append(names.vector(1))
                return tuple(found)
    except _Short:
        pass
    return ()
