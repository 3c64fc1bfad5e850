"""Echo requests through the tunnels (RFC 792, RFC 4443), by raw sockets, which need root."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from netctl.model.addresses import Address
from netctl.model.errors import LocalError
from netctl.system import echo


@dataclass(slots=True)
class Answers:
    """The answers of one address during one stretch of time."""

    sent: int = 0
    received: int = 0
    longest_gap_s: float = 0.0
    """The longest time without an answer; beginning and end of the stretch count as answers."""
    rtt_ms: float | None = None
    """Round trip of the newest answer."""


class Pinger:
    """Pings a set of addresses."""

    def __init__(self, addresses: Iterable[Address], every_s: float = 0.5) -> None:
        """`every_s`: interval per address. Raises LocalError if the user may not open a raw socket."""
        self._addresses = tuple(addresses)
        self._every_s = every_s
        self._id = os.getpid() & 0xFFFF
        self._sequence = 0
        self._sent_at: dict[tuple[Address, int], float] = {}
        self._sockets: dict[int, socket.socket] = {}
        protocols = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
        for version in {address.version for address in self._addresses}:
            family, protocol = protocols[version]
            try:
                opened = socket.socket(family, socket.SOCK_RAW, protocol)
            except PermissionError:
                message = "asking peers whether they answer needs a raw socket: run this as root"
                raise LocalError(message) from None
            opened.setblocking(False)
            self._sockets[version] = opened

    def close(self) -> None:
        """Close the sockets."""
        for opened in self._sockets.values():
            opened.close()

    def stretch(self, seconds: float) -> dict[Address, Answers]:
        """Ping for `seconds`; the answers by address. An answer counts only in the stretch of its request."""
        found = {address: Answers() for address in self._addresses}
        start = time.monotonic()
        heard = dict.fromkeys(found, start)
        end, due = start + seconds, start
        while (now := time.monotonic()) < end:
            if now >= due:
                due += self._every_s
                self._sequence = (self._sequence + 1) & 0xFFFF
                for address, answers in found.items():
                    answers.sent += 1
                    self._send(address, now)
            wait = min(due, end) - time.monotonic()
            ready, _, _ = select.select(list(self._sockets.values()), [], [], max(wait, 0))
            for opened in ready:
                self._receive(opened, found, heard)
        self._sent_at.clear()
        for address, answers in found.items():
            answers.longest_gap_s = max(answers.longest_gap_s, time.monotonic() - heard[address])
        return found

    def _send(self, address: Address, now: float) -> None:
        packet = echo.request(address.version, self._id, self._sequence)
        self._sent_at[address, self._sequence] = now
        try:
            self._sockets[address.version].sendto(packet, (str(address), 0))
        except OSError:
            return  # no route now: counts as a missing answer

    def _receive(
        self, opened: socket.socket, found: dict[Address, Answers], heard: dict[Address, float]
    ) -> None:
        version = 4 if opened.family == socket.AF_INET else 6
        try:
            data, source = opened.recvfrom(2048)
        except OSError:
            return
        reply = echo.reply(version, data, self._id)
        address = next((a for a in found if str(a) == source[0].partition("%")[0]), None)
        if reply is None or address is None:
            return
        asked = self._sent_at.pop((address, reply[0]), None)
        if asked is None:
            return
        now, answers = time.monotonic(), found[address]
        answers.received += 1
        answers.rtt_ms = (now - asked) * 1000
        answers.longest_gap_s = max(answers.longest_gap_s, now - heard[address])
        heard[address] = now
