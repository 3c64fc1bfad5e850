"""Endpoints by name: when each name is looked up, and which of its addresses is used. Sans-IO.

The states of a name:

state     event              next      looked up again ASKING    addresses          KNOWN     when a peer that is
called by it falls silent, then each `AGAIN_S` ASKING    no answer, new     UNKNOWN   with a back-off ASKING    no
answer, known   KNOWN     with a back-off, while the peer is silent KNOWN     a silent peer      ASKING UNKNOWN   the
back-off ends  ASKING UNKNOWN   wanted for a plan  ASKING any       dropped            gone

While a peer is heard, its endpoint is the one from which WireGuard hears it, and its name is not looked up. The last
addresses of a name are kept while the resolver gives no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from netctl.model.addresses import Endpoint, SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths.datawatch import is_upkeep

AGAIN_S = 60.0
"""Seconds between two lookups for a silent peer, and for this host's own names: most dynamic names have a TTL of
60-300 s.
"""
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 10.0
"""Longest back-off in seconds: a resolver that is back is noticed within it; a lookup costs it two packets."""
POKE_REST_S = 1.0
"""Seconds between two lookups because the network has changed: links come up in bursts."""
SILENT_S = 35.0
"""Seconds until an idle peer counts as silent: both ends send a keepalive every 25 s."""
UNANSWERED_S = 15.0
"""Seconds until a peer counts as silent that we send packets to: WireGuard answers after 10 s and gives a peer up
after 5 more (Keepalive-Timeout, Rekey-Timeout).
"""


class NameState(Enum):
    """See the table above."""

    UNKNOWN = "unknown"
    ASKING = "asking"
    KNOWN = "known"


@dataclass(slots=True)
class _Name:
    state: NameState = NameState.UNKNOWN
    peers: frozenset[WireGuardKey] = frozenset()
    """The peers whose endpoint is this name."""
    own: bool = False
    followed: bool = False
    """Whether the host's document uses the name: it is looked up again without being asked for."""
    addresses: tuple[SocketAddress, ...] = ()
    chosen: SocketAddress | None = None
    failures: int = 0
    asked_at: float = float("-inf")
    wanted: bool = False
    """Whether the name is to be looked up at once."""

    def next_at(self, silent_since: float) -> float:
        """When to look up again for a peer that is silent since then: soon the first time, every AGAIN_S later."""
        if self.failures:
            return self.asked_at + min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(self.failures - 1, 16))
        return self.asked_at + (AGAIN_S if self.asked_at >= silent_since else RETRY_MAX_S)


@dataclass(slots=True)
class _Peer:
    """What was received from a peer."""

    received: int = 0
    sent: int = 0
    heard_at: float = float("-inf")
    unanswered_since: float | None = None
    """Since when we send the peer more than keepalives and receive nothing."""
    live: bool = False
    there: bool = False
    """Whether the engine has this peer."""

    def silent_since(self, now: float) -> float | None:
        """Since when expected packets of the peer are missing; None: it is heard."""
        since = self.heard_at + SILENT_S
        if self.unanswered_since is not None:
            since = min(since, self.unanswered_since + UNANSWERED_S)
        return since if since <= now or not self.live else None


