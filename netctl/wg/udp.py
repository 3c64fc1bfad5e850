"""The UDP sockets for IPv4 and IPv6 on one port; they send with GSO and receive with GRO where available (udp(7))."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator

from netctl.model.addresses import SocketAddress
from netctl.system import mmsg
from netctl.wg.tun import MAX_GSO_BYTES, MAX_GSO_SEGMENTS

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_MARK = 32, 33, 36
_IPV6_V6ONLY = 26
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT, _PMTUDISC_PROBE = 10, 23, 0, 3
BUFFER_BYTES = 7 * 1024 * 1024
"""Size of the socket buffers, as in wireguard-go: some 60 ms at 1 Gbit/s, enough for a scheduling pause."""
NO_GSO = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP})
"""Errors which mean that a GSO send failed and datagrams must be sent one by one: the route has a smaller MTU, or the
card computes no checksums."""
FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})
MAX_SINGLY = 4096
"""Destinations remembered as refusing GSO; past this number all are tried again."""
SEGMENT_SIZE = struct.Struct("H")
MAX_ADDRESSES = 4096
"""Destinations whose socket address is cached; past this number the cache is cleared."""


class Udp:
    """Both sockets. Sending never blocks and never raises: a datagram that cannot be sent is lost, as with UDP."""

    def __init__(self, port: int, mark: int = 0) -> None:
        """Bind to `port`, or any for 0. Raises OSError."""
        self._sockets: dict[int, socket.socket] = {}
        self.port = port
        self._singly: set[SocketAddress] = set()
        self._recent: SocketAddress | None = None
        self._addresses: dict[SocketAddress, tuple[str, int] | tuple[str, int, int, int]] = {}
        self._sender = mmsg.Sender() if mmsg.AVAILABLE else None
        self.gro = True
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                opened = self._open(family)
                if opened is not None:
                    self._sockets[family] = opened
        except OSError:
            self.close()
            raise
        if not self._sockets:
            raise OSError(errno.EAFNOSUPPORT, "neither IPv4 nor IPv6")
        if mark:
            self.set_mark(mark)

    def _open(self, family: int) -> socket.socket | None:
        try:
            opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            return None  # a kernel without this family
        try:
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_V6ONLY, 1)
            for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
                try:
                    opened.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
                except OSError:  # needs root of the first user namespace
                    opened.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
            # As in the kernel's WireGuard: a datagram larger than a route's MTU is fragmented, not refused.
            if family == socket.AF_INET:
                opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
            else:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
            opened.bind(("", self.port) if family == socket.AF_INET else ("::", self.port))
            self.port = opened.getsockname()[1]
            try:
                opened.setsockopt(_SOL_UDP, _UDP_GRO, 1)
            except OSError:
                self.gro = False
        except OSError as error:
            opened.close()
            if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
                return None  # IPv6 is switched off on this host
            raise
        return opened

    def close(self) -> None:
        """Close both sockets."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()

    def filenos(self) -> Iterator[tuple[int, socket.socket]]:
        """The descriptors to wait for, with their sockets."""
        for opened in self._sockets.values():
            yield opened.fileno(), opened

    def fileno(self, family: int) -> int:
        """The descriptor of the socket of this family, -1 where there is none."""
        opened = self._sockets.get(family)
        return opened.fileno() if opened is not None else -1

    def forget_refusals(self) -> None:
        """Try GSO again with destinations that refused it, since routes and interfaces change."""
        self._singly.clear()
        self._addresses.clear()
        self._recent = None

    def set_mark(self, mark: int) -> None:
        """Set the firewall mark of sent datagrams (SO_MARK). Raises OSError without CAP_NET_ADMIN."""
        for opened in self._sockets.values():
            opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)

    def _socket(self, destination: SocketAddress) -> socket.socket | None:
        return self._sockets.get(socket.AF_INET6 if destination.is_ipv6 else socket.AF_INET)

    def _address(self, destination: SocketAddress) -> tuple[str, int] | tuple[str, int, int, int]:
        """The address in the form for the socket, a link-local address with its interface (RFC 4007 §11)."""
        known = self._addresses.get(destination)
        if known is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._addresses.clear()
            host, _, zone = destination.host.partition("%")
            known = (host, destination.port)
            if zone:
                known = (host, destination.port, 0, scope_id(zone))
            self._addresses[destination] = known
        return known

    def send(
        self,
        destination: SocketAddress,
        data: bytes | memoryview,
        ttl: int | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """Send one datagram. `ttl`: only for this datagram; `whole`: neither this host nor a router may fragment it."""
        opened = self._socket(destination)
        if opened is None:
            return
        if whole:
            six = destination.is_ipv6
            protocol = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
            option = _IPV6_MTU_DISCOVER if six else _IP_MTU_DISCOVER
            opened.setsockopt(protocol, option, _PMTUDISC_PROBE)
            try:
                self.send(destination, data, ttl)
            finally:
                opened.setsockopt(protocol, option, _PMTUDISC_DONT)
            return
        ancillary = []
        if ttl is not None:
            level = (
                (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)
                if destination.is_ipv6
                else (socket.IPPROTO_IP, socket.IP_TTL)
            )
            ancillary = [(*level, struct.pack("i", ttl))]
        with contextlib.suppress(OSError):
            opened.sendmsg([data], ancillary, 0, self._address(destination))

    def send_one(self, destination: SocketAddress, data: memoryview) -> None:
        """Send one datagram; without look-ups if the destination is the same as of the last one."""
        if destination is not self._recent:
            opened = self._socket(destination)
            if opened is None:
                return
            self._recent, self._recent_socket = destination, opened
            self._recent_address = self._address(destination)
        try:
            self._recent_socket.sendto(data, self._recent_address)
        except OSError:
            return  # the datagram is lost, as on any link

    def send_segments(self, destination: SocketAddress, data: memoryview, segment: int) -> None:
        """Send datagrams of `segment` bytes each (the last may be shorter), with one GSO send where that works.

        The caller keeps within MAX_GSO_BYTES and MAX_GSO_SEGMENTS.
        """
        total = len(data)
        if total <= segment:
            self.send_one(destination, data)
            return
        opened = self._socket(destination)
        if opened is None:
            return
        address = self._address(destination)
        assert total <= MAX_GSO_BYTES
        if destination not in self._singly:
            try:
                opened.sendmsg([data], [(_SOL_UDP, _UDP_SEGMENT, SEGMENT_SIZE.pack(segment))], 0, address)
                return
            except OSError as error:
                if error.errno in FULL or error.errno not in NO_GSO:
                    return
                if len(self._singly) >= MAX_SINGLY:
                    self._singly.clear()
                self._singly.add(destination)
        if self._sender is not None and total <= mmsg.COUNT * segment:
            scoped = (address[0], address[1], address[3] if len(address) == 4 else 0)
            with contextlib.suppress(OSError):
                data = data[self._sender.send(opened.fileno(), scoped, data, segment) :]
            total = len(data)  # the rest found the buffer full or was refused: try once more, one by one
        for start in range(0, total, segment):
            try:
                opened.sendto(data[start : start + segment], address)
            except OSError as error:
                if error.errno in FULL:
                    return

    def receive(
        self, opened: socket.socket, buffer: bytearray
    ) -> tuple[int, int, tuple[str, int, int]] | None:
        """(bytes, segment size, source with scope id) of one receive into `buffer`; None when no datagram waits.

        The segment size equals the byte count where nothing was merged.
        """
        try:
            count, ancillary, _, source = opened.recvmsg_into([buffer], 64)
        except BlockingIOError:
            return None
        except OSError:
            return None  # an ICMP error of an earlier send; the next receive returns data again
        segment = count
        for level, kind, value in ancillary:
            if level == _SOL_UDP and kind == _UDP_GRO:
                segment = int.from_bytes(value[:4], "little")
        return count, segment, (source[0], source[1], source[3] if len(source) == 4 else 0)


def scope_id(zone: str) -> int:
    """An interface index from its number or name; 0, which sends nowhere, for a missing interface."""
    if zone.isdigit():
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        return 0


__all__ = ["MAX_GSO_BYTES", "MAX_GSO_SEGMENTS", "Udp"]
