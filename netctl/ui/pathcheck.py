"""Whether a peer answers through the tunnel just now, and how large packets may be: echo requests (RFC 792, RFC 4443).

What an operator of the page may start is bounded: one check at a time, so many a minute, each of some seconds and some
200 packets, and only to the addresses of a peer that the agent names.
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
"""In CHECKS_S: a person looks, changes something and looks again; more is a flood that the page would pay for."""
CHECKS_S = 60.0
PINGS = 8
SMALL = 84
"""Bytes of a ping, as ping(8) sends it."""
EVERY_S = 0.25
LAST_S = 1.0
"""For the answer to the last ping: the way round the earth and back takes a third of it."""
ROUNDS = 3
"""A size has passed if one of so many was answered: one lost packet is no small MTU."""
HEADERS = {4: 28, 6: 48}
"""Bytes of IP and ICMP before the data."""
MAX_READ = 65_536
_SIOCGIFMTU = 0x8921
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3
"""ip(7), ipv6(7): send whole or not at all, whatever this host knows of the way."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came back. `rtt_ms`: the median; `mtu`: the largest packet that passed both ways, in bytes, None: none."""

    sent: int
    received: int
    rtt_ms: float | None
    tunnel_mtu: int
    mtu: int | None


class Budget:
    """How often a check may begin. Takes the time as an argument."""

    def __init__(self) -> None:
        self._began: deque[float] = deque()
        self._one = threading.Lock()

    def take(self, now: float) -> None:
        """Begin one, at monotonic seconds `now`. Raises LocalError where it is one too many."""
        while self._began and self._began[0] <= now - CHECKS_S:
            self._began.popleft()
        if len(self._began) >= MAX_CHECKS:
            raise LocalError(f"{MAX_CHECKS} checks within a minute are enough: wait a little")
        if not self._one.acquire(blocking=False):
            raise LocalError("somebody checks a path just now: it takes some seconds")
        self._began.append(now)

    def give_back(self) -> None:
        """It is over."""
        self._one.release()


def check(address: Address, link: str) -> Checked:
    """Ask the host at `address`, whose packets leave by `link`. Takes some three seconds.

    Raises LocalError without the right to send echo requests, and where the link is gone.
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
    """Echo requests of one socket to one address."""

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
        """By size in bytes: seconds there and back, of those that were answered."""

    def ask(self, sizes: list[int], wait_s: float) -> None:
        """Send packets of these sizes in bytes, and listen for so long: also for answers to those before."""
        for size in sizes:
            self._send(size)
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                self._receive()

    def _send(self, size: int) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        data_len = max(size - HEADERS[self._version], 0)
        packet = echo.request(self._version, self._id, self._sequence, data_len)
        self._sent[self._sequence] = (size, time.monotonic())
        try:
            self._socket.sendto(packet, (str(self._address), 0))
        except OSError:
            return  # no route, or too large for the link: an answer that does not come

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
    """Of a link, in bytes (netdevice(7))."""
    asked = struct.pack("16si", link.encode(), 0)
    _, mtu = struct.unpack_from("16si", fcntl.ioctl(opened, _SIOCGIFMTU, asked))
    return int(mtu)


def nearest(texts: list[str]) -> Address | None:
    """Which of a peer's addresses to ask: IPv4 first, which every network has."""
    found = [ipaddress.ip_address(text) for text in texts]
    return min(found, key=lambda one: one.version, default=None)