@dataclass(slots=True)
class Lookups:
    """The names of one host. `now`: monotonic seconds."""

    _names: dict[Endpoint, _Name] = field(default_factory=dict)
    _peers: dict[WireGuardKey, _Peer] = field(default_factory=dict)

    def want(self, endpoints: Iterable[Endpoint]) -> None:
        """Look these names up at once, if they are unknown and not followed."""
        for endpoint in endpoints:
            name = self._names.setdefault(endpoint, _Name())
            if name.state is NameState.UNKNOWN and not name.followed:
                name.wanted = True

    def follow(self, peers: Mapping[Endpoint, frozenset[WireGuardKey]], own: Iterable[Endpoint]) -> None:
        """Follow these names from now on, and forget all others. `own`: names of this host itself."""
        mine = frozenset(own)
        kept = {endpoint: self._names.get(endpoint, _Name()) for endpoint in [*peers, *mine]}
        for endpoint, name in kept.items():
            name.peers, name.own, name.followed = peers.get(endpoint, frozenset()), endpoint in mine, True
        self._names = kept
        called = frozenset().union(*peers.values()) if peers else frozenset()
        self._peers = {key: self._peers.get(key, _Peer()) for key in called}

    def observe(
        self, statuses: Mapping[WireGuardKey, PeerStatus], live: frozenset[WireGuardKey], now: float
    ) -> None:
        """Take the engine's byte counters, about once a second."""
        for key, peer in self._peers.items():
            status = statuses.get(key)
            peer.there = status is not None
            if status is None:
                peer.live = False
                continue
            came, went = status.rx_bytes - peer.received, status.tx_bytes - peer.sent
            peer.received, peer.sent, peer.live = status.rx_bytes, status.tx_bytes, key in live
            if came:
                peer.heard_at, peer.unanswered_since = now, None
            elif peer.unanswered_since is None and went > 0 and not is_upkeep(came, went):
                peer.unanswered_since = now

    def network_changed(self) -> None:
        """Links, addresses or routes have changed: names whose last lookup failed are looked up again now."""
        for name in self._names.values():
            if name.failures and name.followed:
                name.wanted = True

    def begin(self, now: float) -> list[Endpoint]:
        """The names that are due for a lookup; `answered` takes each answer."""
        due = [endpoint for endpoint, name in self._names.items() if self._due(name, now) <= now]
        for endpoint in due:
            name = self._names[endpoint]
            name.state, name.asked_at, name.wanted = NameState.ASKING, now, False
        return due

    def answered(
        self, endpoint: Endpoint, addresses: tuple[SocketAddress, ...], now: float
    ) -> frozenset[WireGuardKey] | None:
        """Take the resolver's answer, empty where there is none. None: nothing has changed.

        Otherwise returns the silent peers of the engine whose endpoint changes by this answer.
        """
        name = self._names.get(endpoint)
        if name is None or name.state is not NameState.ASKING:
            return None
        if not addresses:
            name.failures += 1
            name.state = NameState.KNOWN if name.chosen is not None else NameState.UNKNOWN
            return None
        name.failures = 0
        name.state = NameState.KNOWN
        before, name.addresses = name.chosen, addresses
        name.chosen = self._choose(name, before, now)
        if name.chosen == before:
            return None
        there = (key for key in name.peers if key in self._peers and self._peers[key].there)
        return frozenset(key for key in there if self._peers[key].silent_since(now) is not None)

    def _choose(self, name: _Name, before: SocketAddress | None, now: float) -> SocketAddress:
        """The address that was used last, if the name still has it and it answers; else the next of its addresses."""
        addresses = name.addresses
        if before is None or before not in addresses:
            return addresses[0]
        if name.own or any(key in self._peers and self._peers[key].live for key in name.peers):
            return before
        return addresses[(addresses.index(before) + 1) % len(addresses)]

    def resolved(self) -> dict[str, SocketAddress]:
        """The address in use for each name, by ``str(Endpoint)``."""
        known = ((str(endpoint), name.chosen) for endpoint, name in self._names.items())
        return {text: chosen for text, chosen in known if chosen is not None}

    def pending(self, endpoints: Iterable[Endpoint]) -> bool:
        """Whether one of these names is being looked up for the first time, or is about to be."""
        names = (self._names.get(endpoint) for endpoint in endpoints)
        return any(
            name is not None
            and name.chosen is None
            and (name.wanted or (name.state is NameState.ASKING and not (name.failures and name.followed)))
            for name in names
        )

    def next_timer(self, now: float) -> float | None:
        """When `begin` is due, or None. `observe` finds a peer that falls silent, which needs no timer."""
        due = min((self._due(name, now) for name in self._names.values()), default=float("inf"))
        return due if due < float("inf") else None

    def _due(self, name: _Name, now: float) -> float:
        if name.state is NameState.ASKING:
            return float("inf")
        if name.wanted:
            return name.asked_at + POKE_REST_S if name.followed else now
        if not name.followed:
            return float("inf")
        if name.state is NameState.UNKNOWN or name.own:
            return name.next_at(float("-inf"))
        silent = (self._peers[key].silent_since(now) for key in name.peers if key in self._peers)
        return min((name.next_at(since) for since in silent if since is not None), default=float("inf"))
