"""Finds our server-reflexive addresses with the mediator's STUN ports (RFC 8489, similar to RFC 5780)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from netctl.model.addresses import SocketAddress
from netctl.model.deadlines import earliest
from netctl.model.errors import RemoteError
from netctl.paths.constants import (
    FAMILY_LEAD,
    HAIRPIN_WAIT,
    MAX_SRFLX,
    MAX_STUN_SERVERS,
    STUN_GATHER,
    STUN_REFRESH,
    STUN_RETRY,
)
from netctl.paths.effects import SendDatagram
from netctl.wire import stun


@dataclass(slots=True)
class _Server:
    mapped: SocketAddress | None = None
    transactions: list[bytes] = field(default_factory=list)
    attempts: int = 0
    due: float | None = None
    """When to ask (again)."""
    is_silent: bool = False
    """Whether all questions of a gathering went unanswered, and no answer has come since."""


class Discovery:
    """Asks every STUN server, in rounds of a few retries, and again every `STUN_REFRESH` seconds."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self._servers: dict[SocketAddress, _Server] = {}
        self.own: frozenset[SocketAddress] = frozenset()
        """This host's own addresses: a server that sees one of them proves that there is no NAT."""
        self.blocked = False
        """Whether no server answers over UDP."""
        self.change = 0
        """Changes whenever `answers` and `silent` may."""
        self._answers: dict[bool, Mapping[SocketAddress, SocketAddress | None]] = {}
        self._silent: dict[bool, bool] = {}
        """What the methods of these names returned since the last change: both are called at each event of a host."""
        self._hairpin: bytes | None = None
        self._hairpin_at: float | None = None
        self._hairpinned = False
        self._deadline: float | None = None
        self._gathered_at = float("-inf")
        self._soonest: float | None = None
        """When `handle_timer` is due: hosts are asked for it at each of their events."""

    def set_servers(self, servers: list[SocketAddress], now: float) -> None:
        """Replace the servers; the answers of servers that stay are kept."""
        kept = {server: self._servers.get(server, _Server()) for server in servers[:MAX_STUN_SERVERS]}
        if kept.keys() != self._servers.keys():
            self._servers = kept
            self._changed()
            self.gather(now)

    def gather(self, now: float, *, rest_s: float = 0.0) -> None:
        """Ask all servers now, unless they were asked less than `rest_s` seconds ago."""
        if now - self._gathered_at < rest_s:
            return
        self._gathered_at = now
        for server in self._servers.values():
            server.transactions.clear()
            server.attempts = 0
            server.due = now
        self._deadline = now + STUN_GATHER if self._servers else None
        self._plan()

    def ready(self, now: float) -> bool:
        """Whether the gathering has ended: all awaited servers have answered, or the time is over."""
        return self._deadline is None or now >= self._deadline

    def mapped(self) -> list[SocketAddress]:
        """The distinct server-reflexive addresses, at most `MAX_SRFLX`."""
        seen = dict.fromkeys(server.mapped for server in self._servers.values() if server.mapped is not None)
        return list(seen)[:MAX_SRFLX]

    def answers(self, *, ipv6: bool) -> Mapping[SocketAddress, SocketAddress | None]:
        """The address of ours that each server of one family has seen; None: the server is silent."""
        found = self._answers.get(ipv6)
        if found is None:
            servers = self._servers.items()
            found = {address: server.mapped for address, server in servers if address.is_ipv6 == ipv6}
            self._answers[ipv6] = found
        return found

    def silent(self, *, ipv6: bool) -> bool:
        """Whether all servers of one family are silent."""
        found = self._silent.get(ipv6)
        if found is None:
            asked = [server for address, server in self._servers.items() if address.is_ipv6 == ipv6]
            found = self._silent[ipv6] = bool(asked) and all(server.is_silent for server in asked)
        return found

    def _changed(self) -> None:
        self.change += 1
        self._answers.clear()
        self._silent.clear()

    def hairpin(self, now: float) -> bool | None:
        """Whether the NAT returns packets to its own outside address (RFC 4787 §6); None: not known yet, or no NAT."""
        if self._hairpinned:
            return True
        return False if self._hairpin_at is not None and now >= self._hairpin_at + HAIRPIN_WAIT else None

    def handle_answer(self, data: bytes, source: SocketAddress, now: float) -> bool:
        """Take a STUN datagram; True if the set of mapped addresses changed. Unrequested answers are ignored."""
        if self._hairpin is not None and data[8:20] == self._hairpin:
            self._hairpinned = True
            return False
        server = self._servers.get(source)
        if server is None or data[8:20] not in server.transactions:
            return False
        try:
            message = stun.decode(data)
            mapped = message.mapped
        except RemoteError:
            return False
        if message.kind != stun.BINDING_SUCCESS or not message.fingerprint or mapped is None:
            return False
        before = self.mapped()
        self.blocked = False
        if server.is_silent or mapped != server.mapped:
            self._changed()
        server.is_silent = False
        if mapped != server.mapped:
            self._hairpin = self._hairpin_at = None  # another NAT may behave differently
            self._hairpinned = False
        server.mapped = mapped
        server.transactions.clear()
        server.due = now + STUN_REFRESH
        server.attempts = 0
        if not any(self._waits_for(other) for other in self._servers):
            self._deadline = None
        elif self._deadline is not None and not any(
            self._waits_for(other) for other in self._servers if other.is_ipv6 == source.is_ipv6
        ):
            self._deadline = min(self._deadline, now + FAMILY_LEAD)
        self._plan()
        return self.mapped() != before

    def _waits_for(self, address: SocketAddress) -> bool:
        """Whether an offer waits for this server's answer: it was asked, and its family is one that this host has."""
        server = self._servers[address]
        if server.due is None or not server.transactions:
            return False
        ours = {one.is_ipv6 for one in self.own}
        return address.is_ipv6 in ours or not any(other.is_ipv6 in ours for other in self._servers)

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._soonest

    def _plan(self) -> None:
        self._soonest = earliest(self._deadline, *[server.due for server in self._servers.values()])

    def handle_timer(self, now: float) -> list[SendDatagram]:
        """The requests that are due. After a whole gathering without answer, a server's earlier answer is dropped."""
        effects: list[SendDatagram] = []
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
        if self._deadline is None and self._hairpin is None:
            effects += self._ask_ourselves(now)
        if self._soonest is None or now < self._soonest:
            return effects
        for address, server in self._servers.items():
            if server.due is None or now < server.due:
                continue
            if server.attempts > len(STUN_RETRY):
                server.mapped, server.is_silent = None, True
                self._changed()
                self.blocked = not self.mapped()
                server.transactions.clear()
                # If other servers answer, this one's family is missing: one request at a time detects its return.
                server.attempts = 0 if self.blocked else len(STUN_RETRY)
                server.due = now + STUN_REFRESH
                continue
            transaction = self._rng(stun.TRANSACTION_LEN)
            server.transactions.append(transaction)
            effects.append(SendDatagram(address, stun.binding_request(transaction)))
            wait = STUN_RETRY[server.attempts] if server.attempts < len(STUN_RETRY) else STUN_REFRESH / 5
            server.due = now + wait
            server.attempts += 1
        self._plan()
        return effects

    def _ask_ourselves(self, now: float) -> list[SendDatagram]:
        """The hairpin test: one datagram to our own outside address, once for each such address."""
        outside = next((one for one in self.mapped() if not one.is_ipv6 and one not in self.own), None)
        if outside is None:
            return []
        self._hairpin, self._hairpin_at = self._rng(stun.TRANSACTION_LEN), now
        return [SendDatagram(outside, stun.binding_request(self._hairpin))]
