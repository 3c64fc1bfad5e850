"""What the last minutes of each peer were like: round trips and traffic, for plots. Pure: takes the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from netctl.wire.agentrequests import PeerState

WINDOW_S = 180.0
"""What a plot shows."""
MIN_SPAN_S = 0.5
"""Between two samples: what changes is looked at at once, and a rate over less than that would be noise."""
MAX_SAMPLES = 200
"""One a second for the window, and some."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Rates in bytes a second since the look before; `rtt_ms` None: not known."""

    at: float
    rtt_ms: float | None
    rx_rate: float
    tx_rate: float


@dataclass(slots=True)
class _Peer:
    at: float
    rx: int
    tx: int
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))


class PeerHistory:
    """Of all peers, by name."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}

    def observe(self, peers: Iterable[PeerState], now: float) -> None:
        """Look at them, about once a second. A counter that fell belongs to a new engine."""
        seen = set()
        for peer in peers:
            seen.add(peer.name)
            before = self._peers.get(peer.name)
            if before is None:
                before = self._peers[peer.name] = _Peer(now, peer.rx_bytes, peer.tx_bytes)
                before.samples.append(Sample(now, peer.rtt_ms, 0.0, 0.0))
                continue
            span = now - before.at
            if span < MIN_SPAN_S:
                continue
            rx, tx = _rate(before.rx, peer.rx_bytes, span), _rate(before.tx, peer.tx_bytes, span)
            before.samples.append(Sample(now, peer.rtt_ms, rx, tx))
            before.at, before.rx, before.tx = now, peer.rx_bytes, peer.tx_bytes
        for gone in self._peers.keys() - seen:
            del self._peers[gone]

    def last(self, name: str) -> Sample | None:
        """The newest look at a peer."""
        peer = self._peers.get(name)
        return peer.samples[-1] if peer is not None else None

    def of(self, name: str, now: float) -> tuple[Sample, ...]:
        """What the window holds of a peer, oldest first."""
        peer = self._peers.get(name)
        return tuple(one for one in peer.samples if one.at >= now - WINDOW_S) if peer is not None else ()


def _rate(before: int, after: int, span: float) -> float:
    return (after - before if after >= before else after) / span
