"""Opens many UDP sockets at once beside the WireGuard port: new flows, for which a NAT allocates ports."""

from __future__ import annotations

import select
import socket

from netctl.model.addresses import SocketAddress

MAX_DATAGRAM = 2048
"""Bytes of one receive; probes and STUN answers are far shorter."""
MAX_DRAIN = 256
"""Datagrams received by one `receive`."""


class BatchSockets:
    """Batches of UDP sockets by number, and single sockets that are kept for their port."""

    def __init__(self) -> None:
        self.family = socket.AF_INET
        """The family of new sockets; AF_INET6 where IPv4 is reached through NAT64."""
        self._poll = select.epoll()
        self._batches: dict[int, list[socket.socket | None]] = {}
        self._where: dict[int, tuple[int, int]] = {}
        """Batch and index by descriptor."""
        self._kept: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        """A descriptor that is readable while a datagram waits at any socket of a batch."""
        return self._poll.fileno()

    def open(self, batch: int, count: int) -> tuple[int, ...]:
        """Open `count` sockets, or as many as the system permits; returns their local ports."""
        opened: list[socket.socket | None] = []
        ports = []
        for index in range(count):
            try:
                one = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError:
                break  # no more descriptors: an attempt with fewer sockets is still useful
            try:
                one.bind(("", 0))
                self._poll.register(one, select.EPOLLIN)
            except OSError:
                one.close()
                break
            self._where[one.fileno()] = batch, index
            opened.append(one)
            ports.append(int(one.getsockname()[1]))
        self._batches[batch] = opened
        return tuple(ports)

    def send(self, batch: int, index: int, destination: SocketAddress, data: bytes) -> bool:
        """Send one datagram; False when the system refused or the socket is gone."""
        sockets = self._batches.get(batch, [])
        one = sockets[index] if index < len(sockets) else None
        if one is None:
            return False
        try:
            one.sendto(data, (destination.host, destination.port))
        except OSError:
            return False
        return True

    def receive(self) -> list[tuple[int, int, bytes, SocketAddress]]:
        """The received datagrams as (batch, index, data, source); never blocks."""
        found: list[tuple[int, int, bytes, SocketAddress]] = []
        for descriptor, _ in self._poll.poll(0, MAX_DRAIN):
            batch, index = self._where[descriptor]
            one = self._batches[batch][index]
            assert one is not None
            try:
                data, (host, port, *_) = one.recvfrom(MAX_DATAGRAM)
            except OSError:
                continue  # an ICMP error for a datagram of ours: ignored
            if port:
                found.append((batch, index, data, SocketAddress.of(host, port)))
        return found

    def keep(self, batch: int | None, local_port: int) -> bool:
        """Keep this port, with the batch's socket on it or a new one. False: another program has the port."""
        if local_port in self._kept:
            return True
        sockets = self._batches.get(batch, []) if batch is not None else []
        for index, one in enumerate(sockets):
            if one is not None and one.getsockname()[1] == local_port:
                self._forget(one)
                sockets[index] = None
                self._kept[local_port] = one
                return True
        fresh = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            fresh.bind(("", local_port))
        except OSError:
            fresh.close()
            return False
        self._kept[local_port] = fresh
        return True

    def release(self, local_port: int) -> None:
        """Free a kept port."""
        one = self._kept.pop(local_port, None)
        if one is not None:
            one.close()

    def _forget(self, one: socket.socket) -> None:
        self._poll.unregister(one)
        del self._where[one.fileno()]

    def close_batch(self, batch: int) -> None:
        """Close the sockets of a batch; kept ports stay."""
        for one in self._batches.pop(batch, []):
            if one is not None:
                self._forget(one)
                one.close()

    def close(self) -> None:
        """Close everything."""
        for batch in list(self._batches):
            self.close_batch(batch)
        for one in self._kept.values():
            one.close()
        self._kept.clear()
        self._poll.close()
