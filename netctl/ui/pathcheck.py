"""Tests whether a peer answers through the tunnel, and how large packets may be, by echo requests (RFC 792, RFC
4443).

The page bounds what its operators can start: one check at a time and a few a minute. Each takes some seconds and some
200 packets, which go only to an address of a peer that the agent knows.
"""

from __future__ import annotations

import fcntl
import ipaddress
import secrets
import select
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass

from netctl.model.addresses import Address
from netctl.model.errors import LocalError
from netctl.paths.mtuprobe import LADDER
from netctl.system import echo

MAX_CHECKS = 6
"""Checks within CHECKS_S seconds. A person who looks, changes something and looks again needs no more."""
CHECKS_S = 60.0
PINGS = 8
SMALL = 84
"""Bytes of a ping, as ping(8) sends it."""
EVERY_S = 0.25
"""Seconds between two pings."""
LAST_S = 1.0
"""Seconds for the answer to the last ping: to the other side of the earth and back takes a third of it."""
MAX_LATE = 64
"""Packets that are read after the time is over: they came while this process waited for a core."""
ROUNDS = 3
"""Packets of each size. A size passes if one of them is answered, so that a lost packet is not taken for a small
MTU."""
HEADERS = {4: 28, 6: 48}
"""Bytes of the IP and ICMP headers before the data, by version of IP."""
MAX_READ = 65_536
"""Bytes of the largest IP packet."""
_SIOCGIFMTU = 0x8921
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3
"""Socket options (ip(7), ipv6(7)): send a packet without fragments, whatever path MTU this host has learned."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check.

    `sent`, `received`: pings and answers; `rtt_ms`: the median round trip; `tunnel_mtu`: bytes that this host's tunnels
    carry; `mtu`: bytes of the largest packet that passed both ways. None: no ping was answered, or no larger packet.
    """

    sent: int
    received: int
    rtt_ms: float | None
    tunnel_mtu: int
    mtu: int | None


class Budget:
    """Decides whether a check may begin. Takes the time as an argument."""

    def __init__(self) -> None:
        self._began: deque[float] = deque()
        self._one = threading.Lock()

    def take(self, now: float) -> None:
        """Begin a check at `now` (monotonic seconds). Raises LocalError if another one runs, or if there were too
        many."""
        while self._began and self._began[0] <= now - CHECKS_S:
            self._began.popleft()
        if len(self._began) >= MAX_CHECKS:
            raise LocalError(f"{MAX_CHECKS} checks within a minute are enough: wait a little")
        if not self._one.acquire(blocking=False):
            raise LocalError("somebody checks a path just now: it takes some seconds")
        self._began.append(now)

    def give_back(self) -> None:
        """End the check."""
        self._one.release()


def check(address: Address, link: str) -> Checked:
    """Check the path to `address`, to which packets leave by the interface `link`. Takes some three seconds.

    Raises LocalError if this process may not send echo requests, or if there is no such interface.
    """
    version = address.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_RAW, _protocol(version)) as opened:
            full = _mtu(opened, link)
            echoes = _Echoes(opened, address)
            return _checked(echoes, full)
    except PermissionError:
        raise LocalError("asking a peer whether it answers needs a raw socket: run this as root") from None
    except OSError as error:
        raise LocalError(f"cannot ask {address}: {error.strerror}") from error


def _checked(echoes: _Echoes, full: int) -> Checked:
    for number in range(PINGS):
        echoes.ask([SMALL], EVERY_S if number < PINGS - 1 else LAST_S)
    trips = sorted(echoes.trips[SMALL])
    mtu = None
    if trips:
        wait_s = max(EVERY_S, 2 * trips[-1])
        for sizes in [[full], [size for size in LADDER if size < full]]:
            for _ in range(ROUNDS):
                echoes.ask(sizes, wait_s)
                if full in echoes.trips:
                    break
            mtu = max((size for size in sizes if size in echoes.trips), default=None)
            if mtu is not None:
                break
    middle = trips[len(trips) // 2] * 1000 if trips else None
    return Checked(PINGS, len(trips), middle, full, mtu)


class _Echoes:
    """Sends echo requests from one socket to one address, and measures the answers."""

    def __init__(self, opened: socket.socket, address: Address) -> None:
        self._socket, self._address = opened, address
        self._version = address.version
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
            if self._version == 4
            else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
        )
        opened.setsockopt(level, option, _PROBE)
        opened.setblocking(False)
        self._id = secrets.randbelow(2**16)
        self._sequence = 0
        self._sent: dict[int, tuple[int, float]] = {}
        self.trips: defaultdict[int, list[float]] = defaultdict(list)
        """Round trips in seconds of the requests that were answered, by size of the packet in bytes."""

    def ask(self, sizes: list[int], wait_s: float) -> None:
        """Send a packet of each of these sizes (bytes), and listen for `wait_s`, also for answers to earlier
        packets."""
        for size in sizes:
            self._send(size)
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                self._receive()
        for _ in range(MAX_LATE):
            if not select.select([self._socket], [], [], 0)[0]:
                return
            self._receive()

    def _send(self, size: int) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        data_len = max(size - HEADERS[self._version], 0)
        packet = echo.request(self._version, self._id, self._sequence, data_len)
        self._sent[self._sequence] = (size, time.monotonic())
        try:
            self._socket.sendto(packet, (str(self._address), 0))
        except OSError:
            return  # no route, or too large for the link: the same as no answer

    def _receive(self) -> None:
        try:
            data, source = self._socket.recvfrom(MAX_READ)
        except OSError:
            return
        found = echo.reply(self._version, data, self._id)
        if found is None or source[0].partition("%")[0] != str(self._address):
            return
        sequence, data_len = found
        sent = self._sent.get(sequence)
        if sent is None:
            return
        size, at = sent
        if data_len == size - HEADERS[self._version]:
            del self._sent[sequence]
            self.trips[size].append(time.monotonic() - at)


def _protocol(version: int) -> int:
    return socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6


def _mtu(opened: socket.socket, link: str) -> int:
    """The MTU of an interface, in bytes (netdevice(7))."""
    asked = struct.pack("16si", link.encode(), 0)
    _, mtu = struct.unpack_from("16si", fcntl.ioctl(opened, _SIOCGIFMTU, asked))
    return int(mtu)


def nearest(texts: list[str]) -> Address | None:
    """The address to check among those of a peer: an IPv4 one if there is any, because every network has IPv4."""
    found = [ipaddress.ip_address(text) for text in texts]
    return min(found, key=lambda one: one.version, default=None)
