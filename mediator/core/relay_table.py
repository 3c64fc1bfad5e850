"""The relay's decisions, sans-IO: which member is bound to which address, and where a datagram goes.

No state until CONFIRM returns a cookie from the real source address; then one `Binding` per (member, peer). A refused
message gets no answer. Only the message type of a packet's payload is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mediator.core.relay_grants import GRANT_TTL_S
from mediator.core.relay_limits import Ledger, Limits, Toll
from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire import relay
from netctl.wire.datagram import pack_address

BINDING_TTL_S = 65.0
"""Three refreshes, one every 20 s, may be lost."""
COOKIE_SLOT_S = 60.0
"""A cookie is valid in its slot and the next one."""
MAX_BINDINGS = 65536
"""Bindings in all: about 40 MB."""
MAX_BINDINGS_PER_MEMBER = 1024
"""Twice the largest segment. The limit keeps one member from filling the table."""
MAX_SECRETS = 16
"""As many mediators as a document may have. A message without a good grant costs 6 µs for each."""
CLOCK_TOLERANCE_S = 3600
"""How far the clock of a relay may be behind that of a mediator. A grant that ends later than this after the longest
life of a grant is refused: without the limit, whoever has a grant of a mediator with a wrong clock could use it for
years.
"""
LATELY_S = 3600.0
"""Members renew their grants once an hour. While any grant of a mediator was accepted within so long, one that has
expired is that of a member that slept, and no sign of a wrong clock."""


@dataclass(slots=True)
class Binding:
    """A member's address for one peer: packets of the member with `peer_port` go to it."""

    own_port: int
    peer_port: int
    source: SocketAddress
    secret: bytes
    """By which its grant was made."""
    key: bytes
    transaction: bytes
    refreshed_at: float
    toll: Toll
    """The toll of this member's packets to the peer."""
    peer_told: bool = False
    """Whether the last BOUND said that the peer is bound."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Send `data` out of relay port `port`."""

    port: int
    destination: SocketAddress
    data: bytes


class Heard(Protocol):
    """Receiver of forwarded transport messages."""

    def note(self, datagram: memoryview, now: float) -> None:
        """Take the last message of a batch."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The destination of the datagrams of one bound source."""

    port: int
    """The relay port to send from: the sender's own."""
    destination: SocketAddress
    toll: Toll
    heard: Heard | None = None
    """Receives the datagrams too, as a stock app's address is learned only from them."""


