"""Shares the port of any engine with raw sockets, on which a classic BPF filter selects our datagrams.

The kernel delivers every datagram to both sockets: the engine's socket ignores datagrams that are no WireGuard
messages, and the filter drops WireGuard messages. Raw sockets are behind the INPUT hook like the engine's socket, so a
firewall that passes a probe passes the tunnel. Sent datagrams have the engine's port as their source and so belong to
the same flow for connection tracking and NAT.

With receive offload, by the network card or the engine, the kernel delivers one packet merged from many of a flow. A
message of ours can only be the last one behind data, since it is shorter: the filter looks there, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import struct
from collections.abc import Iterator

from netctl.model.addresses import SocketAddress
from netctl.model.errors import EngineError
from netctl.wire.datagram import MAGIC, STUN_COOKIE
from netctl.wire.merged import TAIL_LENGTHS, split

MAX_RECEIPT = 65535
"""Bytes of one receive: our messages are far below any MTU, but a merged packet is as long as IP allows."""
RECEIVE_BUFFER = 1 << 20
"""Bytes: a few thousand probes may queue while the agent is busy."""
SEND_BUFFER = 1 << 19
_SO_ATTACH_FILTER = 26
_IP_PKTINFO = 8
_IPV6_CHECKSUM = 7
_UDP_CHECKSUM_OFFSET = 6
_UDP_HEADER = struct.Struct(">HHHH")
_INSTRUCTION = struct.Struct("HBBI")
_MTU_DISCOVER: dict[int, tuple[int, int]] = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),
}
"""IP_MTU_DISCOVER, IPV6_MTU_DISCOVER."""
_PMTUDISC_PROBE = 3
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def _program(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)


_LD_WORD_ABS, _LD_HALF_ABS, _LD_WORD_IND, _LD_HALF_IND, _LDX_IHL = 0x20, 0x28, 0x40, 0x48, 0xB1
_LD_LEN, _SUB, _TAX = 0x80, 0x14, 0x07
_JEQ, _JSET, _RET = 0x15, 0x45, 0x06
_ACCEPT = (_RET, 0, 0, MAX_RECEIPT)
_DROP = (_RET, 0, 0, 0)
_MAGIC = int.from_bytes(MAGIC, "big")
_DROP_ALL = _program(_DROP)


def _ours(load_word: int, payload: int) -> tuple[tuple[int, int, int, int], ...]:
    """Accept packets with magic or cookie at the start, or with magic where a last message of ours would begin."""
    found: list[tuple[int, int, int, int]] = [
        (load_word, 0, 0, payload),
        (_JEQ, 0, 1, _MAGIC),
        _ACCEPT,
        (load_word, 0, 0, payload + 4),
        (_JEQ, 0, 1, int.from_bytes(STUN_COOKIE, "big")),
        _ACCEPT,
    ]
    for length in TAIL_LENGTHS:
        # A packet shorter than this is not ours: the load beyond its end drops it.
        found += [(_LD_LEN, 0, 0, 0), (_SUB, 0, 0, length), (_TAX, 0, 0, 0), (_LD_WORD_IND, 0, 0, 0)]
        found += [(_JEQ, 0, 1, _MAGIC), _ACCEPT]
    return (*found, _DROP)


def ipv4_filter(port: int) -> bytes:
    """Classic BPF over an IPv4 packet from its IP header: no fragment, to `port`, ours at its head or end."""
    return _program(
        (_LD_HALF_ABS, 0, 0, 6),  # flags and fragment offset
        (_JSET, 0, 1, 0x3FFF),
        _DROP,
        (_LDX_IHL, 0, 0, 0),  # X = header length, which depends on options
        (_LD_HALF_IND, 0, 0, 2),
        (_JEQ, 1, 0, port),
        _DROP,
        *_ours(_LD_WORD_IND, 8),
    )


def ipv6_filter(port: int) -> bytes:
    """The same for an IPv6 raw socket, whose packets begin with the UDP header."""
    return _program((_LD_HALF_ABS, 0, 0, 2), (_JEQ, 1, 0, port), _DROP, *_ours(_LD_WORD_ABS, 8))


def udp_checksum(source: bytes, destination: bytes, segment: bytes) -> int:
    """The UDP checksum (RFC 768), with two packed IPv4 addresses; `segment`: header with a zero checksum, and data."""
    pseudo = source + destination + struct.pack(">BBH", 0, socket.IPPROTO_UDP, len(segment))
    data = pseudo + segment + bytes(len(segment) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data)) % 0xFFFF
    return (~total & 0xFFFF) or 0xFFFF


def _attach(sock: socket.socket, program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _open(family: int, program: bytes) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_UDP)
    try:
        # Before a filter is attached, everything is queued: drop all, empty the queue, then attach our filter.
        _attach(sock, _DROP_ALL)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _UDP_CHECKSUM_OFFSET)
        _attach(sock, program)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def in_one_piece(sock: socket.socket, family: int) -> Iterator[None]:
    """Send datagrams in the block unfragmented or not at all (IPv4: DF), regardless of the kernel's path MTU."""
    level, option = _MTU_DISCOVER[family]
    before = sock.getsockopt(level, option)
    sock.setsockopt(level, option, _PMTUDISC_PROBE)
    try:
        yield
    finally:
        sock.setsockopt(level, option, before)


