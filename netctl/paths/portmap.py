"""Keeps one port of the router mapped to ours: chooses the protocol, renews and removes the mapping. Without I/O.

state     event                                  next
OFF       a gateway and a port are known         ASKING    PCP, then NAT-PMP, then UPnP
ASKING    a protocol grants                      MAPPED
ASKING    all refuse or are silent               RESTING
RESTING   the rest is over, or the host moved    ASKING
MAPPED    half of the lease is over, a check     RENEWING  by the protocol that granted it
MAPPED    the router has lost its mappings       RENEWING
RENEWING  granted                                MAPPED
RENEWING  refused, some lease is left            MAPPED    at half of what is left again
RENEWING  refused, none is left                  ASKING    the mapping is gone
any       another gateway or port, switched off  OFF       the old mapping is removed, then perhaps ASKING
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from netctl.model.deadlines import earliest
from netctl.paths.mapping import (
    CHECK_REST_S,
    LEASE_LONGEST_S,
    LEASE_SHORTEST_S,
    PERMANENT_CHECK_S,
    RENEW_REST_S,
    REST_FIRST_S,
    REST_LONGEST_S,
    Asker,
    Gateway,
    Granted,
    Mapping,
    MappingChanged,
    PortEffect,
    ProtocolName,
    Refused,
)
from netctl.paths.pcpclient import NatPmpAsker, PcpAsker
from netctl.paths.upnpclient import UpnpAsker

PROTOCOLS: tuple[ProtocolName, ...] = ("PCP", "NAT-PMP", "UPnP")
"""The protocols in the order in which they are tried: the newest first."""


class MapState(Enum):
    """See the table above."""

    OFF = "off"
    ASKING = "asking"
    MAPPED = "mapped"
    RENEWING = "renewing"
    RESTING = "resting"


@dataclass(frozen=True, slots=True)
class MapStatus:
    """For `doctor`: the mapping, its remaining lease (None: no end), and why each other protocol failed."""

    state: MapState
    gateway: Gateway | None = None
    mapping: Mapping | None = None
    expires_in_s: float | None = None
    refused: tuple[tuple[ProtocolName, str], ...] = ()


class PortMapper:
    """One mapping for one port at one router. `now`: monotonic seconds; methods return effects in order."""

    def __init__(self, secret: bytes, rng: Callable[[int], bytes]) -> None:
        """`secret`: 32 bytes that this host stores, from which PCP's nonces are derived."""
        self._secret = secret
        self._rng = rng
        self._tickets = itertools.count()
        self.state = MapState.OFF
        self._gateway: Gateway | None = None
        self._port = 0
        self._askers: list[Asker] = []
        """The protocols still to be tried in this round."""
        self._asker: Asker | None = None
        self._mapping: Mapping | None = None
        self._expires_at: float | None = None
        self._due: float | None = None
        self._rest_s = REST_FIRST_S
        self._checked_at = float("-inf")
        self._reasons: dict[ProtocolName, Refused] = {}

    def status(self, now: float) -> MapStatus:
        """The present status."""
        left = None if self._expires_at is None else max(self._expires_at - now, 0.0)
        reasons = tuple((name, one.reason) for name, one in self._reasons.items())
        return MapStatus(self.state, self._gateway, self._mapping, left, reasons)

    def aim(self, gateway: Gateway | None, port: int, now: float) -> list[PortEffect]:
        """Keep `port` open at this gateway; None or 0: keep none. Effects that remove an old mapping come first."""
        if not port:
            gateway = None
        if (gateway, port if gateway else 0) == (self._gateway, self._port):
            return []
        effects = self._drop(reachable=gateway is None or gateway == self._gateway)
        self._gateway, self._port = gateway, port if gateway is not None else 0
        self._rest_s = REST_FIRST_S
        return effects + (self._ask_all(now) if gateway is not None else [])

    def close(self) -> list[PortEffect]:
        """End with the process, while the tunnels stay: a mapping with a lease stays, too; one without is removed."""
        if self._mapping is None or self._mapping.lifetime_s:
            return []
        return self._drop(reachable=True)

    def check(self, now: float) -> list[PortEffect]:
        """Ask again, but not too often, after an event that may have ended the mapping or made one possible."""
        if now - self._checked_at < CHECK_REST_S:
            return []
        if self.state is MapState.MAPPED:
            self._checked_at = now
            return self._renew(now)
        if self.state is MapState.RESTING:
            self._checked_at = now
            return self._ask_all(now)
        return []

    def handle_router(self, data: bytes, now: float) -> list[PortEffect]:
        """Take a datagram of the router's PCP port, or its announcement."""
        if self._asker is None:
            return []
        lost = self._asker.handle_router(data, now)
        if lost and self.state is MapState.MAPPED:
            return self._renew(now)
        return self._proceed(now)

    def handle_unreachable(self, now: float) -> list[PortEffect]:
        """The router has reported its PCP port as closed."""
        if self._asker is None:
            return []
        self._asker.handle_unreachable()
        return self._proceed(now)

    def handle_search(self, data: bytes, now: float) -> list[PortEffect]:
        """Take the router's answer to our search; the shell has checked that the router sent it."""
        return [] if self._asker is None else self._asker.handle_search(data, now) + self._proceed(now)

    def handle_fetched(self, ticket: int, status: int, body: bytes, now: float) -> list[PortEffect]:
        """Take the answer of an HTTP exchange; status 0: it failed."""
        if self._asker is None:
            return []
        return self._asker.handle_fetched(ticket, status, body, now) + self._proceed(now)

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return earliest(self._due, self._asker.next_timer() if self._asker is not None else None)

    def handle_timer(self, now: float) -> list[PortEffect]:
        """Perform what is due."""
        if self._due is not None and now >= self._due:
            self._due = None
            if self.state is MapState.RESTING:
                return self._ask_all(now)
            if self.state is MapState.MAPPED:
                return self._renew(now)
        if self._asker is None or self.state not in (MapState.ASKING, MapState.RENEWING):
            return []
        return self._asker.handle_timer(now) + self._proceed(now)

    # -------------------------------------------------------------------------------------------------

    def _drop(self, *, reachable: bool) -> list[PortEffect]:
        effects: list[PortEffect] = []
        if self._mapping is not None:
            if reachable and self._asker is not None:
                effects += self._asker.remove()
            effects.append(MappingChanged(None))
        self._mapping = self._expires_at = self._due = self._asker = None
        self._askers = []
        self._reasons = {}
        self.state = MapState.OFF
        return effects

    def _ask_all(self, now: float) -> list[PortEffect]:
        assert self._gateway is not None
        self.state = MapState.ASKING
        self._due = None
        self._reasons = {}
        self._askers = [
            PcpAsker(self._gateway, self._port, self._secret),
            NatPmpAsker(self._gateway, self._port),
            UpnpAsker(self._gateway, self._port, self._rng, self._tickets),
        ]
        return self._ask_next(now)

    def _ask_next(self, now: float) -> list[PortEffect]:
        if not self._askers:
            self._asker = None
            self.state = MapState.RESTING
            self._due = now + self._rest_s
            self._rest_s = min(2 * self._rest_s, REST_LONGEST_S)
            return []
        self._asker = self._askers.pop(0)
        return self._asker.begin(self._port, now) + self._proceed(now)

    def _renew(self, now: float) -> list[PortEffect]:
        assert self._asker is not None
        assert self._mapping is not None
        self.state = MapState.RENEWING
        self._due = None
        return self._asker.begin(self._mapping.external.port, now) + self._proceed(now)

    def _proceed(self, now: float) -> list[PortEffect]:
        """Take the outcome of the present exchange, if it has ended."""
        asker = self._asker
        if asker is None or asker.outcome is None or self.state not in (MapState.ASKING, MapState.RENEWING):
            return []
        if isinstance(asker.outcome, Granted):
            return self._granted(asker, asker.outcome, now)
        self._reasons[asker.name] = asker.outcome
        if self.state is MapState.ASKING:
            return self._ask_next(now)
        left = float("inf") if self._expires_at is None else self._expires_at - now
        if self._expires_at is not None and left > RENEW_REST_S:
            self.state = MapState.MAPPED
            self._due = now + max(left / 2, RENEW_REST_S)
            return []
        self._mapping = self._expires_at = None
        return [MappingChanged(None), *self._ask_all(now)]

    def _granted(self, asker: Asker, granted: Granted, now: float) -> list[PortEffect]:
        self.state = MapState.MAPPED
        self._askers = []
        self._reasons.pop(asker.name, None)
        self._rest_s = REST_FIRST_S
        if granted.lifetime_s:
            lifetime = min(max(granted.lifetime_s, LEASE_SHORTEST_S), LEASE_LONGEST_S)
            self._expires_at = now + lifetime
            self._due = now + lifetime / 2
        else:
            self._expires_at = None
            self._due = now + PERMANENT_CHECK_S
        before = self._mapping
        self._mapping = Mapping(asker.name, self._port, granted.external, granted.lifetime_s)
        same = before is not None and before.external == granted.external
        return [] if same else [MappingChanged(self._mapping)]
