"""Over which interface the kernel would send: tells an endpoint whose packets would come back out of our own TUN."""

from __future__ import annotations

import contextlib
import socket
import struct

from netctl.model.addresses import Address

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_RTA_DST, _RTA_OIF, _RTA_MARK = 1, 4, 16
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ANSWER = 8192


def interface_to(address: Address, mark: int = 0) -> int | None:
    """The index of the interface that packets with this mark to `address` leave by (rtnetlink(7)); None: no route."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, len(address.packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _attribute(_RTA_DST, address.packed)
    if mark:
        body += _attribute(_RTA_MARK, _NUMBER.pack(mark))
    question = _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink,
    ):
        netlink.bind((0, 0))
        netlink.sendall(question)
        return _oif(netlink.recv(_ANSWER))
    return None


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _oif(answer: bytes) -> int | None:
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return None
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if size < _ATTRIBUTE.size:
            return None
        if kind == _RTA_OIF and size == _ATTRIBUTE.size + _NUMBER.size:
            return int(_NUMBER.unpack_from(answer, at + _ATTRIBUTE.size)[0])
        at += (size + 3) & ~3
    return None