class RawPort:
    """A `SharedPort` on raw sockets, one per family (IPv6 only where the host has it)."""

    def __init__(self, listen_port: int, max_drain: int) -> None:
        """Open the sockets. `max_drain`: datagrams in one `receive`. Raises EngineError, also without permission."""
        self._port = listen_port
        self._max_drain = max_drain
        self._sockets: dict[int, socket.socket] = {}
        try:
            self._sockets[socket.AF_INET] = _open(socket.AF_INET, ipv4_filter(listen_port))
            with contextlib.suppress(OSError):  # no IPv6 on this host
                self._sockets[socket.AF_INET6] = _open(socket.AF_INET6, ipv6_filter(listen_port))
        except PermissionError:
            raise EngineError("raw sockets need root or CAP_NET_RAW: run as root") from None
        except OSError as error:
            raise EngineError(
                f"cannot open a raw socket on UDP port {listen_port}: {error.strerror}"
            ) from error
        self._router = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._poll = select.epoll()
        for sock in self._sockets.values():
            self._poll.register(sock, select.EPOLLIN)

    def fileno(self) -> int:
        """An epoll descriptor over both sockets; readable while either is."""
        return self._poll.fileno()

    def receive(self) -> list[tuple[bytes, SocketAddress]]:
        """The received datagrams, about `max_drain` at most; never blocks; malformed packets are left out."""
        found: list[tuple[bytes, SocketAddress]] = []
        for family, sock in self._sockets.items():
            while len(found) < self._max_drain:
                try:
                    packet, address = sock.recvfrom(MAX_RECEIPT)
                except BlockingIOError:
                    break
                except OSError:
                    break  # an ICMP error, which is ignored
                start = (packet[0] & 15) * 4 if family == socket.AF_INET else 0
                if len(packet) < start + _UDP_HEADER.size:
                    continue
                source_port, _, length, _ = _UDP_HEADER.unpack_from(packet, start)
                payload = packet[start + _UDP_HEADER.size : start + length]
                if source_port and len(payload) == length - _UDP_HEADER.size:
                    host = address[0].partition("%")[0]
                    source = SocketAddress.of(host, source_port)
                    found += [(message, source) for message in split(payload)]
        return found

    def send(
        self, destination: SocketAddress, data: bytes, ttl: int | None = None, *, whole: bool = False
    ) -> bool:
        """Send from the WireGuard port. False when the system refused, for example a datagram too large for `whole`."""
        family = socket.AF_INET6 if destination.is_ipv6 else socket.AF_INET
        sock = self._sockets.get(family)
        if sock is None:
            return False
        if whole:
            with in_one_piece(sock, family):
                return self.send(destination, data, ttl)
        header = _UDP_HEADER.pack(self._port, destination.port, _UDP_HEADER.size + len(data), 0)
        try:
            if family == socket.AF_INET6:
                extra = (
                    []
                    if ttl is None
                    else [(socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, struct.pack("i", ttl))]
                )
                sock.sendmsg([header, data], extra, 0, (destination.host, 0))
                return True
            return self._send_ipv4(sock, destination, header, data, ttl)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise EngineError("the shared port is closed") from None
            return False

    def _send_ipv4(
        self, sock: socket.socket, destination: SocketAddress, header: bytes, data: bytes, ttl: int | None
    ) -> bool:
        # The checksum covers the source address, which the kernel picks: ask for it, then set the same.
        self._router.connect((destination.host, destination.port))
        source = socket.inet_aton(self._router.getsockname()[0])
        checksum = udp_checksum(source, socket.inet_aton(destination.host), header + data)
        header = header[:_UDP_CHECKSUM_OFFSET] + checksum.to_bytes(2, "big")
        extra = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4s", 0, source, bytes(4)))]
        if ttl is not None:
            extra.append((socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", ttl)))
        sock.sendmsg([header, data], extra, 0, (destination.host, 0))
        return True

    def close(self) -> None:
        """Close everything; idempotent."""
        self._poll.close()
        self._router.close()
        for sock in self._sockets.values():
            sock.close()
