"""Receives and sends many datagrams with one system call, recvmmsg(2) and sendmmsg(2): for hosts without GRO and GSO.

Python lacks both calls, so this is ctypes over memory that is laid out once: a call sets lengths and reads them back.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from netctl.system import pktinfo

COUNT = 64
"""Datagrams of one call: the same limit as for one GSO send."""
SLOT = 65_536 + 23 * 64
"""Bytes from one slot to the next: a merged datagram fits, and no two slots start in the same cache set."""
_CONTROL = 64
"""Bytes for the ancillary messages of a datagram: its segment size and its destination address."""
_CMSG = struct.Struct("=Qii")
_NAME = 28  # sockaddr_in6, the larger of both
_MSG_DONTWAIT = 0x40
_UDP, _UDP_GRO = 17, 104
_GRO = np.frombuffer(struct.pack("=ii", _UDP, _UDP_GRO), "u8")[0]
_V4, _V6 = struct.Struct("=HH4s"), struct.Struct("=HHI16sI")

_IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
_MSGHDR = np.dtype(
    [
        ("name", "u8"),
        ("name_length", "u4"),
        ("pad0", "u4"),
        ("iov", "u8"),
        ("iov_count", "u8"),
        ("control", "u8"),
        ("control_length", "u8"),
        ("flags", "i4"),
        ("pad1", "u4"),
        ("length", "u4"),
        ("pad2", "u4"),
    ]
)
"""struct mmsghdr on 64-bit Linux."""
_LIBC = ctypes.CDLL(None, use_errno=True)
AVAILABLE = ctypes.sizeof(ctypes.c_void_p) == 8 and hasattr(_LIBC, "recvmmsg") and hasattr(_LIBC, "sendmmsg")
"""Whether this module works on this host; else datagrams are sent and received one by one."""


def _address(buffer: bytearray) -> int:
    """The memory address of a buffer, which must stay alive and keep its size as long as the address is used."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def address_of(name: bytes | bytearray) -> tuple[str, int, int]:
    """(address, port, scope id) of a struct sockaddr_in or sockaddr_in6."""
    family = int.from_bytes(name[:2], "little")
    port = int.from_bytes(name[2:4], "big")
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, name[8:24]), port, int.from_bytes(name[24:28], "little")
    return socket.inet_ntop(socket.AF_INET, name[4:8]), port, 0


