"""Encodes and decodes netlink messages, with a blocking socket (RFC 3549; kernel: Documentation/userspace-api/netlink).

Only for lists of thousands: small requests go through pyroute2 (`links/rtnl.py`). Numbers are in the machine's byte
order unless a protocol says otherwise. Attributes nest; an attribute has at most 64 KiB with its header.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Literal

NLM_F_REQUEST, NLM_F_ACK = 0x01, 0x04
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_DUMP_INTR = 0x10
_CAPPED, _ACK_TLVS = 0x100, 0x200
_ERROR, _DONE = 2, 3
_ERROR_MESSAGE = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
NESTED = 0x8000
_TYPE_MASK = 0x3FFF
MAX_NESTED = 65_000
"""Bytes of attributes in one nest: below the limit of its 16-bit length."""
_RECEIVE = 1 << 20
"""Bytes of one receive: a whole datagram must fit, since its rest would be lost; the kernel sends at most 32 KiB."""
_TIMEOUT_S = 10.0
"""Seconds to wait for an answer. The kernel answers within the system call; this bounds the wait for a lost answer."""
DUMP_TRIES = 10
"""Times that a list is read which changes while it is read; after the last time the result is used as it is."""
BATCH = 64
"""Requests sent together: their answers, of less than 1 KiB each, fit any socket's receive buffer."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=i")
_ORDER: Literal["little", "big"] = "little" if struct.pack("=H", 1) == b"\1\0" else "big"


class NetlinkError(OSError):
    """The kernel refused a request. `strerror`: the kernel's own text if there is one."""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that contains attributes."""
    return attribute(kind | NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes."""
    return attribute(kind, value.to_bytes(4, _ORDER))


def text(kind: int, value: str) -> bytes:
    """An attribute with a text that ends with a zero byte."""
    return attribute(kind, value.encode() + b"\0")


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute, in order. Stops at an impossible length."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """All attributes by type; for a repeated type, the last one."""
    return dict(walk(data))


def number(value: bytes | None, default: int = 0) -> int:
    """The unsigned number in an attribute's value, of any width; `default` without the attribute."""
    return default if value is None else int.from_bytes(value, _ORDER)


def words(value: bytes | None) -> str | None:
    """The text in an attribute's value, without its zero byte; None without the attribute."""
    return None if value is None else value.rstrip(b"\0").decode(errors="replace")


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each message of one datagram. Stops at an impossible length."""
    offset, end = 0, len(data)
    while offset + _HEADER.size <= end:
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > end:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


class NetlinkSocket:
    """One socket of one netlink protocol in the network namespace of the thread that opens it. Raises OSError."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(_TIMEOUT_S)
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            with contextlib.suppress(
                OSError
            ):  # older kernels send more and filter less, which the code handles
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _message(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        length = _HEADER.size + len(payload)
        return _HEADER.pack(length, kind, flags | NLM_F_REQUEST, self._sequence, 0) + payload

    def _messages(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, sequence number and payload of each message of one datagram."""
        data = self._socket.recv(_RECEIVE)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                return
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3

    def ask(self, kind: int, payload: bytes, flags: int = 0) -> list[bytes]:
        """Send one request; returns the payloads of its answer, none for most requests. Raises NetlinkError."""
        self._socket.send(self._message(kind, flags | NLM_F_ACK, payload))
        answers: list[bytes] = []
        while True:
            for answer, answer_flags, sequence, body in self._messages():
                if sequence != self._sequence:
                    continue
                if answer == _ERROR:
                    _raise(answer_flags, body)
                    return answers
                answers.append(body)

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """All messages of a list. Raises NetlinkError."""
        answers: list[bytes] = []
        for _ in range(DUMP_TRIES):
            answers, steady = self._dump(kind, payload)
            if steady:
                break
        return answers

    def _dump(self, kind: int, payload: bytes) -> tuple[list[bytes], bool]:
        self._socket.send(self._message(kind, NLM_F_DUMP, payload))
        answers: list[bytes] = []
        steady = True
        while True:
            for answer, flags, sequence, body in self._messages():
                if sequence != self._sequence:
                    continue
                steady = steady and not flags & _DUMP_INTR
                if answer in (_ERROR, _DONE):
                    _raise(flags, body)
                    return answers, steady
                answers.append(body)

    def ask_all(self, kind: int, payloads: Sequence[bytes], flags: int = 0) -> None:
        """Send many requests without answers, a batch at a time. Raises a batch's first refusal at the batch's end."""
        for start in range(0, len(payloads), BATCH):
            batch = payloads[start : start + BATCH]
            waiting: set[int] = set()
            parts = bytearray()
            for payload in batch:
                message = self._message(kind, flags | NLM_F_ACK, payload)
                waiting.add(self._sequence)
                parts += message + bytes(-len(message) % 4)
            self._socket.send(parts)
            refusal: NetlinkError | None = None
            while waiting:
                for answer, answer_flags, sequence, body in self._messages():
                    if sequence not in waiting or answer != _ERROR:
                        continue
                    waiting.discard(sequence)
                    try:
                        _raise(answer_flags, body)
                    except NetlinkError as error:
                        refusal = refusal or error
            if refusal is not None:
                raise refusal


def _raise(flags: int, body: bytes) -> None:
    """Raise the error of an error message or of the end of a dump, if there is one."""
    code = -_NUMBER.unpack_from(body)[0] if len(body) >= _NUMBER.size else 0
    if code <= 0:
        return
    said = None
    if flags & _ACK_TLVS:
        # After the code come the header of the request, and its payload unless capped.
        length = _HEADER.unpack_from(body, 4)[0] if len(body) >= 4 + _HEADER.size else 0
        start = 4 + (_HEADER.size if flags & _CAPPED else (length + 3) & ~3)
        said = words(attributes(body[start:]).get(_ERROR_MESSAGE))
    raise NetlinkError(code, said or os.strerror(code))