class RelayTable:
    """All bindings of one relay. `now`: monotonic seconds; `unix_now`: only for the expiry of allocations."""

    def __init__(
        self, secret: bytes, cookie_secret: bytes, ports: range, limits: Limits | None = None
    ) -> None:
        """`secret`: of the mediator whose grants are good; `trust` says others."""
        self._secrets: tuple[bytes, ...] = (secret,)
        self._cookie_secret = cookie_secret
        self._ports = ports
        self.unheld: frozenset[int] = frozenset()
        """Ports of the range that the relay could not bind: it sends nothing from them, so it binds no member there."""
        self.ledger = Ledger(limits or Limits())
        self._present: set[tuple[int, int]] = set()
        """(port of a pair, member's port) if the stock app on the other side of that pair is bound."""
        self._bindings: dict[tuple[int, int], Binding] = {}
        self._by_source: dict[tuple[int, SocketAddress], Binding] = {}
        self._per_member: Counter[int] = Counter()
        self._behind: dict[bytes, float] = {}
        """By secret: the mediator's clock is ahead of the relay's by at least this, seconds. Its accepted grants show
        it, because no grant ends later than `GRANT_TTL_S` after it was made.
        """
        self.clock_behind_s = 0.0
        """The largest such difference that any grant showed lately (6 to 12 hours), also one that was refused."""
        self._shown, self._shown_from = 0.0, 0.0
        """The same in the present period of `GRANT_TTL_S`, and when that began, by `unix_now`."""
        self._accepted_at: dict[bytes, float] = {}
        """By secret: when a grant was accepted last, by `unix_now`."""
        self._overdue: Counter[bytes] = Counter()
        """By secret: grants that had expired since one was accepted, without those within `LATELY_S` after that."""
        self.expired = 0
        """Messages with a good grant that has expired. A member that slept for hours sends some before it has a new
        one."""
        self.ahead = 0
        """Messages with a good grant that was refused because it ends too late: a clock is wrong by over an hour."""
        self.generation = 0
        """Changes whenever `flow` may give a new answer: shells may cache answers until then."""

    @property
    def overdue(self) -> int:
        """Messages with an expired grant of mediators that have had none accepted lately: a clock is wrong."""
        return self._overdue.total()

    def __len__(self) -> int:
        return len(self._bindings)

    def trust(self, secrets: Sequence[bytes]) -> None:
        """Whose grants are good from now on: a secret for each mediator. What is bound by another one's ends."""
        if tuple(secrets) == self._secrets:
            return
        self._secrets = tuple(secrets[:MAX_SECRETS])
        self._behind = {secret: behind for secret, behind in self._behind.items() if secret in self._secrets}
        self._accepted_at = {who: at for who, at in self._accepted_at.items() if who in self._secrets}
        self._overdue = Counter({who: count for who, count in self._overdue.items() if who in self._secrets})
        for binding in [b for b in self._bindings.values() if b.secret not in self._secrets]:
            self._forget(binding)

    def handle_control(
        self,
        data: bytes,
        source: SocketAddress,
        at_port: int,
        now: float,
        unix_now: float,
        *,
        at_pair: bool = False,
    ) -> list[Answer]:
        """Handle a relay message at `at_port`. No answer without a valid allocation.

        `at_pair`: the port is that of a pair with a stock app, which sends and receives there alone.
        """
        try:
            allocation = relay.peek_allocation(data)
            if allocation.peer_port != at_port or allocation.own_port not in self._ports:
                return []
            if allocation.own_port in self.unheld and not at_pair:
                return []
            opened = self._open(data, allocation)
        except RemoteError:
            return []
        if opened is None:
            return []
        message, secret, key = opened
        if not self._in_time(secret, allocation.expires_s, unix_now):
            return []
        if isinstance(message, relay.Confirm) and self._cookie_is_good(message.cookie, source, at_port, now):
            return self._bind(message, secret, key, source, now)
        if isinstance(message, relay.Bind | relay.Confirm):
            cookie = self._cookie(source, at_port, int(now // COOKIE_SLOT_S))
            return [Answer(at_port, source, relay.seal(relay.Cookie(message.transaction, cookie), key))]
        return []

    def clock_was_set(self) -> None:
        """The clock of `unix_now` has another reading: what grants showed about the old one is void."""
        self._behind.clear()
        self._accepted_at.clear()
        self._overdue.clear()
        self.clock_behind_s = self._shown = self._shown_from = 0.0

    def _in_time(self, secret: bytes, expires_s: int, unix_now: float) -> bool:
        """Whether a grant with a good MAC counts now, by this relay's clock and by what its mediator's grants showed.

        Once a grant that was made at time t is accepted, no grant of this mediator that ended by t is, although the
        relay's clock may be slow: so nobody uses a port that belongs to another member by now.
        """
        behind = expires_s - GRANT_TTL_S - unix_now
        if unix_now - self._shown_from >= GRANT_TTL_S:
            self.clock_behind_s, self._shown, self._shown_from = self._shown, 0.0, unix_now
        self._shown = max(self._shown, behind)
        self.clock_behind_s = max(self.clock_behind_s, behind)
        if behind > CLOCK_TOLERANCE_S:
            self.ahead += 1
            return False
        known = max(behind, self._behind.get(secret, 0.0))
        if expires_s <= unix_now + known:
            self.expired += 1
            if unix_now - self._accepted_at.get(secret, float("-inf")) > LATELY_S:
                self._overdue[secret] += 1
            return False
        self._behind[secret] = known
        self._accepted_at[secret] = unix_now
        self._overdue.pop(secret, None)
        return True

    def _open(
        self, data: bytes, allocation: relay.Allocation
    ) -> tuple[relay.RelayMessage, bytes, bytes] | None:
        """The message, the secret of its grant, and the grant's key; None: no trusted mediator made the grant."""
        for secret in self._secrets:
            key = allocation.key(secret)
            with contextlib.suppress(RemoteError):
                return relay.open_message(data, key), secret, key
        return None

    def flow(self, at_port: int, source: SocketAddress, now: float) -> Flow | None:
        """The destination of a WireGuard message from `source` at `at_port`; None: drop it without an answer."""
        sender = self._by_source.get((at_port, source))
        if sender is None or not self._alive(sender, now):
            return None
        receiver = self._bindings.get((sender.peer_port, sender.own_port))
        if receiver is None or not self._alive(receiver, now):
            return None
        return Flow(sender.own_port, receiver.source, sender.toll)

    def source_of(self, own_port: int, peer_port: int, now: float) -> SocketAddress | None:
        """The address to which the member with `own_port` is bound for `peer_port`; None: not bound."""
        binding = self._bindings.get((own_port, peer_port))
        return binding.source if binding is not None and self._alive(binding, now) else None

    def announce(self, own_port: int, peer_port: int, now: float, *, present: bool) -> list[Answer]:
        """Set whether a stock app is bound behind `peer_port`; a member bound for it is told when the app appears."""
        binding = self._bindings.get((own_port, peer_port))
        self.generation += 1
        if not present:
            self._present.discard((peer_port, own_port))
            if binding is not None:
                binding.peer_told = False
            return []
        self._present.add((peer_port, own_port))
        if binding is None or binding.peer_told or not self._alive(binding, now):
            return []
        binding.peer_told = True
        return [self._bound(binding)]

    def bindings(self) -> list[Binding]:
        """All bindings, for statistics."""
        return list(self._bindings.values())

    def carried(self, now: float) -> list[tuple[int, int, int]]:
        """(relay port, relay port, bytes passed both ways) of each pair of members that are both bound."""
        found = []
        for (own, peer), binding in self._bindings.items():
            other = self._bindings.get((peer, own)) if own < peer else None
            if other is not None and self._alive(binding, now) and self._alive(other, now):
                found.append((own, peer, binding.toll.passed + other.toll.passed))
        return found

    def expire(self, now: float) -> None:
        """Remove bindings without a refresh; to be called every few seconds."""
        for binding in [b for b in self._bindings.values() if not self._alive(b, now)]:
            self._forget(binding)

    def _bind(
        self, message: relay.Confirm, secret: bytes, key: bytes, source: SocketAddress, now: float
    ) -> list[Answer]:
        own, peer = message.allocation.own_port, message.allocation.peer_port
        binding = self._bindings.get((own, peer))
        if binding is None:
            if len(self._bindings) >= MAX_BINDINGS or self._per_member[own] >= MAX_BINDINGS_PER_MEMBER:
                return []
            toll = self.ledger.toll(own, peer, now)
            binding = Binding(own, peer, source, secret, key, message.transaction, now, toll)
            self._bindings[own, peer] = binding
            self._per_member[own] += 1
            self._attach(binding, source)
        elif binding.source != source:
            self._by_source.pop((peer, binding.source), None)
            self._attach(binding, source)
        binding.secret, binding.key = secret, key
        binding.transaction, binding.refreshed_at = message.transaction, now
        other = self._bindings.get((peer, own))
        if other is not None and not self._alive(other, now):
            other = None
        binding.peer_told = other is not None or (peer, own) in self._present
        answers = [self._bound(binding)]
        if other is not None and not other.peer_told:
            other.peer_told = True
            answers.append(self._bound(other))
        return answers

    def _attach(self, binding: Binding, source: SocketAddress) -> None:
        previous = self._by_source.get((binding.peer_port, source))
        if previous is not None and previous is not binding:
            self._forget(previous)  # a NAT gave the address to another member: the old binding is void
        binding.source = source
        self._by_source[binding.peer_port, source] = binding
        self.generation += 1

    def _forget(self, binding: Binding) -> None:
        del self._bindings[binding.own_port, binding.peer_port]
        self._by_source.pop((binding.peer_port, binding.source), None)
        self._per_member[binding.own_port] -= 1
        other = self._bindings.get((binding.peer_port, binding.own_port))
        if other is not None:
            other.peer_told = False
        self.generation += 1

    def _bound(self, binding: Binding) -> Answer:
        flags = relay.BoundFlag.PEER_BOUND if binding.peer_told else relay.BoundFlag.NONE
        message = relay.Bound(binding.transaction, flags, binding.source)
        return Answer(binding.peer_port, binding.source, relay.seal(message, binding.key))

    def _alive(self, binding: Binding, now: float) -> bool:
        return now - binding.refreshed_at <= BINDING_TTL_S

    def _cookie(self, source: SocketAddress, at_port: int, slot: int) -> bytes:
        data = pack_address(source) + at_port.to_bytes(2, "big") + slot.to_bytes(8, "big")
        return hashlib.blake2s(data, key=self._cookie_secret, digest_size=relay.COOKIE_LEN).digest()

    def _cookie_is_good(self, cookie: bytes, source: SocketAddress, at_port: int, now: float) -> bool:
        slot = int(now // COOKIE_SLOT_S)
        return any(
            hmac.compare_digest(cookie, self._cookie(source, at_port, candidate))
            for candidate in (slot, slot - 1)
            if candidate >= 0
        )