def controls_of(control: bytes | bytearray) -> list[pktinfo.Control]:
    """Decode ancillary messages of the kernel (cmsg(3)) to the form that `socket.recvmsg` returns."""
    found: list[pktinfo.Control] = []
    at = 0
    while len(control) - at >= _CMSG.size:
        length, level, kind = _CMSG.unpack_from(control, at)
        if not _CMSG.size <= length <= len(control) - at:
            break
        found.append((level, kind, bytes(control[at + _CMSG.size : at + length])))
        at += -(-length // 8) * 8
    return found


def control_bytes(control: pktinfo.Control) -> bytes:
    """One ancillary message in the kernel's format (cmsg(3))."""
    level, kind, data = control
    return _CMSG.pack(_CMSG.size + len(data), level, kind) + data + bytes(-len(data) % 8)


class Receiver:
    """Receives up to COUNT datagrams a call into `buffer`: slots SLOT bytes apart, valid until the next `receive`."""

    def __init__(self) -> None:
        self.buffer = bytearray(COUNT * SLOT)
        whole = memoryview(self.buffer)
        self.views = [whole[at : at + 65_536] for at in range(0, COUNT * SLOT, SLOT)]
        """The first 65,536 bytes of each slot."""
        self._names = bytearray(COUNT * _NAME)
        self._controls = bytearray(COUNT * _CONTROL)
        self._iovs: NDArray[np.void] = np.zeros(COUNT, _IOVEC)
        self._heads: NDArray[np.void] = np.zeros(COUNT, _MSGHDR)
        steps = np.arange(COUNT, dtype=np.uint64)
        self._iovs["base"] = _address(self.buffer) + steps * np.uint64(SLOT)
        self._iovs["length"] = 65_536
        heads = self._heads
        heads["name"] = _address(self._names) + steps * np.uint64(_NAME)
        heads["iov"] = self._iovs.ctypes.data + steps * np.uint64(_IOVEC.itemsize)
        heads["iov_count"] = 1
        heads["control"] = _address(self._controls) + steps * np.uint64(_CONTROL)
        self._fresh = heads.copy()
        self._fresh["name_length"], self._fresh["control_length"] = _NAME, _CONTROL
        controls = np.frombuffer(self._controls, np.uint8).reshape(COUNT, _CONTROL)
        self._kinds = controls[:, 8:16].view(np.uint64)[:, 0]
        """Level and type of each datagram's first ancillary message, as one number."""
        self._sizes = controls[:, 16:20].view(np.uint32)[:, 0]
        self._lengths = heads["length"]
        self._control_lengths = heads["control_length"]

    def receive(self, fd: int) -> int:
        """Receive datagrams and return their count; 0: none waits. Never blocks."""
        self._heads[:] = self._fresh
        got: int = _LIBC.recvmmsg(fd, ctypes.c_void_p(self._heads.ctypes.data), COUNT, _MSG_DONTWAIT, None)
        return max(got, 0)

    def runs(self, got: int) -> Iterator[tuple[int, int, int, int]]:
        """Runs of neighbouring datagrams of one length and one source: (first slot, slots, bytes, segment size).

        A merged datagram is a run of its own, with a segment size below its length in bytes.
        """
        lengths = self._lengths[:got].tolist()
        controls = self._control_lengths[:got]
        segments = self._segments(got).tolist() if controls.any() else lengths
        name, names = _NAME, self._names
        start = 0
        while start < got:
            end = start + 1
            if segments[start] == lengths[start]:
                source = names[start * name : start * name + name]
                while (
                    end < got
                    and lengths[end] == segments[end] == lengths[start]
                    and names[end * name : end * name + name] == source
                ):
                    end += 1
            yield start, end - start, lengths[start], segments[start]
            start = end

    def _segments(self, got: int) -> NDArray[np.uint32]:
        """The segment sizes of the first `got` datagrams: the kernel makes it the first ancillary message."""
        heads, values, lengths = self._kinds[:got], self._sizes[:got], self._lengths[:got]
        merged = (self._control_lengths[:got] >= 20) & (heads == _GRO) & (values > 0) & (values < lengths)
        return np.where(merged, values, lengths)

    def extra(self, slot: int) -> list[pktinfo.Control]:
        """The ancillary messages of a datagram, in the form that `socket.recvmsg` returns."""
        at = slot * _CONTROL
        return controls_of(self._controls[at : at + int(self._control_lengths[slot])])

    def source(self, slot: int) -> tuple[str, int, int]:
        """The source of a datagram: (address, port, scope id)."""
        return address_of(self._names[slot * _NAME : slot * _NAME + _NAME])


class Sender:
    """Sends the segments of one buffer to one address, each as a datagram of its own."""

    def __init__(self) -> None:
        self._name = bytearray(_NAME)
        self._iovs: NDArray[np.void] = np.zeros(COUNT, _IOVEC)
        self._heads: NDArray[np.void] = np.zeros(COUNT, _MSGHDR)
        self._heads["name"] = _address(self._name)
        self._heads["iov"] = self._iovs.ctypes.data + np.arange(COUNT, dtype=np.uint64) * np.uint64(16)
        self._heads["iov_count"] = 1

    def send(self, fd: int, address: tuple[str, int, int], data: memoryview, segment: int) -> int:
        """Send segments and return the bytes sent in whole datagrams; fewer than given: buffer full or refused.

        `address`: host, port, scope id. `data`: writable memory of at most COUNT segments of `segment` bytes. Raises
        OSError when nothing was sent.
        """
        host, port, scope = address
        if ":" in host:
            packed = socket.inet_pton(socket.AF_INET6, host)
            _V6.pack_into(self._name, 0, socket.AF_INET6, socket.htons(port), 0, packed, scope)
            self._heads["name_length"] = _V6.size
        else:
            packed = socket.inet_pton(socket.AF_INET, host)
            _V4.pack_into(self._name, 0, socket.AF_INET, socket.htons(port), packed)
            self._heads["name_length"] = 16
        total = len(data)
        count = -(-total // segment)
        base = ctypes.addressof(ctypes.c_char.from_buffer(data))
        self._iovs["base"][:count] = base + np.arange(count, dtype=np.uint64) * np.uint64(segment)
        self._iovs["length"][:count] = segment
        self._iovs["length"][count - 1] = total - (count - 1) * segment
        sent: int = _LIBC.sendmmsg(fd, ctypes.c_void_p(self._heads.ctypes.data), count, _MSG_DONTWAIT)
        if sent < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return min(sent * segment, total)
